"""Time and memory to make the report of large runs, from predictions on disk to report.html.

    python benchmarks/report.py [--targets 1000000] [--runs 5]

The runs are made up: 20,000 users, with independent errors for each strategy. The report is made in a separate
process, whose peak memory is read when it ends.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
USERS = 20_000
STRATEGIES = ("none", "all_previous", "random", "fixed_count")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    # The tests' helper makes the run folders.
    sys.path.insert(0, str(ROOT))
    from tests.helpers.made_up_runs import make_run

    with tempfile.TemporaryDirectory() as folder:
        for run in range(options.runs):
            history = STRATEGIES[run % len(STRATEGIES)]
            parameters = {"count": run} if history == "fixed_count" else {"ratio": 0.5} if history == "random" else {}
            settings = {"trainer.learning_rate": 0.01 * (1 + run // len(STRATEGIES))}
            make_run(
                Path(folder, f"run{run}"),
                history,
                parameters,
                error=0.8 + 0.01 * run,
                users=USERS,
                each=options.targets // USERS,
                dropped=1,
                settings=settings,
            )
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mlens", "compare", folder], check=True)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    table = Table(title=f"Report of {options.runs} runs of {options.targets:,} predictions")
    for column in ("seconds", "goal", "peak GiB", "goal"):
        table.add_column(column, justify="right")
    table.add_row(f"{seconds:.1f}", "60", f"{peak / 2**30:.2f}", "2")
    Console().print(table)


if __name__ == "__main__":
    main()
