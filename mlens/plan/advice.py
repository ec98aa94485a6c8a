"""What to change where a run doesn't fit: settings tried one after the other, the cheapest first, through the plan's
own count of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mlens.compose import compose_config
from mlens.config import Settings, check
from mlens.packing.packed import PackedRows
from mlens.plan.hardware import Machine
from mlens.plan.memory import GIB
from mlens.plan.plan import Job, Plan, memory, rows, works

MOST_GPUS = 64


@dataclass(frozen=True)
class Change:
    """text: as an override; apply: what it makes of a job's settings."""

    text: str
    apply: Callable[[Settings], Settings]

    @property
    def key(self) -> str:
        return self.text.split("=")[0]


def advise(job: Job, plan: Plan, machine: Machine, process: int) -> str:
    """The first change under which the job fits, else the first ones that do so together, else more GPUs."""

    # What was counted already: the same model reads the same rows.
    known = [(job.sketch, job.settings.packing, plan.counted, plan.rows)]

    def needs(changes: tuple[Change, ...], own: Machine) -> int:
        settings = job.settings
        for change in changes:
            settings = change.apply(settings)
        changed = replace(job, settings=settings)
        for sketch, packing, counted, found in known:
            if (sketch, packing) == (changed.sketch, settings.packing):
                return memory(changed, counted, found, own, process).total
        repacked = settings.packing != job.settings.packing
        reads = works(changed, machine.ranks) if repacked else (plan.training, plan.evaluations)
        known.append((changed.sketch, settings.packing, changed.sketch.count(), rows(changed, *reads)))
        return needs(changes, own)

    least, fewest = plan.memory.total, tuple[Change, ...]()
    for changes in _in_turn(job.settings):
        taken = needs(changes, machine)
        if taken <= plan.room:
            return f"with {_told(changes)} it takes {taken / GIB:,.1f} GiB, and fits"
        if taken < least:
            least, fewest = taken, changes
    ranks = 2 * machine.ranks
    while machine.cuda and ranks <= MOST_GPUS:
        taken = needs(fewest, replace(machine, ranks=ranks))
        if taken <= plan.room:
            return f"with {_told(fewest)} on {ranks} GPUs it takes {taken / GIB:,.1f} GiB on each, and fits"
        ranks *= 2
    return f"no setting was found under which it fits (at least {least / GIB:,.1f} GiB): choose a smaller model"


def _told(changes: tuple[Change, ...]) -> str:
    return " ".join(change.text for change in changes)


def _in_turn(settings: Settings) -> Iterator[tuple[Change, ...]]:
    """Single changes from the cheapest to the dearest, then the first ones together: of a key the last value."""
    singles = list(changes(settings))
    yield from ((change,) for change in singles)
    for n in range(2, len(singles) + 1):
        last = {change.key: change for change in singles[:n]}
        if len(last) > 1:
            yield tuple(last.values())


def changes(settings: Settings) -> Iterator[Change]:
    """Each setting that takes memory off the run, the cheapest first."""
    zero, packing = settings.deepspeed.zero_optimization, settings.packing
    if not settings.model.gradient_checkpointing:
        yield Change("model.gradient_checkpointing=true", _with_checkpointing)
    if isinstance(packing, PackedRows):
        tokens = packing.row_tokens
        while tokens > settings.prompt.max_tokens:
            tokens = max(tokens // 2, settings.prompt.max_tokens)
            yield Change(f"packing.row_tokens={tokens}", _with_rows_of(tokens))
    offloaded = zero.offload_optimizer.device == "cpu"
    names = [f"zero{stage}" for stage in (2, 3) if stage > zero.stage and not offloaded]
    names += [f"zero{stage}_offload" for stage in (2, 3) if stage >= zero.stage + offloaded]
    for name in names:
        yield Change(f"deepspeed={name}", _with_choice("deepspeed", name))
    # The trainer changes no memory, but an adapter learns little at the rates of full fine-tuning.
    yield Change("peft=lora trainer=lora", _with_choice("peft", "lora"))


def _with_checkpointing(settings: Settings) -> Settings:
    return replace(settings, model=replace(settings.model, gradient_checkpointing=True))


def _with_rows_of(tokens: int) -> Callable[[Settings], Settings]:
    return lambda settings: replace(settings, packing=replace(settings.packing, row_tokens=tokens))


def _with_choice(group: str, option: str) -> Callable[[Settings], Settings]:
    chosen = getattr(check(compose_config([f"{group}={option}"])), group)
    return lambda settings: replace(settings, **{group: chosen})
