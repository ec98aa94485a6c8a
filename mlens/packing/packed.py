"""packing=rows: packs prefix groups into rows of tokens, in which no group sees another."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mlens.checks import require_choice, require_number
from mlens.data.ragged import offsets
from mlens.packing.answer_chains import AnswerChains, answer_chains
from mlens.packing.prefix_group import PrefixGroup, Shapes
from mlens.packing.row import Row


@dataclass(frozen=True)
class PackedRows:
    """The collator of packed rows.

    row_tokens: the most tokens of a row, unless a single sample is longer.
    share: `auto` (targets with a common prefix share it) or `never`.
    pair_cost: the cost of a pair of tokens in attention, relative to the cost of a token in all other layers. Rows
        are packed to be of equal cost.
    """

    row_tokens: int = 8192
    share: str = "auto"
    pair_cost: float = 0.001

    def __post_init__(self) -> None:
        require_number("packing.row_tokens", self.row_tokens, at_least=1)
        require_choice("packing.share", self.share, ("auto", "never"))
        require_number("packing.pair_cost", self.pair_cost, at_least=0)

    def pack(self, shapes: Shapes, world: int) -> list[list[tuple[np.ndarray, ...]]]:
        """Pack targets of these shapes [n] into rows, and shard the rows to `world` ranks.

        Returns the rows of each rank. A row is a tuple of prefix groups, each an ascending array of indices into
        `shapes`. All ranks get the same number of rows; some rows may be empty.

        Groups that don't fit into a row, or cost much more than a rank's share, are cut; each piece repeats the
        prefix. The most expensive groups are placed first, each into the row that is cheapest so far.

        >>> shapes = Shapes(np.array([7, 7, 8, 9]), prefix=np.array([4, 5, 2, 2]), suffix=np.array([1, 1, 2, 2]))
        >>> PackedRows(row_tokens=10).pack(shapes, world=2)
        [[(array([0, 1]),)], [(array([2]), array([3]))]]
        """
        groups = list(self._groups(shapes))
        if not groups:
            return [[] for _ in range(world)]
        tokens, cost = self._measure(shapes, groups)
        rows = -(-int(np.minimum(tokens, self.row_tokens).sum()) // self.row_tokens)
        rows = -(-rows // world) * world
        share = cost.sum() / world
        if world > 1 and (cost > 1.5 * share).any():
            shares = zip(groups, cost / share, strict=True)
            groups = [part for group, pieces in shares for part in self._cut(shapes, group, pieces)]
            tokens, cost = self._measure(shapes, groups)
        while True:
            filled = _fill(tokens, cost, rows, self.row_tokens)
            if filled is not None:
                packed = [tuple(groups[i] for i in row) for row in filled]
                return [packed[rank::world] for rank in range(world)]
            # In steps of 1%: where rows can't be filled well, adding one at a time could take thousands of attempts.
            rows += max(world, rows // 100 // world * world)

    def _groups(self, shapes: Shapes) -> Iterator[np.ndarray]:
        """Yield the targets of each group, cut into pieces of at most row_tokens."""
        if self.share == "never":
            yield from np.arange(len(shapes.group))[:, None]
            return
        order = np.argsort(shapes.group, kind="stable")
        borders = np.flatnonzero(np.diff(shapes.group[order])) + 1
        for group in np.split(order, borders) if len(order) else ():
            yield from self._cut(shapes, group, 1)

    def _cut(self, shapes: Shapes, group: np.ndarray, pieces: float) -> Iterator[np.ndarray]:
        """Cut a group into about `pieces` pieces at most, or as many as row_tokens requires.

        Minimises the cost of the most expensive piece.
        """
        prefix, suffix = shapes.prefix[group], shapes.suffix[group]
        tokens = offsets(suffix)
        costs = offsets(suffix * (1 + self.pair_cost * (prefix + suffix / 2)), np.float64)
        # The piece first : last + 1 costs end_costs[last] - costs[first], and has end_tokens[last] - tokens[first].
        end_costs, end_tokens = _prefix_cost(prefix, self.pair_cost) + costs[1:], prefix + tokens[1:]

        def cut_at(limit: float) -> list[slice]:
            """Cut the group greedily into pieces that cost at most `limit`."""
            cut, first = [], 0
            while first < len(group):
                affordable = np.searchsorted(end_costs, limit + costs[first], side="right")
                fitting = np.searchsorted(end_tokens, self.row_tokens + tokens[first], side="right")
                stop = max(first + 1, int(min(affordable, fitting)))
                cut.append(slice(first, stop))
                first = stop
            return cut

        cut = cut_at(np.inf)
        pieces = max(round(pieces), len(cut))
        if pieces > 1:
            low, high = 0.0, float(end_costs[-1])
            for _ in range(20):  # bisect the lowest limit that needs no more pieces
                middle = (low + high) / 2
                low, high = (low, middle) if len(cut_at(middle)) <= pieces else (middle, high)
            cut = cut_at(high)
        yield from (group[piece] for piece in cut)

    def _measure(self, shapes: Shapes, groups: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens and the cost of each group."""
        sizes = np.array([len(group) for group in groups])
        members, ends = np.concatenate(groups), np.cumsum(sizes)
        prefix, suffix = shapes.prefix[members], shapes.suffix[members]
        longest = prefix[ends - 1]
        first = ends - sizes
        suffix_cost = suffix * (1 + self.pair_cost * (prefix + suffix / 2))
        cost = _prefix_cost(longest, self.pair_cost) + np.add.reduceat(suffix_cost, first)
        return longest + np.add.reduceat(suffix, first), cost

    def train_row(self, groups: Sequence[PrefixGroup], history_loss_weight: float = 0.0) -> Row:
        """Build a row whose labels are the answers of the groups' targets. Score i is the log-probability of answer i.

        history_loss_weight: the weight of one more score, the log-probability of all tokens in `PrefixGroup.lines`.
        """
        if not groups:
            return filler_row()
        segments: list[_Segment] = []
        for group in groups:
            if not _is_plain_sample(group):
                segments.append(_Segment(group.prefix, lines=group.lines))
                for suffix in group.suffixes:
                    ids = np.concatenate([suffix.ids, suffix.answer[:-1]])
                    segments.append(_Segment(ids, suffix.seen, answer=suffix.answer))
            else:
                (suffix,) = group.suffixes
                ids = np.concatenate([group.prefix, suffix.ids, suffix.answer[:-1]])
                segments.append(_Segment(ids, answer=suffix.answer, lines=group.lines))
        starts = offsets([len(segment.ids) for segment in segments])[:-1]
        answers = [segment.answer for segment in segments if len(segment.answer)]
        # The end token is only predicted, from the last token of its segment.
        keep = [
            start + len(segment.ids) - len(segment.answer) + np.arange(len(segment.answer))
            for start, segment in zip(starts, segments, strict=True)
        ]
        labels = [*answers]
        owner = [np.repeat(np.arange(len(answers)), [len(answer) for answer in answers])]
        weight = np.ones(len(answers))
        lines = [start + segment.lines for start, segment in zip(starts, segments, strict=True)]
        if history_loss_weight and sum(map(len, lines)):
            keep += [indices - 1 for indices in lines]
            labels += [segment.ids[segment.lines] for segment in segments]
            owner.append(np.full(sum(map(len, lines)), len(answers)))
            weight = np.append(weight, history_loss_weight)
        return _make_row(
            segments,
            chains=None,
            keep=np.concatenate(keep),
            slot=np.arange(sum(map(len, labels))),
            label=np.concatenate(labels),
            owner=np.concatenate(owner),
            weight=weight,
        )

    def score_row(self, groups: Sequence[PrefixGroup], answers: Sequence[np.ndarray]) -> Row:
        """Build a row that scores each of the r legal `answers` for every target.

        Score i * r + j is the log-probability of answer j, its end token included, after the prompt of the i-th target
        of the groups in order. Each answer sees its prompt and itself. First tokens that answers have in common are
        read once (see `answer_chains`).
        """
        if not groups:
            return filler_row()
        chains = answer_chains(answers)
        segments: list[_Segment] = []
        for group in groups:
            if not _is_plain_sample(group):
                segments.append(_Segment(group.prefix))
                for suffix in group.suffixes:
                    segments.append(_Segment(np.concatenate([suffix.ids, chains.ids]), suffix.seen, len(suffix.ids)))
            else:
                (suffix,) = group.suffixes
                prompt = np.concatenate([group.prefix, suffix.ids])
                segments += [_Segment(prompt), _Segment(chains.ids, len(prompt), 0)]
        starts = offsets([len(segment.ids) for segment in segments])[:-1]
        # The last token of a prompt predicts the first token of every chain.
        chain_starts = [start + s.chain_start for start, s in zip(starts, segments, strict=True) if s.seen is not None]
        prompt_last = np.array(chain_starts) - 1
        kept = 1 + chains.tokens
        owner = np.repeat(np.arange(len(answers)), [len(answer) for answer in answers])
        targets = np.arange(len(prompt_last))[:, None]
        return _make_row(
            segments,
            chains,
            keep=(prompt_last[:, None] + np.arange(kept)).ravel(),
            slot=(targets * kept + np.concatenate(chains.slots)).ravel(),
            label=np.tile(np.concatenate(list(answers)), len(prompt_last)),
            owner=(targets * len(answers) + owner).ravel(),
            weight=np.ones(len(prompt_last) * len(answers)),
        )


