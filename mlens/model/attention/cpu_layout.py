"""The layout of a row for attention on a CPU: prefixes by themselves, and bundles of suffixes with their prefix.

A dense mask would make a row pay for the square of its length. A prefix is plain causal attention; a bundle of
neighbouring suffixes attends to the beginning of its prefix without a mask, and needs one only for what its suffixes
see differently. So a row of one prefix costs prefix² / 2 + suffixes · prefix pairs, and no [tokens, tokens] tensor
exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from mlens.packing.row import Row

# A slice of the row, or [n, m] places in it, where the number of the row's tokens stands for padding.
Places = slice | torch.Tensor

# Query tokens of a bundle: this many ran fastest (two cores, 30-token suffixes); larger bundles mask more pairs.
BUNDLE = 256
# Prefixes of this many tokens or more are products by themselves; shorter ones are padded to one another.
LONG = 512
# Segments whose lengths are within this factor share a product.
SIMILAR = 1.5
# The most (query, key) pairs of a padded product.
MOST_PAIRS = 1 << 22


@dataclass(frozen=True)
class Product:
    """One attention product over places of a row.

    Every token of a row is a query token of exactly one product, and a key token of a product at most once.

    query: the tokens that attend, [n, q] or a slice (n = 1).
    key: what they attend to through `mask`, [n, k] or slices to be joined; empty where query is causal (each token
        attends to those of `query` up to itself).
    mask [n, 1, q, k]: bool, which tokens of `key` each query token sees; None where query is causal.
    common: a slice that every query token sees completely, besides `key`, or None.
    read: whether the logits of any query token are needed; if not, nothing reads the product's last layer.
    """

    query: Places
    key: tuple[Places, ...] = ()
    mask: torch.Tensor | None = None
    common: slice | None = None
    read: bool = True


@dataclass(frozen=True)
class CpuLayout:
    products: tuple[Product, ...]


@dataclass(frozen=True)
class _Segments:
    """Where the prefixes and suffixes of a row are. Each suffix follows its prefix and that prefix's earlier suffixes.

    prefix_start, prefix_length [p]: places and lengths of the prefixes.
    suffix_start, suffix_length [s]: places and lengths of the suffixes.
    suffix_prefix [s]: which prefix each suffix continues.
    suffix_seen [s]: how many tokens of its prefix it sees; never falls from one suffix of a prefix to the next.
    """

    prefix_start: np.ndarray
    prefix_length: np.ndarray
    suffix_start: np.ndarray
    suffix_length: np.ndarray
    suffix_prefix: np.ndarray
    suffix_seen: np.ndarray


def with_cpu_layout(row: Row) -> Row:
    """The row with the layout of its spans; one without spans, or with a layout, stays as it is."""
    if row.spans is None or row.layout is not None:
        return row
    return replace(row, layout=cpu_layout(row.spans.numpy(), row.keep.numpy()))


def cpu_layout(spans: np.ndarray, keep: np.ndarray) -> CpuLayout:
    """The products of a row whose tokens see `spans` [tokens, s, 2] and whose logits are needed at `keep` [k]."""
    segments = _segments(spans)
    kept = torch.zeros(len(spans) + 1, dtype=torch.bool)
    kept[torch.from_numpy(keep)] = True
    products = (*_prefix_products(segments, len(spans)), *_suffix_products(segments, spans))
    return CpuLayout(tuple(replace(product, read=bool(kept[product.query].any())) for product in products))


def _segments(spans: np.ndarray) -> _Segments:
    spans = spans.astype(np.int64)
    # A token of an answer chain sees its suffix from the first token (and from 0 where there is no chain).
    in_chain = spans[:, 1, 1] > 0
    begin = np.where(in_chain, spans[:, 1, 0], spans[:, 2, 0])
    start = np.flatnonzero(np.diff(begin, prepend=-1))
    length = np.diff(start, append=len(spans))
    is_suffix = (spans[start, 0, 1] > 0) | np.maximum.reduceat(in_chain, start)
    suffix = start[is_suffix]
    return _Segments(
        prefix_start=start[~is_suffix],
        prefix_length=length[~is_suffix],
        suffix_start=suffix,
        suffix_length=length[is_suffix],
        suffix_prefix=(np.cumsum(~is_suffix) - 1)[is_suffix],
        suffix_seen=spans[suffix, 0, 1] - spans[suffix, 0, 0],
    )


def _prefix_products(segments: _Segments, tokens: int) -> Iterator[Product]:
    order = np.argsort(segments.prefix_length, kind="stable")
    for members in _similar(order, segments.prefix_length[order], segments.prefix_length[order] ** 2):
        start, length = segments.prefix_start[members], segments.prefix_length[members]
        if len(members) == 1:
            yield Product(slice(int(start[0]), int(start[0] + length[0])))
        else:
            yield Product(torch.from_numpy(_padded(start, length, tokens)))


def _similar(order: np.ndarray, sizes: np.ndarray, pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Cut `order`, whose members have these ascending sizes, where they differ too much or become too many."""
    first = 0
    for i in range(1, len(order) + 1):
        joins = i < len(order) and sizes[i] <= SIMILAR * sizes[first] and sizes[i] < LONG
        if not (joins and (i + 1 - first) * pairs[i] <= MOST_PAIRS):
            yield order[first:i]
            first = i


