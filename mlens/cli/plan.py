"""mlens plan OVERRIDES: estimate the cost of a run before it occupies any GPU."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mlens import __version__
from mlens.errors import exit_on_interrupt, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mlens plan",
        description="Estimate the cost of a run: prompt lengths, tokens, steps, memory of each rank by part, time and "
        "disk; and, where it doesn't fit, what to change. Takes the overrides of train.py, and hardware=NAME, a choice "
        "of conf/hardware/ (this_machine by default). No weights are needed: for the models of conf/model/, a "
        "model.path with a tokenizer is enough.",
        epilog="examples: "
        "mlens plan model=qwen3_8b data=ml_1m history=random hardware=8xH100 ; "
        "mlens plan --multirun history=none,all_previous,random data=ml_latest_small data.path=DIR ; "
        "mlens plan +experiment=five_way hardware=1xH100 hardware.utilisation=0.4",
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("--multirun", "-m", action="store_true", help="plan every job of a sweep, a column for each")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with options for the groups of conf/")
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="as for train.py; hardware=NAME, hardware.KEY=…"
    )
    options = parser.parse_intermixed_args()
    with exit_on_interrupt(), exit_on_user_error(result_on_stdout=True):
        from mlens.compose import config_dir_overrides

        print_plan([*options.overrides, *config_dir_overrides(options.config_dir)], options.multirun)


def print_plan(overrides: list[str], multirun: bool) -> None:
    """Plan all jobs and print them as one table, then what doesn't fit and what to do."""
    # DeepSpeed is imported but never started; without this it would look for a GPU.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from rich.console import Console

    from mlens.plan.jobs import plan_request

    request = plan_request(overrides, multirun)
    from mlens.plan.advice import advise
    from mlens.plan.hardware import Machine, resolve_machine
    from mlens.plan.job_plan import Plan, plan, prepare, process_bytes
    from mlens.plan.plan_table import print_plans
    from mlens.training.detailed_log import sharing_notes

    console = Console()
    if not console.is_terminal:
        console.width = 80 + 40 * len(request.jobs)  # unlike a terminal, a file has no width limit
    plans: dict[str, Plan] = {}
    of_data: dict[str, None] = {}  # without repetitions, in order
    notes: list[str] = []
    machine: Machine | None = None
    with console.status("") as status:
        for name, config in request.jobs:
            status.update(f"planning {len(plans) + 1} of {len(request.jobs)}")
            job = prepare(config)
            machine = machine or resolve_machine(request.hardware, job.settings.model.dtype)
            process = 0 if machine.cuda else process_bytes()
            plans[name] = planned = plan(job, machine, process)
            of_data |= dict.fromkeys(job.datasets["train"].table.notes)
            if not planned.fits:
                notes.append(f"DOES NOT FIT  {name}: {advise(job, planned, machine, process)}")
            shared = sharing_notes(job.datasets["train"], job.settings.trainer.steps())
            notes.extend(f"NOTE  {name}: {line}" for line in shared)
    assert machine is not None
    print_plans(console, plans, machine)
    for line in (*of_data, *notes):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