_EMPTY = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class _Segment:
    """A causal segment of a row: a prefix, a suffix, or a sample that shares nothing.

    ids: the tokens that the model reads.
    seen: of a suffix, the number of tokens of the preceding prefix that it sees; None for other segments.
    chain_start: of a suffix, the index in `ids` of the first answer chain; -1 without chains.
    answer: the labels of a target, as in Suffix.
    lines: the labels of a history, as in PrefixGroup.
    """

    ids: np.ndarray
    seen: int | None = None
    chain_start: int = -1
    answer: np.ndarray = field(default_factory=lambda: _EMPTY)
    lines: np.ndarray = field(default_factory=lambda: _EMPTY)


def _is_plain_sample(group: PrefixGroup) -> bool:
    """Return whether the group is one ordinary sample, whose prefix and suffix are one segment."""
    return len(group.suffixes) == 1 and group.suffixes[0].seen == len(group.prefix)


def _make_row(
    segments: list[_Segment],
    chains: AnswerChains | None,
    keep: np.ndarray,
    slot: np.ndarray,
    label: np.ndarray,
    owner: np.ndarray,
    weight: np.ndarray,
) -> Row:
    """Build the row of these segments: each prefix is followed by its suffixes, each of which ends in the `chains`."""
    lengths = np.array([len(segment.ids) for segment in segments])
    starts = offsets(lengths)[:-1]
    is_suffix = np.array([segment.seen is not None for segment in segments])
    prefix = np.maximum.accumulate(np.where(is_suffix, 0, np.arange(len(segments))))
    seen = np.array([segment.seen or 0 for segment in segments])
    # The segment of each token, and the token's index in it.
    segment_of = np.repeat(np.arange(len(segments)), lengths)
    index = np.arange(len(segment_of)) - starts[segment_of]
    positions = seen[segment_of] + index
    stems = chains is not None and bool(chains.stem.any())
    spans = np.zeros((len(segment_of), 3 + stems, 2), dtype=np.int32)
    spans[:, 0, 0] = np.where(is_suffix, starts[prefix], 0)[segment_of]
    spans[:, 0, 1] = np.where(is_suffix, starts[prefix] + seen, 0)[segment_of]
    spans[:, 2, 0] = starts[segment_of]
    spans[:, 2, 1] = np.arange(len(segment_of)) + 1
    if chains is not None:
        chain_start = np.array([segment.chain_start for segment in segments])
        # The first token of the chains of each suffix, and all of them: [suffixes, chain tokens].
        first = (starts + chain_start)[is_suffix][:, None]
        tokens = first + np.arange(chains.tokens)
        spans[tokens, 1, 0] = starts[is_suffix][:, None]
        spans[tokens, 1, 1] = first
        spans[tokens, 2, 0] = first + chains.chain_start
        if stems:
            spans[tokens, 3] = np.where(chains.stem[:, 1:] > 0, first[:, :, None] + chains.stem, 0)
        positions[tokens] = (seen + chain_start)[is_suffix][:, None] + chains.index

    def tensor(column: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(column, dtype=np.int64))

    return Row(
        input_ids=tensor(np.concatenate([segment.ids for segment in segments]))[None],
        position_ids=tensor(positions)[None],
        spans=torch.from_numpy(spans),
        keep=tensor(keep),
        slot=tensor(slot),
        label=tensor(label),
        owner=tensor(owner),
        weight=torch.from_numpy(weight.astype(np.float32)),
        useful=len(segment_of),
    )


def _prefix_cost(length: np.ndarray, pair_cost: float) -> np.ndarray:
    """Return the cost of prefixes of this length: their tokens, and their causal attention."""
    return length * (1 + pair_cost * length / 2)


def _fill(tokens: np.ndarray, cost: np.ndarray, rows: int, capacity: int) -> list[list[int]] | None:
    """Return the groups of each row, or None if a row of several groups would exceed its capacity."""
    cheapest = [(0.0, row) for row in range(rows)]
    members: list[list[int]] = [[] for _ in range(rows)]
    used = [0] * rows
    for i in np.argsort(-cost, kind="stable"):
        spent, row = heapq.heappop(cheapest)
        used[row] += int(tokens[i])
        if used[row] > capacity and members[row]:
            return None
        members[row].append(int(i))
        heapq.heappush(cheapest, (spent + float(cost[i]), row))
    return [sorted(row) for row in members]


def filler_row() -> Row:
    """Build a row without labels, for a rank without targets: under ZeRO-3 all ranks must make each forward pass."""
    empty = _EMPTY
    token = _Segment(np.zeros(1, dtype=np.int64))
    keep = np.zeros(1, dtype=np.int64)
    return _make_row([token], None, keep, slot=empty, label=empty, owner=empty, weight=empty)
