"""The table of plans: a column for each job."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlens.plan.hardware import Machine
from mlens.plan.job_plan import Disk, Plan
from mlens.plan.rank_memory import GIB

Line = tuple[str, str]
CAPTION = (
    "Times are operations over that rate: loading, communication and offloaded updates come on top, and early stopping "
    "ends a run sooner. Memory is what PyTorch takes at most."
)


def print_plans(console: Console, plans: dict[str, Plan], machine: Machine) -> None:
    """Print the plans, then a line for each job whose files don't fit on the disk. Names aren't parsed as markup."""
    table = Table(title=Text(machine.description), title_justify="left", title_style="none")
    table.add_column("")
    sections = [list(_sections(plan, machine)) for plan in plans.values()]
    for name in plans:
        table.add_column(Text(name), justify="right", overflow="fold")
    for section in zip(*sections, strict=True):
        labels = list(dict.fromkeys(label for lines in section for label, _ in lines))
        for label in labels:
            table.add_row(Text(label), *(Text(dict(lines).get(label, "")) for lines in section))
        table.add_section()
    console.print(table)
    console.print(CAPTION, markup=False, highlight=False, soft_wrap=True)
    for name, plan in plans.items():
        if not plan.disk.fits:
            console.print(_disk_is_full(name, plan.disk), markup=False, highlight=False, soft_wrap=True)


def _sections(plan: Plan, machine: Machine) -> Iterator[list[Line]]:
    yield [line for stage, lengths in plan.lengths.items() for line in _lengths(stage, lengths)]
    yield list(_work(plan))
    yield list(_memory(plan, machine))
    yield list(_time(plan))
    yield list(_disk(plan))


def _lengths(stage: str, lengths) -> Iterator[Line]:
    yield f"{stage} targets", f"{lengths.targets:,}"
    tokens = (lengths.tokens_median, lengths.tokens_p90, lengths.tokens_p99, lengths.tokens_max)
    yield f"{stage} prompt tokens: median, 90%, 99%, max", ", ".join(f"{n:,}" for n in tokens)
    yield f"{stage} targets trimmed; ratings cut", f"{lengths.trimmed:.1%}; {lengths.ratings_dropped:.1%}"


def _work(plan: Plan) -> Iterator[Line]:
    training, tokens = plan.training, plan.training.passes.tokens
    yield "tokens an epoch without sharing", _millions(training.unshared_tokens)
    yield (
        "tokens an epoch as read",
        f"{_millions(tokens)}, {training.unshared_tokens / tokens:.1f} times fewer",
    )
    if training.share < 1:
        yield "counted on", f"{training.share:.2%} of the targets"
    yield "steps of the run; of an epoch", f"{plan.steps:,}; {plan.epoch_steps:,}"
    yield "rows a step on each rank, at most", f"{training.rows:,}"
    yield "longest row in tokens", f"{max(row.input_ids.numel() for row in training.heaviest):,}"


def _memory(plan: Plan, machine: Machine) -> Iterator[Line]:
    counted, memory = plan.counted, plan.memory
    active = counted.sizes.body + counted.sizes.head
    yield "parameters; trained", f"{counted.parameters / 1e6:,.1f} M; {counted.trained / 1e6:,.1f} M"
    if active < counted.parameters / 2:  # a mixture of experts
        yield "parameters that a token goes through", f"{active / 1e6:,.1f} M"
    yield "sizes", plan.sizes_from
    for name in ("weights", "gradients", "optimizer", "activations", "logits"):
        yield f"GiB a rank: {name}", _gib(getattr(memory, name))
    yield "GiB a rank: in an update, beside weights and optimizer", _gib(memory.update)
    yield "GiB a rank: an evaluation's row", _gib(memory.scoring)
    if not machine.cuda:
        yield "GiB a rank: the program", _gib(memory.process)
    yield "GiB a rank at most", f"{_gib(memory.total)} of {_gib(plan.room)}{_mark(plan.fits)}"
    if memory.host:
        yield "GiB in the computer's memory, all ranks", _gib(memory.host * machine.ranks)


def _time(plan: Plan) -> Iterator[Line]:
    yield "an epoch", _duration(plan.epoch_seconds)
    yield "a validation; how many", f"{_duration(plan.validation_seconds)}; {plan.validations}"
    yield "the whole run, if nothing ends it early", _duration(plan.run_seconds)


def _disk(plan: Plan) -> Iterator[Line]:
    disk = plan.disk
    yield "GB on disk: a checkpoint; all at once", f"{disk.checkpoint / 1e9:,.2f}; {disk.checkpoints / 1e9:,.2f}"
    yield "GB on disk: the model", f"{disk.model / 1e9:,.2f}"
    yield "GB free there", f"{disk.free / 1e9:,.1f}{_mark(disk.fits)}"


def _disk_is_full(name: str, disk: Disk) -> str:
    return (
        f"DOES NOT FIT  {name}: checkpoints and model take {disk.total / 1e9:,.1f} GB, and {disk.free / 1e9:,.1f} GB "
        "are free: give an output_dir on another disk, lower trainer.checkpoint.keep, or choose peft=lora trainer=lora"
    )


def _mark(fits: bool) -> str:
    return "" if fits else ": DOES NOT FIT"


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}"


def _millions(number: float) -> str:
    return f"{number / 1e6:,.2f} M"


def _duration(seconds: float) -> str:
    """Format seconds roughly, since the rate is an estimate.

    >>> [_duration(seconds) for seconds in (3, 100, 7200, 400_000)]
    ['about 3 s', 'about 1.7 min', 'about 2.0 h', 'about 111 h']
    """
    if seconds < 60:
        return f"about {seconds:.1g} s" if seconds < 1 else f"about {seconds:.0f} s"
    if seconds < 3600:
        return f"about {seconds / 60:.1f} min"
    hours = seconds / 3600
    return f"about {hours:.1f} h" if hours < 100 else f"about {hours:,.0f} h"
