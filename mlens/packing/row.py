"""A row of tokens, what each of its tokens sees, and the tensors that a model needs for it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch


@dataclass(frozen=True)
class Group:
    """Segments of a row that are about as long, for one attention product each.

    trunk [n, m] int64: the tokens of n causal segments, padded at the end with token 0 of the row;
    tail [n, b] int64: the tokens that see their whole trunk and a part of their tail, or None;
    tail_mask [n, 1, b, m + b] bool: what they see of trunk and tail.
    """

    trunk: torch.Tensor
    tail: torch.Tensor | None = None
    tail_mask: torch.Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """How attention goes over a row: its groups, and where each token's result stands among theirs.

    source [places] int64: the groups' flattened trunks and tails, joined in order; place [tokens] int64: where in
    `source` each token stands (the padding's places are no token's).
    """

    groups: tuple[Group, ...]
    source: torch.Tensor
    place: torch.Tensor


@dataclass(frozen=True)
class Row:
    """One forward pass.

    input_ids, position_ids [b, tokens] int64; spans [tokens, 3, 2] int32: the up to three stretches start:stop of the
    row that each token sees (a part of a trunk, a part of its branch, its own segment up to itself); layout: the same
    for the attention, or None where rows are ordinary causal sequences (then spans is None too);
    keep [k] int64: the places along `tokens` whose logits are needed; they come out as [b * k, vocabulary];
    slot, label, owner [m] int64: label[i] is a token to predict from logits[slot[i]], and counts for score owner[i];
    scores: how many scores the row gives; useful: how many tokens are no padding.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    spans: torch.Tensor | None
    layout: Layout | None
    keep: torch.Tensor
    slot: torch.Tensor
    label: torch.Tensor
    owner: torch.Tensor
    scores: int
    useful: int

    def to(self, device: torch.device) -> Row:
        """A copy with all tensors on `device`."""
        return _moved(self, device)


def _moved(value, device: torch.device):
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    if isinstance(value, (Row, Layout, Group)):
        return type(value)(**{field.name: _moved(getattr(value, field.name), device) for field in fields(value)})
    return value


def dense_mask(spans: torch.Tensor) -> torch.Tensor:
    """[tokens, tokens] bool: whether token i (first index) sees token j, from `spans` [tokens, 3, 2]."""
    j = torch.arange(len(spans), device=spans.device)
    return ((j >= spans[:, :, :1]) & (j < spans[:, :, 1:])).any(dim=1)


def segment_layout(starts: np.ndarray, trunks: np.ndarray, tails: np.ndarray, chains: list[int]) -> Layout:
    """The layout of a row of segments, each a causal trunk and behind it a tail of chains that don't see one another.

    starts, trunks, tails [n]: where each segment begins, and how many tokens its trunk and tail have; chains: the
    lengths of the chains of every tail (their sum is tails[i], unless that is 0). Segments whose trunks are within a
    factor of 1.5 share a group, so at most a third of its places are padding.
    """
    order = np.argsort(trunks, kind="stable")
    groups, place, done, first = [], np.empty(int(trunks.sum() + tails.sum()), dtype=np.int64), 0, 0
    while first < len(order):
        last = first
        while last < len(order) and trunks[order[last]] <= 1.5 * trunks[order[first]]:
            last += 1
        members = order[first:last]
        group = _group(starts[members], trunks[members], int(tails[members[0]]), chains)
        n, m = group.trunk.shape
        for i, (start, trunk) in enumerate(zip(starts[members], trunks[members], strict=True)):
            place[start : start + trunk] = done + i * m + np.arange(trunk)
        done += n * m
        if group.tail is not None:
            place[group.tail.numpy().ravel()] = done + np.arange(group.tail.numel())
            done += group.tail.numel()
        groups.append(group)
        first = last
    parts = [part.flatten() for group in groups for part in (group.trunk, group.tail) if part is not None]
    return Layout(tuple(groups), torch.cat(parts), torch.from_numpy(place))


def _group(starts: np.ndarray, trunks: np.ndarray, tail: int, chains: list[int]) -> Group:
    m = int(trunks.max())
    inside = np.arange(m) < trunks[:, None]
    trunk = np.where(inside, starts[:, None] + np.arange(m), 0)
    if tail == 0:
        return Group(torch.from_numpy(trunk))
    index = (starts + trunks)[:, None] + np.arange(tail)
    chain = np.repeat(np.arange(len(chains)), chains)
    own = (chain[:, None] == chain) & np.tri(tail, dtype=bool)
    n = len(starts)
    mask = np.concatenate(
        [np.broadcast_to(inside[:, None], (n, tail, m)), np.broadcast_to(own, (n, tail, tail))], axis=2
    )
    return Group(torch.from_numpy(trunk), torch.from_numpy(index), torch.from_numpy(mask[:, None]))
