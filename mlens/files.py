"""Files that are whole or not there: written beside, then renamed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_beside(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside and rename it: a reader sees the old file or the whole new one."""
    beside = file.with_name(f".{file.name}.new")
    write(beside)
    beside.replace(file)


def write_text(file: Path, text: str) -> None:
    write_beside(file, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_json(file: Path, content: Any) -> None:
    """Numbers that aren't finite (a metric of nothing is NaN) become null: JSON has no word for them."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(file, text + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
