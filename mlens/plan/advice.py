"""Advice for a run that doesn't fit: settings are tried in order, the cheapest first, and their memory is estimated in
the same way as the plan's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from mlens.compose import compose_config
from mlens.config import Settings, check_config
from mlens.model.settings import Lora, NoPeft
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

    Where a GPU needs more than smaller activations, what else fits is named too: smaller optimizer states, adapters,
    4-bit weights.

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

    least, fewest, fitting = plan.memory.total, tuple[Change, ...](), dict[str, int]()
    for changes in _combinations(job.settings):
        taken = needs(changes, machine)
        if taken <= plan.room:
            fitting[_overrides(changes)] = taken
            break
        if taken < least:
            least, fewest = taken, changes
    enough = fitting and {change.key for change in changes} <= {"model.gradient_checkpointing", "packing.row_tokens"}
    for change in alternatives(job.settings) if machine.cuda and not enough else ():
        for changes in _with_less_activations(change, job.settings):
            taken = needs(changes, machine)
            if taken <= plan.room:
                fitting[_overrides(changes)] = taken
                break
    if fitting:
        (first, taken), *others = fitting.items()
        answer = f"with {first} it takes {taken / GIB:,.1f} GiB, and fits"
        also = ", ".join(f"{overrides} ({size / GIB:,.1f} GiB)" for overrides, size in others)
        return f"{answer}; others that fit: {also}" if also else answer
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


def _with_less_activations(change: Change, settings: Settings) -> Iterator[tuple[Change, ...]]:
    """Yield the change alone, then with the first 1, 2, … changes that lower activations; the last value of a key
    wins."""
    fewer = list(_fewer_activations(settings))
    for n in range(len(fewer) + 1):
        yield (*{other.key: other for other in fewer[:n]}.values(), change)


def alternatives(settings: Settings) -> Iterator[Change]:
    """Yield each change of what is trained, or of its optimizer, that takes less memory than full training with AdamW.

    Each can be given as it stands: with settings that contradict it changed too.
    """
    zero, peft = settings.deepspeed.zero_optimization, settings.peft
    plain = isinstance(peft, NoPeft)
    if plain and settings.trainer.optimizer == "adamw" and zero.offload_optimizer.device == "none":
        yield Change("trainer.optimizer=adamw_8bit", _with_8_bit_states)
    for name in ("lora", "dora", "qlora") if plain else ("qlora",):
        if plain or not peft.load_in_4bit:
            sharded = zero.stage == 3 and name != "lora"
            # The trainer doesn't affect memory, but an adapter learns little at the learning rates of full fine-tuning.
            text = f"peft={name} trainer=lora" + (" deepspeed=zero2" if sharded else "")
            yield Change(text, _with_choices({"peft": name} | ({"deepspeed": "zero2"} if sharded else {})))


def changes(settings: Settings) -> Iterator[Change]:
    """Yield each change that lowers the run's memory, the cheapest first."""
    zero = settings.deepspeed.zero_optimization
    yield from _fewer_activations(settings)
    offloaded = zero.offload_optimizer.device == "cpu"
    unsharded = isinstance(settings.peft, Lora) and (settings.peft.dora or settings.peft.load_in_4bit)
    stages = (2,) if unsharded else (2, 3)
    names = [f"zero{stage}" for stage in stages if stage > zero.stage and not offloaded]
    if settings.trainer.optimizer != "adamw_8bit":
        names += [f"zero{stage}_offload" for stage in stages if stage >= zero.stage + offloaded]
    for name in names:
        yield Change(f"deepspeed={name}", _with_choices({"deepspeed": name}))
    yield Change("peft=lora trainer=lora", _with_choices({"peft": "lora"}))


def _fewer_activations(settings: Settings) -> Iterator[Change]:
    packing = settings.packing
    if not settings.model.gradient_checkpointing:
        yield Change("model.gradient_checkpointing=true", _with_checkpointing)
    if isinstance(packing, PackedRows):
        tokens = packing.row_tokens
        while tokens > settings.prompt.max_tokens:
            tokens = max(tokens // 2, settings.prompt.max_tokens)
            yield Change(f"packing.row_tokens={tokens}", _with_rows_of(tokens))


def _with_checkpointing(settings: Settings) -> Settings:
    return replace(settings, model=replace(settings.model, gradient_checkpointing=True))


def _with_rows_of(tokens: int) -> Callable[[Settings], Settings]:
    return lambda settings: replace(settings, packing=replace(settings.packing, row_tokens=tokens))


def _with_8_bit_states(settings: Settings) -> Settings:
    return replace(settings, trainer=replace(settings.trainer, optimizer="adamw_8bit"))


def _with_choices(options: Mapping[str, str]) -> Callable[[Settings], Settings]:
    """options: by their config group."""
    chosen = check_config(compose_config([f"{group}={option}" for group, option in options.items()]))
    return lambda settings: replace(settings, **{group: getattr(chosen, group) for group in options})
