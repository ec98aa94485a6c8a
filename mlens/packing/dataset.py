"""The dataset: target i of a stage -> its prompt and answer as tokens; and targets that share a prefix, together."""

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
    """One target. target, history [h]: ratings of the table; prompt [p], answer [a]: token ids, the answer with its
    end token; dropped: how many ratings the strategy chose that the budget cut."""

    target: int
    history: np.ndarray
    dropped: int
    prompt: np.ndarray
    answer: np.ndarray


def history_hash(history: np.ndarray) -> str:
    """Equal in two runs on the same table where a target saw the same `history` [h] (ratings of the table)."""
    return hashlib.blake2b(history.astype("<i8").tobytes(), digest_size=8).hexdigest()


class RatingDataset(Dataset[Example]):
    """The targets of `stage`, each with the history that `strategy` chooses for it under (seed, epoch).

    separate: no history depends on the other targets (see `fit`).

    `dataset[i]` only joins pieces: nothing is tokenised here (unless by a WholePromptRenderer).
    Raises UserError where a target doesn't fit into prompt.max_tokens alone.
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

    def at(self, epoch: int) -> RatingDataset:
        """The same targets with the histories of another epoch (in evaluation: of another draw)."""
        other = copy.copy(self)
        other.epoch = epoch
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
        """[h] the chosen ratings of target i, as indices into the table, in time order."""
        return self.renderer.fit_history(int(self.stage.targets[i]), self.stage.visible_to(i)[self.histories.shown(i)])

    def wanted(self, i: int) -> np.ndarray:
        """[w] the ratings that the strategy wants to show to target i before the budget cuts, in time order."""
        return self.stage.visible_to(i)[self.histories.wanted(i)]

    def text(self, i: int) -> str:
        """The prompt of target i as it reads."""
        return self.renderer.text(int(self.stage.targets[i]), self.history(i))

    def prompt_lengths(self, targets: np.ndarray) -> np.ndarray:
        """[n] tokens of the prompts of these targets, without their answers."""
        return self.shapes(targets).prompts

    def prefix_groups(self, targets: np.ndarray) -> np.ndarray:
        """[n] which of one user's targets share a growing history: equal numbers do, -1 shares with none."""
        return self.histories.prefix_groups(targets) if self.renderer.shares_prefixes else np.full(len(targets), -1)

    def shapes(self, targets: np.ndarray, behind: np.ndarray | int = 0) -> Shapes:
        """Which prefixes these targets share, and how long they are, with `behind` [n] tokens read after each prompt.

        Targets without history share the task (and the profile, where they have the same) with every other such target,
        of whatever user.
        """
        renderer, stage = self.renderer, self.stage
        alone = -1 - np.arange(len(targets))
        if not renderer.shares_prefixes:
            prompts = np.array([len(self[i].prompt) for i in targets], dtype=np.int64)
            return Shapes(alone, prompts, np.zeros_like(prompts) + behind)
        template = renderer.template
        heads = template.head_lengths(stage.user[targets])
        sections = self.histories.section_lengths(targets)
        if template.context is None:
            suffix = renderer.bare_lengths(stage.targets[targets]) - heads
        else:
            shown = zip(stage.targets[targets], heads + sections, strict=True)
            suffixes = (template.suffix(t, template.fitting_turns(t, tokens)) for t, tokens in shown)
            suffix = np.array([template.pieces.lengths[suffix].sum() for suffix in suffixes], np.int64)
        numbers = self.prefix_groups(targets)
        bare = alone.min(initial=0) - 1 - template.pieces.head[stage.user[targets]]
        groups = np.where(sections == 0, bare, np.where(numbers < 0, alone, numbers))
        return Shapes(groups, heads + sections, suffix + behind)

    def prefix_group(self, targets: np.ndarray) -> PrefixGroup:
        """The tokens of targets [n] that share a prefix (equal groups in `shapes`; in their user's order)."""
        renderer, stage = self.renderer, self.stage
        if not renderer.shares_prefixes:
            (sample,) = (self[i] for i in targets)
            nothing = np.zeros(0, dtype=np.int64)
            return PrefixGroup(sample.prompt, nothing, (Suffix(len(sample.prompt), nothing, sample.answer),))
        last, template = int(targets[-1]), renderer.template
        places = self.histories.shown(last)
        prefix = template.prefix(stage.user[last], stage.visible_to(last)[places])
        seen = template.head_lengths(stage.user[targets]) + self.histories.section_lengths(targets)
        assert self._are_prefixes(targets, places, prefix, seen)
        suffixes = []
        for i, tokens in zip(targets, seen.tolist(), strict=True):
            target = int(stage.targets[i])
            pieces = template.suffix(target, template.fitting_turns(target, tokens))
            suffixes.append(Suffix(tokens, template.pieces.tokens(pieces), template.answer(target)))
        lines = np.flatnonzero(self._first_shown(targets, places))
        return PrefixGroup(template.pieces.tokens(prefix.pieces), prefix.rating_tokens(lines), tuple(suffixes))

    def _are_prefixes(self, targets: np.ndarray, places: np.ndarray, prefix: Prefix, seen: np.ndarray) -> bool:
        """Whether each of `targets`, which sees `seen` tokens of `prefix`, sees complete lines (those of `places` in
        the last one's list) of its own user, and none that it may not see."""
        stage, head, ends = self.stage, self.renderer.template.pieces.head, prefix.line_ends
        lines = np.minimum(np.searchsorted(ends, seen), len(ends) - 1)
        newest, user = np.append(-1, places)[lines], stage.user[targets]
        own = (user == user[-1]) | ((lines == 0) & (head[user] == head[user[-1]]))
        return bool(((ends[lines] == seen) & (newest < stage.count[targets]) & own).all())

    def history_labels(self, targets: np.ndarray) -> int:
        """How many tokens of ratings in the histories of these targets can carry loss (`PrefixGroup.lines`)."""
        total, pieces = 0, self.renderer.template.pieces
        for i in targets if self.renderer.shares_prefixes else ():
            places = self.histories.shown(int(i))
            shown = self.stage.visible_to(i)[places[self._first_shown(np.array([i]), places)]]
            total += int(pieces.lengths[pieces.rating[self.table.rating_index[shown]]].sum())
        return total

    def _first_shown(self, targets: np.ndarray, places: np.ndarray) -> np.ndarray:
        """[h] bool: which of these places (in the user's visible list) are new to one of `targets`: visible to it, and
        to no target of its user before it. So a rating is new to one target of the stage at most."""
        first, count = self.stage.previous_count[targets], self.stage.count[targets]
        within = np.searchsorted(count, places, side="right")
        inside = within < len(targets)
        return inside & (places >= first[np.minimum(within, len(targets) - 1)])
