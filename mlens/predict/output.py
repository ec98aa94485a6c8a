"""Write predictions to a file: CSV, JSON or Parquet."""

from __future__ import annotations

from collections.abc import Callable
from io import BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING

from mlens.errors import UserError

if TYPE_CHECKING:
    import polars as pl


def writer_for(file: Path) -> Callable[[pl.DataFrame, BufferedWriter], object]:
    """Return the function that writes a file with this suffix. Raises UserError for an unknown suffix."""
    writers: dict[str, Callable[[pl.DataFrame, BufferedWriter], object]] = {
        ".csv": _write_csv,
        ".json": lambda frame, stream: frame.write_json(stream),
        ".parquet": lambda frame, stream: frame.write_parquet(stream),
    }
    if file.suffix.lower() not in writers:
        raise UserError(f"--output {file} must end in {', '.join(writers)}")
    return writers[file.suffix.lower()]


def _write_csv(frame: pl.DataFrame, stream: BufferedWriter) -> None:
    import polars as pl

    from mlens.data.delimited import without_formulas

    if "prompt_token_ids" in frame.columns:  # CSV has no lists
        frame = frame.with_columns(pl.col("prompt_token_ids").cast(pl.List(pl.String)).list.join(" "))
    without_formulas(frame).write_csv(stream)
