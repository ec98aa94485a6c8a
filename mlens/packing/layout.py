"""How attention goes over a row on a CPU: trunks by themselves, and bundles of branches with their trunk.

A dense mask would make a row pay for the square of its length. A trunk is plain causal attention; a bundle of some
neighbouring branches sees its trunk's beginning without any mask, and only the rest of what one of them sees with one.
So a row of one trunk costs trunk² / 2 + branches · trunk pairs, and no [tokens, tokens] tensor exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

# A stretch of the row, or [n, m] places of it, where the number of the row's tokens stands for padding.
Places = slice | torch.Tensor

# Bundles of so many query tokens ran fastest (two cores, 30-token branches); more of them see more that is masked.
BUNDLE = 256
# Trunks from here on are long enough to be products of their own; shorter ones are padded to one another.
LONG = 512
# Segments whose lengths are within this factor share a product.
SIMILAR = 1.5
# The most (query, key) pairs of a padded product.
MOST_PAIRS = 1 << 22


@dataclass(frozen=True)
class Product:
    """One attention product over places of a row.

    query: the tokens that look, [n, q] or a stretch (n = 1);
    key: what they look at through `mask`, [n, k] or stretches to be joined; empty where query is causal (sees itself
    up to each token);
    mask [n, 1, q, k] bool: what each query token sees of `key`, or None where it is causal;
    common: a stretch that all query tokens see whole, beside `key`, or None;
    read: whether logits of any of its query tokens are needed: else nothing reads what the last layer makes of them.
    Every token of a row is a query token of exactly one product, and a key token of a product at most once.
    """

    query: Places
    key: tuple[Places, ...] = ()
    mask: torch.Tensor | None = None
    common: slice | None = None
    read: bool = True


@dataclass(frozen=True)
class Layout:
    products: tuple[Product, ...]


@dataclass(frozen=True)
class Segments:
    """Where a row's segments stand. start, length [t]: of its trunks; tail_start, tail_length, tail_seen, tail_trunk
    [b]: of its tails, each behind its trunk and the tails before it: how many of the trunk's tokens it sees (not
    falling along a trunk), and which trunk it is."""

    start: np.ndarray
    length: np.ndarray
    tail_start: np.ndarray
    tail_length: np.ndarray
    tail_seen: np.ndarray
    tail_trunk: np.ndarray


def arrange(segments: Segments, spans: np.ndarray, keep: np.ndarray) -> Layout:
    """The products of a row with these segments and `spans` [tokens, 3, 2], whose logits are needed at `keep`."""
    kept = torch.zeros(len(spans) + 1, dtype=torch.bool)
    kept[torch.from_numpy(keep)] = True
    products = (*_trunks(segments, len(spans)), *_tails(segments, spans))
    return Layout(tuple(replace(product, read=bool(kept[product.query].any())) for product in products))


def _trunks(segments: Segments, tokens: int) -> Iterator[Product]:
    order = np.argsort(segments.length, kind="stable")
    for members in _similar(order, segments.length[order], segments.length[order] ** 2):
        start, length = segments.start[members], segments.length[members]
        if len(members) == 1:
            yield Product(slice(int(start[0]), int(start[0] + length[0])))
        else:
            yield Product(torch.from_numpy(_padded(start, length, tokens)))


def _similar(order: np.ndarray, sizes: np.ndarray, pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Cut `order`, whose members have these ascending sizes, where they differ too much or become too many."""
    first = 0
    for i in range(1, len(order) + 1):
        whole = i < len(order) and sizes[i] <= SIMILAR * sizes[first] and sizes[i] < LONG
        if not (whole and (i + 1 - first) * pairs[i] <= MOST_PAIRS):
            yield order[first:i]
            first = i


def _padded(start: np.ndarray, length: np.ndarray, padding: int) -> np.ndarray:
    """[n, longest] the places of n stretches, with `padding` behind the shorter ones."""
    place = np.arange(int(length.max()))
    return np.where(place < length[:, None], start[:, None] + place, padding)