def _padded(start: np.ndarray, length: np.ndarray, padding: int) -> np.ndarray:
    """[n, longest] the places of n slices, with `padding` behind the shorter ones."""
    place = np.arange(int(length.max()))
    return np.where(place < length[:, None], start[:, None] + place, padding)


def _suffix_products(segments: _Segments, spans: np.ndarray) -> Iterator[Product]:
    if not len(segments.suffix_start):
        return
    first, last, turn = _bundles(segments)
    prefix = segments.suffix_prefix[first]
    prefix_start = segments.prefix_start[prefix]
    start = segments.suffix_start[first]
    stop = segments.suffix_start[last] + segments.suffix_length[last]
    seen, least = segments.suffix_seen[last], segments.suffix_seen[first]
    long = segments.prefix_length[prefix] >= LONG
    for i in np.flatnonzero(long):
        yield _long_bundle(int(prefix_start[i]), int(least[i]), int(seen[i]), slice(start[i], stop[i]), spans)
    short = np.flatnonzero(~long)
    # Bundles of one prefix never share a product, since each would be padded with the same keys.
    order = short[np.lexsort([stop[short] - start[short], seen[short], turn[short]])]
    kind = np.stack([turn, _size_class(seen), _size_class(stop - start)], axis=1)[order]
    pairs = ((stop - start) * (seen + stop - start))[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(kind, axis=0) != 0).any(axis=1)
    for group in np.split(np.arange(len(order)), np.flatnonzero(new)[1:]) if len(order) else ():
        for part in np.array_split(group, -(-int(pairs[group].max()) * len(group) // MOST_PAIRS)):
            members = order[part]
            if len(members):
                length = stop[members] - start[members]
                yield _short_bundles(prefix_start[members], seen[members], start[members], length, spans)


def _size_class(size: np.ndarray) -> np.ndarray:
    return np.ceil(np.log(np.maximum(size, 1)) / np.log(SIMILAR)).astype(np.int64)


def _bundles(segments: _Segments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbouring suffixes of one prefix: the first and last suffix of each bundle, and its number in its prefix."""
    first, turn = [], []
    used = current = -1
    for i, (prefix, length) in enumerate(zip(segments.suffix_prefix, segments.suffix_length, strict=True)):
        # A short prefix is cheap to attend to, so its suffixes needn't mask one another.
        most = BUNDLE if segments.prefix_length[prefix] >= LONG else BUNDLE // 4
        if prefix != current:
            first.append(i)
            turn.append(0)
            used, current = int(length), prefix
        elif used + length > most:
            first.append(i)
            turn.append(turn[-1] + 1)
            used = int(length)
        else:
            used += int(length)
    last = [*(i - 1 for i in first[1:]), len(segments.suffix_prefix) - 1]
    return np.array(first), np.array(last), np.array(turn)


def _long_bundle(prefix_start: int, least: int, seen: int, query: slice, spans: np.ndarray) -> Product:
    query = slice(int(query.start), int(query.stop))
    band = slice(prefix_start + least, prefix_start + seen)
    key = np.concatenate([np.arange(band.start, band.stop), np.arange(query.start, query.stop)])
    mask = _sees(spans[query][None], key[None])
    return Product(query, (band, query), torch.from_numpy(mask[:, None]), slice(prefix_start, prefix_start + least))


def _short_bundles(
    prefix_start: np.ndarray, seen: np.ndarray, start: np.ndarray, length: np.ndarray, spans: np.ndarray
) -> Product:
    tokens = len(spans)
    query = _padded(start, length, tokens)
    key = np.concatenate([_padded(prefix_start, seen, tokens), query], axis=1)
    # Padding must see something: a softmax over nothing is not a number.
    mask = _sees(spans[np.minimum(query, tokens - 1)], key) | (query == tokens)[:, :, None]
    return Product(torch.from_numpy(query), (torch.from_numpy(key),), torch.from_numpy(mask[:, None]))


def _sees(spans: np.ndarray, key: np.ndarray) -> np.ndarray:
    """[n, q, k] bool: which of the places key [n, k] tokens with spans [n, q, s, 2] see."""
    place = key[:, None, :]
    sees = np.zeros((*spans.shape[:2], key.shape[1]), dtype=bool)
    for span in range(spans.shape[2]):
        sees |= (place >= spans[:, :, span, :1]) & (place < spans[:, :, span, 1:])
    return sees
