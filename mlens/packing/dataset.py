"""The dataset of a stage's targets: the tokens of each prompt and answer, and of targets that share a prefix."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from mlens.data.rating_table import RatingTable
from mlens.data.stage import Stage
from mlens.history.budget import Budget
from mlens.history.fit import fit
from mlens.history.none import NoHistory
from mlens.history.strategy import Strategy
from mlens.packing.prefix_group import PrefixGroup, Shapes, Suffix
from mlens.prompt.prices import make_budget
from mlens.prompt.renderer import Renderer
from mlens.prompt.template import Prefix


@dataclass(frozen=True)
class Example:
    """The tokens of one target.

    target: a rating of the table.
    history [h]: ratings of the table.
    dropped: the number of ratings that the strategy wanted and the budget cut.
    prompt [p]: token ids.
    answer [a]: token ids, with the end token.
    """

    target: int
    history: np.ndarray
    dropped: int
    prompt: np.ndarray
    answer: np.ndarray


def history_hash(history: np.ndarray) -> str:
    """Return a hash of `history` [h] (ratings of the table), by which runs on the same table can be compared."""
    return hashlib.blake2b(history.astype("<i8").tobytes(), digest_size=8).hexdigest()


class RatingDataset(Dataset[Example]):
    """The targets of `stage`, each with the history that `strategy` selects for it with (seed, epoch).

    separate: whether each history is independent of the other targets (see `fit`).

    `dataset[i]` only joins pieces and tokenises nothing, except with a WholePromptRenderer.

    Raises UserError where a target doesn't fit into prompt.max_tokens even without history.
    """

    def __init__(
        self,
        table: RatingTable,
        stage: Stage,
        strategy: Strategy,
        renderer: Renderer,
        seed: int,
        epoch: int = 0,
        separate: bool = False,
    ) -> None:
        self.table, self.stage, self.strategy, self.renderer = table, stage, strategy, renderer
        self.seed, self.epoch, self.separate = seed, epoch, separate
        self.budget: Budget = make_budget(renderer, stage)
        self._fit()

    def _fit(self) -> None:
        strategy = self.strategy if self.renderer.template.ablation.history else NoHistory()
        trim, draw = self.renderer.template.style.trim, (self.seed, self.epoch)
        self.histories = fit(strategy, self.table, self.stage, self.budget, trim, *draw, self.separate)

    def with_epoch(self, epoch: int) -> RatingDataset:
        """Return a dataset of the same targets with the histories of another epoch (in evaluation: another draw)."""
        other = copy.copy(self)
        other.epoch = epoch
        other._fit()
        return other

    def with_strategy(self, strategy: Strategy) -> RatingDataset:
        """Return a dataset of the same targets with the histories of another strategy."""
        other = copy.copy(self)
        other.strategy = strategy
        other._fit()
        return other

    def __len__(self) -> int:
        return len(self.stage)

    def __getitem__(self, i: int) -> Example:
        target = int(self.stage.targets[i])
        history = self.history(i)
        dropped = len(self.histories.wanted(i)) - len(history)
        prompt = self.renderer.tokens(target, history)
        return Example(target, history, dropped, prompt, self.renderer.template.answer(target))

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def history(self, i: int) -> np.ndarray:
        """Return the ratings shown to target i, as indices into the table, in time order: [h]."""
        return self.renderer.fit_history(int(self.stage.targets[i]), self.stage.visible_to(i)[self.histories.shown(i)])

    def wanted(self, i: int) -> np.ndarray:
        """Return the ratings that the strategy wants to show to target i, fitting or not, in time order: [w]."""
        return self.stage.visible_to(i)[self.histories.wanted(i)]

    def text(self, i: int) -> str:
        """Return the text of target i's prompt."""
        return self.renderer.text(int(self.stage.targets[i]), self.history(i))

    def prompt_lengths(self, targets: np.ndarray) -> np.ndarray:
        """Return the tokens of each target's prompt, without the answer: [n]."""
        return self.shapes(targets).prompts

    def prefix_groups(self, targets: np.ndarray) -> np.ndarray:
        """Return each target's prefix group, in which a user's targets share a growing history: [n], -1 for none.

        With prompt.order=newest_first a history grows at its beginning: only equal histories are shared, of separate
        targets.
        """
        grows_at_end = not self.renderer.template.newest_first
        if self.renderer.shares_prefixes and (grows_at_end or self.separate):
            return self.histories.prefix_groups(targets)
        return np.full(len(targets), -1)

    def shapes(self, targets: np.ndarray, answer_tokens: np.ndarray | int = 0) -> Shapes:
        """Return which prefixes these targets share, and how long their prefixes and suffixes are.

        answer_tokens [n]: the tokens read after each prompt, which count as suffix.

        Targets without history share the task (and the profile, where it is equal) with all other such targets, of
        any user.
        """
        renderer, stage = self.renderer, self.stage
        unshared = -1 - np.arange(len(targets))
        if not renderer.shares_prefixes:
            prompts = np.array([len(self[i].prompt) for i in targets], dtype=np.int64)
            return Shapes(unshared, prompts, np.zeros_like(prompts) + answer_tokens)
        template = renderer.template
        heads = template.head_lengths(stage.user[targets])
        sections = self.histories.section_lengths(targets)
        if template.context is None:
            suffix = renderer.bare_lengths(stage.targets[targets]) - heads
        else:
            shown = zip(stage.targets[targets], heads + sections, strict=True)
            suffixes = (template.suffix(t, template.fitting_turns(t, tokens)) for t, tokens in shown)
            suffix = np.array([template.pieces.lengths[suffix].sum() for suffix in suffixes], np.int64)
        groups = self.prefix_groups(targets)
        without_history = unshared.min(initial=0) - 1 - template.pieces.head[stage.user[targets]]
        groups = np.where(sections == 0, without_history, np.where(groups < 0, unshared, groups))
        return Shapes(groups, heads + sections, suffix + answer_tokens)

    def prefix_group(self, targets: np.ndarray) -> PrefixGroup:
        """Return the tokens of targets [n] of one group of `shapes`, in their user's order."""
        renderer, stage = self.renderer, self.stage
        if not renderer.shares_prefixes:
            (sample,) = (self[i] for i in targets)
            empty = np.zeros(0, dtype=np.int64)
            return PrefixGroup(sample.prompt, empty, (Suffix(len(sample.prompt), empty, sample.answer),))
        last, template = int(targets[-1]), renderer.template
        indices = template.line_order(self.histories.shown(last))
        prefix = template.prefix(stage.user[last], stage.visible_to(last)[indices])
        seen = template.head_lengths(stage.user[targets]) + self.histories.section_lengths(targets)
        assert self._are_prefixes(targets, indices, prefix, seen)
        suffixes = []
        for i, tokens in zip(targets, seen.tolist(), strict=True):
            target = int(stage.targets[i])
            pieces = template.suffix(target, template.fitting_turns(target, tokens))
            suffixes.append(Suffix(tokens, template.pieces.tokens(pieces), template.answer(target)))
        lines = np.flatnonzero(self._first_shown(targets, indices))
        return PrefixGroup(template.pieces.tokens(prefix.pieces), prefix.rating_tokens(lines), tuple(suffixes))

    def _are_prefixes(self, targets: np.ndarray, indices: np.ndarray, prefix: Prefix, seen: np.ndarray) -> bool:
        """Return whether each target sees complete lines of its user's history, and only ratings visible to it.

        indices [lines]: the rating of each line, as an index into the visible list of the last target.
        seen [n]: how many tokens of `prefix` each target sees.
        """
        stage, head, ends = self.stage, self.renderer.template.pieces.head, prefix.line_ends
        lines = np.minimum(np.searchsorted(ends, seen), len(ends) - 1)
        newest, user = np.append(-1, np.maximum.accumulate(indices))[lines], stage.user[targets]
        same_user = (user == user[-1]) | ((lines == 0) & (head[user] == head[user[-1]]))
        return bool(((ends[lines] == seen) & (newest < stage.count[targets]) & same_user).all())

    def history_labels(self, targets: np.ndarray) -> int:
        """Return how many tokens of ratings in these targets' histories can carry loss (`PrefixGroup.lines`)."""
        total, pieces = 0, self.renderer.template.pieces
        for i in targets if self.renderer.shares_prefixes else ():
            indices = self.histories.shown(int(i))
            shown = self.stage.visible_to(i)[indices[self._first_shown(np.array([i]), indices)]]
            total += int(pieces.lengths[pieces.rating[self.table.rating_index[shown]]].sum())
        return total

    def _first_shown(self, targets: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return which ratings are new to one of `targets`, that is, visible to it and to no earlier target: [h] bool.

        indices [h]: the ratings, as indices into their user's visible list. Each is new to at most one target of the
            stage.
        """
        first, count = self.stage.previous_count[targets], self.stage.count[targets]
        within = np.searchsorted(count, indices, side="right")
        inside = within < len(targets)
        return inside & (indices >= first[np.minimum(within, len(targets) - 1)])
