"""The time from the start of a process to its first optimizer step, with cached data.

    python benchmarks/startup.py --data DIR         DIR: the folder of ml-latest-small

Starts `train.py` for every strategy, once to fill the cache and once to measure, and prints a table. The goal is
5 seconds on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

STRATEGIES = ("none", "all_previous", "random", "fixed_ratio", "fixed_count")
ROOT = Path(__file__).parent.parent


def first_step_seconds(data: str, history: str) -> float:
    """Run one step; returns the seconds from the start of the process to the end of the step."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"data.path={data}",
            f"history={history}",
            f"output_dir={folder}/run",
            "data=ml_latest_small",
            "trainer.max_steps=1",
            "evaluation.max_users=1",
            "wandb.mode=disabled",
        ]
        subprocess.run([sys.executable, "train.py", *settings], cwd=ROOT, check=True, capture_output=True)
        lines = (Path(folder) / "run" / "training_logs" / "metrics.jsonl").read_text().splitlines()
    return next(record["process_seconds"] for record in map(json.loads, lines) if record["kind"] == "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the folder of ml-latest-small")
    data = str(Path(parser.parse_args().data).resolve())
    first_step_seconds(data, "none")  # fills the cache
    table = Table("history", "seconds to the first step")
    for history in STRATEGIES:
        table.add_row(history, f"{first_step_seconds(data, history):.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