def _tails(segments: Segments, spans: np.ndarray) -> Iterator[Product]:
    if not len(segments.tail_start):
        return
    first, last, turn = _bundles(segments)
    trunk = segments.tail_trunk[first]
    start = segments.tail_start[first]
    stop = segments.tail_start[last] + segments.tail_length[last]
    seen, least = segments.tail_seen[last], segments.tail_seen[first]
    long = segments.length[trunk] >= LONG
    for i in np.flatnonzero(long):
        yield _long_bundle(int(segments.start[trunk[i]]), int(least[i]), int(seen[i]), slice(start[i], stop[i]), spans)
    short = np.flatnonzero(~long)
    # Bundles of one trunk never share a product, since each would be padded with the same keys.
    order = short[np.lexsort([stop[short] - start[short], seen[short], turn[short]])]
    kind = np.stack([turn, _class(seen), _class(stop - start)], axis=1)[order]
    pairs = ((stop - start) * (seen + stop - start))[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(kind, axis=0) != 0).any(axis=1)
    for group in np.split(np.arange(len(order)), np.flatnonzero(new)[1:]) if len(order) else ():
        for members in np.array_split(group, -(-int(pairs[group].max()) * len(group) // MOST_PAIRS)):
            own = order[members]
            if len(own):
                yield _short_bundles(segments.start[trunk[own]], seen[own], start[own], stop[own] - start[own], spans)


def _class(size: np.ndarray) -> np.ndarray:
    return np.ceil(np.log(np.maximum(size, 1)) / np.log(SIMILAR)).astype(np.int64)


def _bundles(segments: Segments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbouring tails of one trunk: the first and last tail of each bundle, and its number within its trunk."""
    first, turn = [], []
    used = trunk = -1
    for i, (owner, length) in enumerate(zip(segments.tail_trunk, segments.tail_length, strict=True)):
        # A short trunk is cheap to look at, so its branches needn't look past one another.
        most = BUNDLE if segments.length[owner] >= LONG else BUNDLE // 4
        if owner != trunk:
            first.append(i)
            turn.append(0)
            used, trunk = int(length), owner
        elif used + length > most:
            first.append(i)
            turn.append(turn[-1] + 1)
            used = int(length)
        else:
            used += int(length)
    last = [*(i - 1 for i in first[1:]), len(segments.tail_trunk) - 1]
    return np.array(first), np.array(last), np.array(turn)


def _long_bundle(trunk: int, least: int, seen: int, query: slice, spans: np.ndarray) -> Product:
    query = slice(int(query.start), int(query.stop))
    band = slice(trunk + least, trunk + seen)
    key = np.concatenate([np.arange(band.start, band.stop), np.arange(query.start, query.stop)])
    mask = _sees(spans[query][None], key[None])
    return Product(query, (band, query), torch.from_numpy(mask[:, None]), slice(trunk, trunk + least))


def _short_bundles(
    trunk: np.ndarray, seen: np.ndarray, start: np.ndarray, length: np.ndarray, spans: np.ndarray
) -> Product:
    tokens = len(spans)
    query = _padded(start, length, tokens)
    key = np.concatenate([_padded(trunk, seen, tokens), query], axis=1)
    # Padding must see something: a softmax over nothing is not a number.
    mask = _sees(spans[np.minimum(query, tokens - 1)], key) | (query == tokens)[:, :, None]
    return Product(torch.from_numpy(query), (torch.from_numpy(key),), torch.from_numpy(mask[:, None]))


def _sees(spans: np.ndarray, key: np.ndarray) -> np.ndarray:
    """[n, q, k] bool: which of the places key [n, k] tokens with spans [n, q, 3, 2] see."""
    place = key[:, None, :]
    sees = np.zeros((*spans.shape[:2], key.shape[1]), dtype=bool)
    for span in range(3):
        sees |= (place >= spans[:, :, span, :1]) & (place < spans[:, :, span, 1:])
    return sees
