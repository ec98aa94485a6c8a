"""The targets of several stages as one dataset, so that a user's targets of all stages share a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlens.data.ragged import offsets
from mlens.packing.dataset import RatingDataset
from mlens.packing.prefix_group import PrefixGroup, Shapes
from mlens.prompt.renderer import Renderer


@dataclass(frozen=True)
class JoinedDatasets:
    """The targets of `datasets`, one dataset after the other, to be scored together.

    datasets: in the order of their stages, of one table and with one renderer.

    A user's test targets come after the validation targets: where the histories of these are the beginning of those, as
    all_previous gives them while its window has the same start, their common prefix is read once for both.
    """

    datasets: tuple[RatingDataset, ...]

    @property
    def renderer(self) -> Renderer:
        return self.datasets[0].renderer

    def __len__(self) -> int:
        return sum(map(len, self.datasets))

    def shapes(self, targets: np.ndarray, answer_tokens: int = 0) -> Shapes:
        """Return the shapes of these targets [n] (ascending) as `RatingDataset.shapes` does, sharing between datasets.

        answer_tokens: the tokens read after each prompt.
        """
        parts = self._parts(targets)
        shapes = [dataset.shapes(part, answer_tokens) for dataset, part in zip(self.datasets, parts, strict=True)]
        groups = [_Groups.of(*of_dataset) for of_dataset in zip(self.datasets, parts, shapes, strict=True)]
        first = offsets([len(one.last) for one in groups])
        # The final number of each group: a group that is the beginning of another one takes that one's.
        number = np.arange(first[-1])
        for place, (earlier, later) in reversed(list(enumerate(pairwise(groups)))):
            for group, continuation in earlier.continued_in(later).items():
                number[first[place] + group] = number[first[place + 1] + continuation]
        return Shapes(
            np.concatenate([number[start + one.group] for start, one in zip(first[:-1], groups, strict=True)]),
            np.concatenate([one.prefix for one in shapes]),
            np.concatenate([one.suffix for one in shapes]),
        )

    def prefix_group(self, targets: np.ndarray) -> PrefixGroup:
        """Return the tokens of targets [n] of one group of `shapes`, ascending. Lines carry no loss in scoring."""
        parts = zip(self.datasets, self._parts(targets), strict=True)
        groups = [dataset.prefix_group(part) for dataset, part in parts if len(part)]
        prefix = groups[-1].prefix
        assert all(np.array_equal(group.prefix, prefix[: len(group.prefix)]) for group in groups)
        return PrefixGroup(prefix, np.zeros(0, dtype=np.int64), tuple(s for group in groups for s in group.suffixes))

    def _parts(self, targets: np.ndarray) -> list[np.ndarray]:
        """Return the targets of each dataset, as indices into it."""
        starts = offsets([len(dataset) for dataset in self.datasets])
        cuts = np.split(targets, np.searchsorted(targets, starts[1:-1]))
        return [part - start for part, start in zip(cuts, starts[:-1], strict=True)]


@dataclass(frozen=True)
class _Groups:
    """The prefix groups of some targets of a dataset, numbered from 0.

    group [n]: the number of each target's group.
    last [groups]: the target with the longest history of each group.
    shared [groups]: bool, whether other targets can share its prefix.
    shortest, longest [groups]: the tokens of its targets' prefixes.
    """

    dataset: RatingDataset
    group: np.ndarray
    last: np.ndarray
    shared: np.ndarray
    shortest: np.ndarray
    longest: np.ndarray

    @classmethod
    def of(cls, dataset: RatingDataset, targets: np.ndarray, shapes: Shapes) -> _Groups:
        """Number the groups of these targets [n], ascending, of these shapes."""
        numbers, first, group = np.unique(shapes.group, return_index=True, return_inverse=True)
        last = np.zeros_like(first)
        last[group] = np.arange(len(group))  # of equal indices the last is kept
        shared, prefix = numbers >= 0, shapes.prefix
        return cls(dataset, group, targets[last], shared, prefix[first], prefix[last])

    def continued_in(self, later: _Groups) -> dict[int, int]:
        """Return the groups whose histories are the beginning of all histories of a group of `later`, with that one."""
        found = {}
        others = dict(later._of_users())
        for user, groups in self._of_users():
            longer: dict[int, list[tuple[int, np.ndarray]]] = {}
            for other in others.get(user, ()):
                history = later._history(other)
                longer.setdefault(int(history[0]), []).append((int(other), history))
            for group in groups if longer else ():
                history = self._history(group)
                for other, later_history in longer.get(int(history[0]), ()):
                    fits = self.longest[group] <= later.shortest[other]
                    if fits and np.array_equal(history, later_history[: len(history)]):
                        found[int(group)] = other
        return found

    def _of_users(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each user with the user's shared groups."""
        shared = np.flatnonzero(self.shared)
        user = self.dataset.stage.user[self.last[shared]]
        order = np.argsort(user, kind="stable")
        borders = np.flatnonzero(np.diff(user[order])) + 1
        for groups in np.split(shared[order], borders) if len(order) else ():
            yield int(self.dataset.stage.user[self.last[groups[0]]]), groups

    def _history(self, group: int) -> np.ndarray:
        """Return the longest history of a shared group, as ratings of the table: [h], h > 0."""
        return self.dataset.history(int(self.last[group]))
