"""mlens compare DIR [DIR …]: write the report that compares finished runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlens import __version__
from mlens.errors import exit_on_interrupt, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mlens compare",
        description="Compare finished runs: report.html, explore.html, report.md, results.csv and pairs.csv.",
        epilog="Runs are searched for at any depth: DIR may be a run, a sweep, or outputs/. Unfinished runs are named "
        "and left out. With two strategies the report also shows where their configs differ and where their "
        "predictions differ most.",
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, help="the report's folder (DIR if only one is given, else comparison/)")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="allow runs to run code: a strategy from outside mlens, whose histories explore.html shows",
    )
    options = parser.parse_args()
    default = options.folders[0] if len(options.folders) == 1 else Path("comparison")
    with exit_on_interrupt(), exit_on_user_error():
        from mlens.comparison.report import print_report, report

        print_report(report(options.folders, options.output or default, options.trust))
