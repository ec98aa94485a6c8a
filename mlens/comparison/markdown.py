"""The report as Markdown: report.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mlens.text import one_line


def as_text(text: str) -> str:
    """Escape text for Markdown.

    >>> as_text("a|b [c](d) <img>")
    'a\\\\|b \\\\[c\\\\](d) \\\\<img\\\\>'
    """
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", one_line(text))


def markdown(content: dict[str, Any]) -> str:
    """Return report.md, given the content that it shares with report.html."""
    lines = [f"# {as_text(content['title'])}", "", as_text(content["answer"]), ""]
    lines += [f"- {as_text(line)}" for line in content["fairness"]]
    lines += [f"- not compared: {as_text(line)}" for line in content["refused"]]
    for of_arms in content["tables"]:
        lines += ["", *markdown_table(of_arms["columns"], of_arms["rows"])]
    if content["baselines"]:
        lines += ["", "Baselines on the same targets, given the full history", ""]
        lines += markdown_table(content["baseline_columns"], content["baselines"])
    if content["own_baselines"]:
        lines += ["", "Baselines given what an arm shows: RMSE", ""]
        lines += markdown_table(content["own_baseline_columns"], content["own_baselines"])
    for title, rows in content["differences"].items():
        lines += ["", f"Differences of {title} on test (row minus column; p corrected by Holm's method)", ""]
        matrix = [
            [row["label"], *(f"{c['value']} ({c['p']})" if c["value"] else "" for c in row["cells"])] for row in rows
        ]
        lines += markdown_table(["", *content["labels"]], matrix)
    if content["pairs"]:
        lines += ["", *markdown_table(content["pair_columns"], content["pairs"]), "", " ".join(content["power"])]
    lines += ["", "Leak audit, before training", ""]
    lines += [f"- {as_text(line)}" for line in content["audits"]]
    return "\n".join([*lines, ""])


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(as_text, cells)) + " |"

    return [line(columns), line(["---"] * len(columns)), *map(line, rows)]
