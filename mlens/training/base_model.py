"""The base model of model=tiny_base, which takes the place of a pretrained model on a laptop.

A tiny Qwen3 is trained once, on training ratings only. It learns from short excerpts of each user's history, in which
every rating is predicted from the lines before it: most ratings in their lines, some as the target of a prompt. So
every strategy of a comparison starts from the same competent model. The lines of excerpts are in time order, whatever
prompt.order: a rating isn't predicted from newer ones.
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
from mlens.model.settings import BaseTraining, NoPeft, TinyModel
from mlens.packing.packed import PackedRows
from mlens.packing.prefix_group import PrefixGroup, Shapes, Suffix
from mlens.pipeline import RunInputs
from mlens.prompt.renderer import Renderer
from mlens.prompt.template import PromptTemplate
from mlens.training.schedule import rate_factor
from mlens.training.settings import Trainer

VERSION = 3


@dataclass(frozen=True)
class Excerpts:
    """Excerpts of users' training ratings, in time order; each rating is in exactly one of them.

    user [n]: the user of each excerpt.
    indices [v]: indices into `stage.visible`, excerpt after excerpt.
    start, stop [n]: where each excerpt is in `indices`.
    as_target [v]: bool, which ratings of `stage.visible` are predicted as the target of a prompt. The others carry loss
        in their lines.
    """

    template: PromptTemplate
    stage: Stage
    user: np.ndarray
    indices: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    as_target: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def prefix_group(self, i: int) -> PrefixGroup:
        """Return an excerpt as a group. Each rating carries loss once, in its line or in a suffix that ends there."""
        template, indices = self.template, self.indices[self.start[i] : self.stop[i]]
        history, as_target = self.stage.visible[indices], self.as_target[indices]
        prefix = template.prefix(self.user[i], history)
        suffixes = []
        for line in np.flatnonzero(as_target):
            seen, target = int(prefix.line_ends[line]), int(history[line])
            pieces = template.suffix(target, template.fitting_turns(target, seen))
            suffixes.append(Suffix(seen, template.pieces.tokens(pieces), template.answer(target)))
        lines = prefix.rating_tokens(np.flatnonzero(~as_target))
        return PrefixGroup(template.pieces.tokens(prefix.pieces), lines, tuple(suffixes))


def cut_excerpts(
    template: PromptTemplate, stage: Stage, lines: int, interleaved: int, target_share: float, seed: int, epoch: int
) -> Excerpts:
    """Cut every user's training ratings into excerpts of at most `lines` ratings.

    A user's ratings are cut every `lines * interleaved` ratings, with an offset that differs by user and epoch. The
    ratings of each piece are distributed at random over as few excerpts as possible, in which they keep their order.
    So over the epochs a rating takes every position in an excerpt, and with interleaved > 1 it has different ratings
    before it in every epoch.

    target_share: the probability that a rating is predicted as the target of a prompt.
    """
    user, indices = [], []
    as_target = np.zeros(len(stage.visible), dtype=bool)
    for number, key in enumerate(template.table.user_keys):
        first, last = stage.visible_offsets[number : number + 2]
        uniforms = draws.uniforms(1 + last - first, draws.EXCERPTS, seed, key, epoch)
        shift = int(uniforms[0] * lines * interleaved)
        as_target[first:last] = uniforms[1:] < target_share
        order = first + draws.permutation(last - first, draws.EXCERPT_ORDER, seed, key, epoch)
        borders = np.unique(np.clip([first, *range(first + shift, last, lines * interleaved), last], first, last))
        for begin, end in pairwise(borders):
            piece = order[(begin <= order) & (order < end)]
            excerpts = -(-len(piece) // lines)
            indices += [np.sort(piece[nth::excerpts]) for nth in range(excerpts)]
            user += [number] * excerpts
    sizes = np.array([len(excerpt) for excerpt in indices])
    stop = np.cumsum(sizes)
    return Excerpts(template, stage, np.array(user), np.concatenate(indices), stop - sizes, stop, as_target)


def plan_excerpts(
    excerpts: Excerpts, collator: PackedRows, ratings_per_step: int, seed: int, epoch: int, rank: int, world: int
) -> Iterator[list[tuple[list[PrefixGroup], float, bool]]]:
    """Yield the steps of an epoch, each as a list of the rows of `rank`.

    A row consists of its groups, the number of label tokens of the step over all ranks, and whether it is the last row
    of the step.
    """
    keys = excerpts.template.table.user_keys
    order = draws.order_of_items(excerpts.user, keys, draws.ORDER, seed, epoch)
    ends = np.cumsum((excerpts.stop - excerpts.start)[order])
    step = (ends - 1) // ratings_per_step
    for members in np.split(order, np.flatnonzero(np.diff(step)) + 1):
        groups = [excerpts.prefix_group(i) for i in members]
        lengths = np.array(
            [
                len(group.prefix) + sum(len(suffix.ids) + len(suffix.answer) - 1 for suffix in group.suffixes)
                for group in groups
            ]
        )
        rows = collator.pack(Shapes(np.arange(len(groups)), lengths, np.zeros_like(lengths)), world)[rank]
        labels = float(sum(len(group.lines) + sum(len(suffix.answer) for suffix in group.suffixes) for group in groups))
        yield [([groups[i] for (i,) in row], labels, n == len(rows) - 1) for n, row in enumerate(rows)]


def base_weights(inputs: RunInputs, ranks: Ranks) -> Path | None:
    """Return the folder of the base model of the config node `model`; None where it has none.

    All ranks train the model together unless it is cached. The cache key consists of the data, the training ratings,
    the format of the prompt, and the settings of the model.
    """
    model, stage = inputs.settings.model, inputs.stages["train"]
    if not (isinstance(model, TinyModel) and model.base.lines):
        return None
    config = inputs.settings.config
    key_settings = {name: config[name] for name in ("ablation", "model")}
    key_settings["prompt"] = {name: config["prompt"][name] for name in ("task", "question", "chat", "dates")}
    key = content_key("base", VERSION, inputs.table.content_hash(), stage.visible.tobytes(), key_settings)
    folder = cache_root() / "bases" / key
    # A cached model needs no lock: the cache may be read-only.
    if ranks.broadcast(ranks.main and is_intact(folder)):
        return folder
    # Of several runs that need the same model at the same time, one trains it and the others wait.
    with lock(folder) if ranks.main else nullcontext():
        if not ranks.broadcast(ranks.main and is_intact(folder, warn=True)):
            _train(inputs, model.base, ranks, folder)
    return folder


def _train(inputs: RunInputs, base: BaseTraining, ranks: Ranks, folder: Path) -> None:
    settings, tokenizer = inputs.settings, inputs.tokenizer
    longest, placement = settings.prompt.max_tokens, param_placement(settings.deepspeed, settings.model.dtype, ranks)
    fresh = build_model(settings.model, NoPeft(), tokenizer, longest, base.seed, placement)
    fresh.get_input_embeddings().register_forward_hook(
        lambda layer, _, embedded: torch.nn.functional.dropout(embedded, base.dropout, layer.training)
    )
    rates = base.learning_rate, base.adam_learning_rate
    rule = OptimizerSettings("muon", *rates, weight_decay=base.weight_decay, gradient_clipping=0.0)
    node = settings.config["deepspeed"]
    engine = instantiate(node, fresh, ranks, rule, settings.model.dtype, _convert_="all")
    total = base.steps * len(base.lines)
    horizon = Trainer(schedule="cosine", warmup_steps=20)
    collator = PackedRows(row_tokens=base.row_tokens)
    console, started, loss = Console(stderr=True, quiet=not ranks.main), time.perf_counter(), 0.0
    console.print(f"training the base model, once for all strategies: {total:,} steps")
    # fork_rng: the dropout of the base model is the same wherever it is trained, and changes nothing after it.
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    devices = [ranks.device] if ranks.device.type == "cuda" else []
    with bar, torch.random.fork_rng(devices):
        torch.manual_seed(base.seed + ranks.rank)
        task = bar.add_task("base model", total=total)
        for done, rows in enumerate(_steps(base, inputs.renderer, inputs.stages["train"], collator, ranks)):
            engine.set_learning_rate(rate_factor(horizon, done, total))
            step_loss = 0.0
            for groups, labels, last in rows:
                row = collator.train_row(groups, history_loss_weight=1.0)
                step_loss += float(engine.backward(row, labels, last)) / labels
            step_loss = float(ranks.sum(torch.tensor(step_loss, dtype=torch.float64, device=ranks.device)))
            loss += max(0.02, 1 / (done + 1)) * (step_loss - loss)  # a moving average
            bar.advance(task)
            if (done + 1) % max(1, total // 10) == 0:
                minutes = (time.perf_counter() - started) / 60
                console.print(f"base model  step {done + 1:,}  {minutes:.1f} minutes  loss {loss:.4f} nats a token")
    with new_entry(folder) if ranks.main else nullcontext(folder) as entry:
        engine.export(ranks.broadcast(entry), tokenizer)
    ranks.barrier()  # no rank may open the folder before it has its final name


def _steps(base: BaseTraining, renderer: Renderer, stage: Stage, collator: PackedRows, ranks: Ranks) -> Iterator[list]:
    """Yield `base.steps` steps of each length in turn, epoch after epoch."""
    epoch = 0
    for lines in base.lines:
        left = base.steps
        while left:
            excerpts = cut_excerpts(
                renderer.template, stage, lines, base.interleaved, base.target_share, base.seed, epoch
            )
            per_step = base.ratings_per_step
            for rows in plan_excerpts(excerpts, collator, per_step, base.seed, epoch, ranks.rank, ranks.world):
                yield rows
                left -= 1
                if not left:
                    break
            epoch += 1
