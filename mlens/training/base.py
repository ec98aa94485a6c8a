"""Train the base model of model=tiny_base: a stand-in for a pretrained model, small enough for a laptop.

A tiny Qwen3 is trained once, on the training ratings alone. It reads excerpts of each user's history, in which every
rating is predicted from the lines before it: most ratings in place, the others as the target of a prompt. Every
strategy of a comparison then starts from the same competent model, and is trained with its own objective alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from rich.console import Console
from rich.progress import Progress

from mlens.data import draws
from mlens.data.cache import cache_root, content_key, is_intact, lock, new_entry
from mlens.data.stage import Stage
from mlens.engine.engine import param_placement
from mlens.engine.ranks import Ranks
from mlens.engine.settings import OptimizerSettings
from mlens.model.load import build_model
from mlens.model.settings import Base, NoPeft, TinyModel
from mlens.packing.packed import PackedRows
from mlens.packing.tree import Branch, Shapes, Tree
from mlens.pipeline import RunInputs
from mlens.prompt.renderer import Renderer
from mlens.training.schedule import rate_factor
from mlens.training.settings import Trainer

VERSION = 2


@dataclass(frozen=True)
class Excerpts:
    """Excerpts of the users' training ratings, in time order; each rating is in exactly one excerpt.

    renderer: renders the ratings.
    stage: the training stage.
    user: [excerpts] the user of each excerpt.
    places: [ratings] indices into `stage.visible`, excerpt after excerpt.
    start, stop: [excerpts] the bounds of each excerpt in `places`.
    as_target: [ratings] bool, indexed like `stage.visible`: the rating is predicted as the target of a prompt, instead
        of in its line.
    """

    renderer: Renderer
    stage: Stage
    user: np.ndarray
    places: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    as_target: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def tree(self, i: int) -> Tree:
        """Return excerpt `i` as a tree: every rating carries loss once, in its line of the shared prefix or as the
        target of a suffix that sees the lines before it."""
        renderer, places = self.renderer, self.places[self.start[i] : self.stop[i]]
        history, as_target = self.stage.visible[places], self.as_target[places]
        trunk = renderer.trunk(self.user[i], history)
        ends = np.cumsum(renderer.pieces.lengths[trunk])
        branches = []
        for line in np.flatnonzero(as_target):
            # Two pieces (opening and head) precede the history, then come the heading and three pieces a line.
            seen, target = int(ends[2 + 3 * line] if line else ends[1]), int(history[line])
            suffix = renderer.pieces.tokens(renderer.branch(target, seen))
            branches.append(Branch(seen, suffix, renderer.answer(target)))
        lines = renderer.rating_places(trunk, np.flatnonzero(~as_target))
        return Tree(renderer.pieces.tokens(trunk), lines, tuple(branches))


def cut_excerpts(
    renderer: Renderer, stage: Stage, lines: int, interleaved: int, target_share: float, seed: int, epoch: int
) -> Excerpts:
    """Cut every user's training ratings into excerpts of at most `lines` ratings.

    The ratings are cut into blocks of `lines * interleaved` neighbours, at an offset that differs by user and epoch.
    Those of a block are assigned at random to the fewest excerpts that hold them, and keep their order there. So over
    the epochs each rating takes every position in an excerpt and, with interleaved > 1, follows different ratings.

    lines: ratings of an excerpt, at most
    interleaved: excerpts that the ratings of a full block are spread over
    target_share: the probability of each rating to be the target of a prompt
    seed, epoch: of the random draws
    """
    user, places = [], []
    as_target = np.zeros(len(stage.visible), dtype=bool)
    for number, key in enumerate(renderer.table.user_keys):
        first, last = stage.visible_offsets[number : number + 2]
        numbers = draws.uniforms(1 + last - first, draws.STRETCHES, seed, key, epoch)
        shift = int(numbers[0] * lines * interleaved)
        as_target[first:last] = numbers[1:] < target_share
        order = first + draws.permutation(last - first, draws.DEALT, seed, key, epoch)
        borders = np.unique(np.clip([first, *range(first + shift, last, lines * interleaved), last], first, last))
        for begin, end in pairwise(borders):
            block = order[(begin <= order) & (order < end)]
            excerpts = -(-len(block) // lines)
            places += [np.sort(block[nth::excerpts]) for nth in range(excerpts)]
            user += [number] * excerpts
    sizes = np.array([len(excerpt) for excerpt in places])
    stop = np.cumsum(sizes)
    return Excerpts(renderer, stage, np.array(user), np.concatenate(places), stop - sizes, stop, as_target)


def plan_excerpts(
    excerpts: Excerpts, collator: PackedRows, ratings_per_step: int, seed: int, epoch: int, rank: int, world: int
) -> Iterator[list[tuple[list[Tree], float, bool]]]:
    """Yield the rows of each step of an epoch on this rank.

    A row is given by its trees, the number of label tokens of its step over all ranks, and whether it is the step's
    last row. A step ends with the excerpt that reaches the next multiple of `ratings_per_step`; no excerpt is cut.
    """
    keys = excerpts.renderer.table.user_keys
    order = draws.order_of_items(excerpts.user, keys, draws.ORDER, seed, epoch)
    ends = np.cumsum((excerpts.stop - excerpts.start)[order])
    step = (ends - 1) // ratings_per_step
    for members in np.split(order, np.flatnonzero(np.diff(step)) + 1):
        trees = [excerpts.tree(i) for i in members]
        lengths = np.array(
            [
                len(tree.trunk) + sum(len(branch.ids) + len(branch.answer) - 1 for branch in tree.branches)
                for tree in trees
            ]
        )
        rows = collator.deal(Shapes(np.arange(len(trees)), lengths, np.zeros_like(lengths)), world)[rank]
        labels = float(sum(len(tree.lines) + sum(len(branch.answer) for branch in tree.branches) for tree in trees))
        yield [([trees[i] for (i,) in row], labels, n == len(rows) - 1) for n, row in enumerate(rows)]


def base_weights(inputs: RunInputs, ranks: Ranks) -> Path | None:
    """Return the folder of the base model that the config node `model` names, or None if it names none.

    All ranks train the model now if it isn't cached yet. The cache key covers the data, the training ratings, the
    format of the prompt, and the settings of the model.
    """
    model, stage = inputs.settings.model, inputs.stages["train"]
    if not (isinstance(model, TinyModel) and model.base.lines):
        return None
    config = inputs.settings.config
    form = {name: config[name] for name in ("ablation", "model")}
    form["prompt"] = {name: config["prompt"][name] for name in ("task", "question", "chat")}
    key = content_key("base", VERSION, inputs.table.content_hash(), stage.visible.tobytes(), form)
    folder = cache_root() / "bases" / key
    # An intact entry is used without the lock, so a read-only cache works too.
    if ranks.broadcast(ranks.main and is_intact(folder)):
        return folder
    # If several runs need the same model at once, one trains it and the others wait.
    with lock(folder) if ranks.main else nullcontext():
        if not ranks.broadcast(ranks.main and is_intact(folder, warn=True)):
            _train(inputs, model.base, ranks, folder)
    return folder


def _train(inputs: RunInputs, base: Base, ranks: Ranks, folder: Path) -> None:
    settings, tokenizer = inputs.settings, inputs.tokenizer
    longest, placement = settings.prompt.max_tokens, param_placement(settings.deepspeed, settings.model.dtype, ranks)
    fresh = build_model(settings.model, NoPeft(), tokenizer, longest, base.seed, placement)
    rule = OptimizerSettings(
        "muon", base.learning_rate, base.adam_learning_rate, base.weight_decay, gradient_clipping=0.0
    )
    node = settings.config["deepspeed"]
    engine = instantiate(node, fresh, ranks, rule, settings.model.dtype, _convert_="all")
    total = base.steps * len(base.lines)
    horizon = Trainer(schedule="cosine", warmup_steps=20)
    collator = PackedRows(row_tokens=base.row_tokens)
    console, started, loss = Console(stderr=True, quiet=not ranks.main), time.perf_counter(), 0.0
    console.print(f"training the base model, once for all strategies: {total:,} steps")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("base model", total=total)
        for done, rows in enumerate(_steps(base, inputs.renderer, inputs.stages["train"], collator, ranks)):
            engine.set_learning_rate(rate_factor(horizon, done, total))
            step_loss = 0.0
            for trees, labels, last in rows:
                step_loss += (
                    float(engine.backward(collator.train_row(trees, history_loss_weight=1.0), labels, last)) / labels
                )
            step_loss = float(ranks.sum(torch.tensor(step_loss, dtype=torch.float64, device=ranks.device)))
            loss += max(0.02, 1 / (done + 1)) * (step_loss - loss)  # a moving average; over the first 50 steps a mean
            bar.advance(task)
            if (done + 1) % max(1, total // 10) == 0:
                minutes = (time.perf_counter() - started) / 60
                console.print(f"base model  step {done + 1:,}  {minutes:.1f} minutes  loss {loss:.4f} nats a token")
    with new_entry(folder) if ranks.main else nullcontext(folder) as entry:
        engine.export(ranks.broadcast(entry), tokenizer)
    ranks.barrier()  # the entry gets its name only when the main process leaves the block above


def _steps(base: Base, renderer: Renderer, stage: Stage, collator: PackedRows, ranks: Ranks) -> Iterator[list]:
    """Yield the rows of `base.steps` steps for each excerpt length in turn, epoch after epoch."""
    epoch = 0
    for lines in base.lines:
        left = base.steps
        while left:
            excerpts = cut_excerpts(renderer, stage, lines, base.interleaved, base.asked, base.seed, epoch)
            per_step = base.ratings_per_step
            for rows in plan_excerpts(excerpts, collator, per_step, base.seed, epoch, ranks.rank, ranks.world):
                yield rows
                left -= 1
                if not left:
                    break
            epoch += 1
