"""mlens compare DIR [DIR …]: the report of any finished runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlens import __version__
from mlens.errors import exit_on_interrupt, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mlens compare",
        description="Compare finished runs: report.html, report.md and results.csv.",
        epilog="The runs are those in and beneath the folders, at any depth: DIR may be a run, a sweep, or outputs/. "
        "Those that haven't finished are named and left out. With two strategies the report also shows in what their "
        "configs differ and where their predictions are farthest apart.",
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, help="where the report goes (DIR, if there is one; else comparison/)")
    options = parser.parse_args()
    alone = options.folders[0] if len(options.folders) == 1 else Path("comparison")
    with exit_on_interrupt(), exit_on_user_error():
        from mlens.comparison.report import report, say

        say(report(options.folders, options.output or alone))
