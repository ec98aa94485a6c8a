"""The base model of model=tiny_base: what a pretrained model is to a real user, for a laptop.

A tiny Qwen3 is trained once on the training ratings alone: short parts of each user's history, in which every rating is
predicted from the lines before it, most of them where they stand, some as the target of a prompt. Every
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
class Stretches:
    """Stretches of at most `lines` training ratings of a user in order, each rating in exactly one of them.

    places [v]: in `stage.visible`, stretch after stretch; start, stop [n]: where each stretch is in `places`; user [n];
    asked [v] bool: which of the visible ratings are asked for as targets are, instead of carrying loss in their line.
    """

    renderer: Renderer
    stage: Stage
    user: np.ndarray
    places: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    asked: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def tree(self, i: int) -> Tree:
        """A trunk whose every rating carries loss once, in its line or on a branch that sees the lines before it."""
        renderer, own = self.renderer, self.places[self.start[i] : self.stop[i]]
        history, asked = self.stage.visible[own], self.asked[own]
        trunk = renderer.trunk(self.user[i], history)
        ends = np.cumsum(renderer.pieces.lengths[trunk])
        branches = []
        for line in np.flatnonzero(asked):
            # Opening and head; then the heading, and three pieces a line.
            seen, target = int(ends[2 + 3 * line] if line else ends[1]), int(history[line])
            rest = renderer.pieces.tokens(renderer.branch(target, seen))
            branches.append(Branch(seen, rest, renderer.answer(target)))
        lines = renderer.rating_places(trunk, np.flatnonzero(~asked))
        return Tree(renderer.pieces.tokens(trunk), lines, tuple(branches))


def cut_stretches(
    renderer: Renderer, stage: Stage, lines: int, interleaved: int, asked: float, seed: int, epoch: int
) -> Stretches:
    """Cut every user's training ratings every `lines * interleaved` ratings, from a place that differs by user and
    epoch, and deal those of each cut at random to as few stretches of at most `lines` as hold them, where they keep
    their order. So each rating comes to stand at every place of a stretch, and, with interleaved > 1, behind others in
    every epoch; each is asked for with the probability `asked`."""
    user, places = [], []
    drawn = np.zeros(len(stage.visible), dtype=bool)
    for number, key in enumerate(renderer.table.user_keys):
        first, last = stage.visible_offsets[number : number + 2]
        numbers = draws.uniforms(1 + last - first, draws.STRETCHES, seed, key, epoch)
        shift = int(numbers[0] * lines * interleaved)
        drawn[first:last] = numbers[1:] < asked
        order = first + draws.permutation(last - first, draws.DEALT, seed, key, epoch)
        borders = np.unique(np.clip([first, *range(first + shift, last, lines * interleaved), last], first, last))
        for begin, end in pairwise(borders):
            within = order[(begin <= order) & (order < end)]
            stretches = -(-len(within) // lines)
            places += [np.sort(within[nth::stretches]) for nth in range(stretches)]
            user += [number] * stretches
    sizes = np.array([len(stretch) for stretch in places])
    stop = np.cumsum(sizes)
    return Stretches(renderer, stage, np.array(user), np.concatenate(places), stop - sizes, stop, drawn)


def plan_stretches(
    stretches: Stretches, collator: PackedRows, ratings_per_step: int, seed: int, epoch: int, rank: int, world: int
) -> Iterator[list[tuple[list[Tree], float, bool]]]:
    """The steps of an epoch: for each the rows of `rank`, each with its trees, the step's label tokens over all ranks,
    and whether it is the last."""
    keys = stretches.renderer.table.user_keys
    order = draws.order_of_items(stretches.user, keys, draws.ORDER, seed, epoch)
    ends = np.cumsum((stretches.stop - stretches.start)[order])
    step = (ends - 1) // ratings_per_step
    for members in np.split(order, np.flatnonzero(np.diff(step)) + 1):
        trees = [stretches.tree(i) for i in members]
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
    """The folder of the base model that the config node `model` asks for (None: it asks for none), trained now by all
    ranks if it isn't cached yet: by the data, the training ratings, the prompt's form, and the model's own settings."""
    model, stage = inputs.settings.model, inputs.stages["train"]
    if not (isinstance(model, TinyModel) and model.base.lines):
        return None
    config = inputs.settings.config
    form = {name: config[name] for name in ("ablation", "model")}
    form["prompt"] = {name: config["prompt"][name] for name in ("task", "question", "chat")}
    key = content_key("base", VERSION, inputs.table.content_hash(), stage.visible.tobytes(), form)
    folder = cache_root() / "bases" / key
    # Without the lock where it is there: a cache that can't be written to serves too.
    if ranks.broadcast(ranks.main and is_intact(folder)):
        return folder
    # Of several runs that want the same model at once, one trains it and the others wait.
    with lock(folder) if ranks.main else nullcontext():
        if not ranks.broadcast(ranks.main and is_intact(folder, warn=True)):
            _train(inputs, model.base, ranks, folder)
    return folder


def _train(inputs: RunInputs, base: Base, ranks: Ranks, folder: Path) -> None:
    settings, tokenizer = inputs.settings, inputs.tokenizer
    longest, held = settings.prompt.max_tokens, param_placement(settings.deepspeed, settings.model.dtype, ranks)
    fresh = build_model(settings.model, NoPeft(), tokenizer, longest, base.seed, held)
    rates = base.learning_rate, base.adam_learning_rate
    rule = OptimizerSettings("muon", *rates, weight_decay=base.weight_decay, gradient_clipping=0.0)
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
            own = 0.0
            for trees, labels, last in rows:
                own += float(engine.backward(collator.train_row(trees, history_loss_weight=1.0), labels, last)) / labels
            own = float(ranks.sum(torch.tensor(own, dtype=torch.float64, device=ranks.device)))
            loss += max(0.02, 1 / (done + 1)) * (own - loss)  # a mean of the last steps, at first of all
            bar.advance(task)
            if (done + 1) % max(1, total // 10) == 0:
                minutes = (time.perf_counter() - started) / 60
                console.print(f"base model  step {done + 1:,}  {minutes:.1f} minutes  loss {loss:.4f} nats a token")
    with new_entry(folder) if ranks.main else nullcontext(folder) as entry:
        engine.export(ranks.broadcast(entry), tokenizer)
    ranks.barrier()  # the others would open it before it has its name


def _steps(base: Base, renderer: Renderer, stage: Stage, collator: PackedRows, ranks: Ranks) -> Iterator[list]:
    """`base.steps` steps of each length in turn, epoch after epoch."""
    epoch = 0
    for lines in base.lines:
        left = base.steps
        while left:
            stretches = cut_stretches(renderer, stage, lines, base.interleaved, base.asked, base.seed, epoch)
            per_step = base.ratings_per_step
            for rows in plan_stretches(stretches, collator, per_step, base.seed, epoch, ranks.rank, ranks.world):
                yield rows
                left -= 1
                if not left:
                    break
            epoch += 1
