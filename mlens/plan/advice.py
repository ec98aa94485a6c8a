"""Advice for a run that doesn't fit: settings are tried in order, the cheapest first, and their memory is estimated in
the same way as the plan's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mlens.compose import compose_config
from mlens.config import Settings, check_config
from mlens.packing.packed import PackedRows
from mlens.plan.hardware import Machine
from mlens.plan.job_plan import Plan, PlannedJob, count_work, heaviest_rows, rank_memory
from mlens.plan.rank_memory import GIB

MOST_GPUS = 64


@dataclass(frozen=True)
class Change:
    """A change of one setting.

    text: the override.
    apply: returns the changed settings.
    """

    text: str
    apply: Callable[[Settings], Settings]

    @property
    def key(self) -> str:
        return self.text.split("=")[0]


def advise(job: PlannedJob, plan: Plan, machine: Machine, process: int) -> str:
    """Return the first change under which the job fits, else the first combination of changes, else more GPUs.

    process: bytes of the program itself, on a CPU.
    """

    # Estimates made so far; they are the same for the same model and rows.
    known = [(job.sketch, job.settings.packing, plan.counted, plan.rows)]

    def needs(changes: tuple[Change, ...], on: Machine) -> int:
        settings = job.settings
        for change in changes:
            settings = change.apply(settings)
        changed = replace(job, settings=settings)
        for sketch, packing, counted, rows in known:
            if (sketch, packing) == (changed.sketch, settings.packing):
                return rank_memory(changed, counted, rows, on, process).total
        repacked = settings.packing != job.settings.packing
        work = count_work(changed, machine.ranks) if repacked else (plan.training, plan.evaluations)
        known.append((changed.sketch, settings.packing, changed.sketch.count(), heaviest_rows(changed, *work)))
        return needs(changes, on)

    least, fewest = plan.memory.total, tuple[Change, ...]()
    for changes in _combinations(job.settings):
        taken = needs(changes, machine)
        if taken <= plan.room:
            return f"with {_overrides(changes)} it takes {taken / GIB:,.1f} GiB, and fits"
        if taken < least:
            least, fewest = taken, changes
    ranks = 2 * machine.ranks
    while machine.cuda and ranks <= MOST_GPUS:
        taken = needs(fewest, replace(machine, ranks=ranks))
        if taken <= plan.room:
            return f"with {_overrides(fewest)} on {ranks} GPUs it takes {taken / GIB:,.1f} GiB on each, and fits"
        ranks *= 2
    return f"no setting was found under which it fits (at least {least / GIB:,.1f} GiB): choose a smaller model"


def _overrides(changes: tuple[Change, ...]) -> str:
    return " ".join(change.text for change in changes)


def _combinations(settings: Settings) -> Iterator[tuple[Change, ...]]:
    """Yield each change alone, the cheapest first, then the first 2, 3, … together; the last value of a key wins."""
    singles = list(changes(settings))
    yield from ((change,) for change in singles)
    for n in range(2, len(singles) + 1):
        last = {change.key: change for change in singles[:n]}
        if len(last) > 1:
            yield tuple(last.values())


def changes(settings: Settings) -> Iterator[Change]:
    """Yield each change that lowers the run's memory, the cheapest first."""
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
    # The trainer doesn't affect memory, but an adapter learns little at the learning rates of full fine-tuning.
    yield Change("peft=lora trainer=lora", _with_choice("peft", "lora"))


def _with_checkpointing(settings: Settings) -> Settings:
    return replace(settings, model=replace(settings.model, gradient_checkpointing=True))


def _with_rows_of(tokens: int) -> Callable[[Settings], Settings]:
    return lambda settings: replace(settings, packing=replace(settings.packing, row_tokens=tokens))


def _with_choice(group: str, option: str) -> Callable[[Settings], Settings]:
    chosen = getattr(check_config(compose_config([f"{group}={option}"])), group)
    return lambda settings: replace(settings, **{group: chosen})
