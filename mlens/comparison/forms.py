"""What a comparison needs of the files that a run left. A file that was cut off, edited by hand or made up is refused
in one line, so that whoever reads the content need not look twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mlens.errors import UserError
from mlens.saved_config import read_saved_config

# Larger numbers are none of a run's.
LARGEST = 1e15
# By how much a share or a sum of shares may be off, from rounding.
ROUNDING = 1e-4
# Rows that a byte of a parquet file may hold: every target has a prediction of its own.
ROWS_PER_BYTE = 10


@dataclass(frozen=True)
class Kind:
    """A kind of values: what it is called, and whether a value is of it."""

    name: str
    holds: Callable[[Any], bool]


# A form is a kind of values, a list of one form, or a dict of forms by key (`key?`: may be missing; `...`: of all other
# keys, which may be any without it).
Form = Any


def _is(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is(value, int, float) and abs(value) <= LARGEST  # NaN is none


def _is_within(value: Any, most: float) -> bool:
    return _is_number(value) and -ROUNDING <= value <= most + ROUNDING


TEXT = Kind("text", lambda value: _is(value, str))
TEXT_OR_NONE = Kind("text or null", lambda value: value is None or _is(value, str))
WHOLE = Kind("a whole number", lambda value: _is(value, int) and _is_number(value))
COUNT = Kind("a whole number of at least 0", lambda value: WHOLE.holds(value) and value >= 0)
NUMBER = Kind("a number", _is_number)
POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
ERROR = Kind("a number of at least 0", lambda value: _is_number(value) and value >= 0)
AMOUNT = Kind("a number of at least 0, or null", lambda value: value is None or ERROR.holds(value))
LOSS = Kind("a number of at least 0, or null", lambda value: value is None or _is_within(value, LARGEST))
SHARE = Kind("a number from 0 to 1, or null", lambda value: value is None or _is_within(value, 1))
MAYBE_NUMBER = Kind("a number or null", lambda value: value is None or _is(value, int, float))
FIGURES = Kind("a number, null, or an object", lambda value: value is None or _is_number(value) or _is(value, dict))
OBJECT = Kind("an object", lambda value: _is(value, dict))
LIST = Kind("a list", lambda value: _is(value, list))
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
ID = Kind("an id", lambda value: _is(value, int, str))

# Taken from the runs' own summaries, as means over seeds.
SUMMARISED = {
    "accuracy": SHARE,
    "nll": LOSS,
    "calibration_error": SHARE,
    "auc": SHARE,
    "ndcg_10": SHARE,
    "user_rmse": AMOUNT,
    "argmax_rmse": AMOUNT,
    "illegal_mass": SHARE,
}

_ERRORS = {...: {"rmse": AMOUNT, "mae?": AMOUNT, "targets?": COUNT}}
_AUDITED = {"targets": COUNT, "visible": COUNT, "shown": {"prompts": COUNT}}
SUMMARY: Form = {
    "fingerprint": TEXT,
    "overrides": [TEXT],
    "metrics": {
        "val?": {"rmse?": AMOUNT},
        "test": {"rmse": ERROR, "mae": ERROR, "targets?": COUNT, "averaged?": {"rmse": ERROR}, ...: FIGURES}
        | {"expected_std?": AMOUNT}
        | dict.fromkeys(("by_user_activity?", "by_movie_popularity?", "by_history_length?"), _ERRORS)
        | {f"{name}?": kind for name, kind in SUMMARISED.items()},
    },
    "baselines": {"test": {"full_history": _ERRORS, "own_history?": _ERRORS}},
    "training": {"targets": COUNT, "tokens?": AMOUNT, "step?": COUNT},
    "seconds": {...: AMOUNT},
    "audit?": {"leaks": {...: COUNT}, "stages": {...: _AUDITED}},
    "identity?": {"data": TEXT, "model": TEXT_OR_NONE},
    "made_up_data": SWITCH,
    "versions": {...: TEXT},
}
EVALUATION: Form = {"history": OBJECT, "metrics": {"test": {"rmse": ERROR}}}
PLAN: Form = {"steps_per_epoch": POSITIVE}
RECORD: Form = {"kind": TEXT}
# A validation of a model that predicts no numbers is recorded as NaN.
VALIDATION: Form = {"step": COUNT, "seconds": ERROR, "rmse": MAYBE_NUMBER}
PROMPTS: Form = [
    {"kind": TEXT, "user": ID, "movie": ID, "t": COUNT, "title": TEXT, "prompt": TEXT}
    | {"rating": NUMBER, "expected": NUMBER, "history_used": COUNT}
]
CONFIG: Form = {"seed": WHOLE, "history": OBJECT, "comparison?": OBJECT}

# Columns of predictions: text or numbers, and numbers (all with prefix p_ too).
NAMES = ("user", "movie", "history_hash")
NUMBERS = ("t", "rating", "expected", "argmax", "history_used", "history_dropped")
COUNTS = ("t", "history_used", "history_dropped")
# Of a run with several draws of histories: which one, from 0.
DRAW = "draw"


def read_json(file: Path, form: Form = OBJECT) -> Any:
    """The content of a JSON file. Raises UserError where it can't be read or hasn't this form."""
    try:
        return parse_json(file.read_text(encoding="utf-8"), form, str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read: {error}") from error


def parse_json(text: str, form: Form, place: str) -> Any:
    """The content of JSON text. Raises UserError, which begins with `place`, where it is none or hasn't this form."""
    try:
        content = json.loads(text)
        if "\\u" in text:  # half of a character pair is written so, and no file can hold it
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} can't be read: {error}") from error
    require(content, form, place)
    return content


def read_config(file: Path) -> dict:
    """A run's saved config. Raises UserError where it can't be read or is none."""
    content = read_saved_config(file)
    require(content, CONFIG, str(file))
    return content


def read_predictions(file: Path, columns: tuple[str, ...] | None = None) -> list[pl.DataFrame]:
    """For each draw of histories (one without a column `draw`) a frame with one row a target: these columns (None: all
    that predictions have). Raises UserError where the file can't be read, a column is missing, of another kind, or has
    gaps, draws have different numbers of rows, a target stands twice in one, or figures in any column can't be."""
    try:
        schema = pl.read_parquet_schema(file)
        rows = pl.scan_parquet(file, glob=False).select(pl.len()).collect().item()
        own = [*NAMES, *NUMBERS, *(name for name in schema if name.startswith("p_"))]
        wanted = (own if columns is None else list(columns)) + [DRAW] * (DRAW in schema)
        for name in wanted:
            _require_column(name, schema, file)
        if not 0 < rows <= ROWS_PER_BYTE * file.stat().st_size:
            raise UserError(f"{file}: {rows:,} rows of predictions can't be in it")
        _require_possible(file, schema)
        frame = pl.read_parquet(file, columns=wanted, glob=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(f"{file} can't be read: {str(error).partition(chr(10))[0]}") from error
    for name in wanted:
        gap = frame[name].has_nulls() if name in NAMES else not frame[name].is_between(-LARGEST, LARGEST).all()
        if gap or frame[name].has_nulls():
            raise UserError(f"{file}: the column {name} has values that are none")
    return _draws(frame, file) if DRAW in wanted else [frame]


def _draws(frame: pl.DataFrame, file: Path) -> list[pl.DataFrame]:
    """The rows of each draw, in their order. Raises UserError where draws aren't 0, 1, … with equally many rows."""
    sizes = frame.group_by(DRAW).len().sort(DRAW)
    if sizes[DRAW].to_list() != list(range(len(sizes))) or sizes["len"].n_unique() != 1:
        raise UserError(f"{file}: the column {DRAW} must count draws from 0, each with a row for every target")
    return [own.drop(DRAW) for own in frame.sort(DRAW, maintain_order=True).partition_by(DRAW, maintain_order=True)]


def _require_possible(file: Path, schema: dict[str, pl.DataType] | pl.Schema) -> None:
    """Raises UserError for the first rule that a row breaks. The rows are read in pieces, and not kept."""
    shares = [name for name in schema if name.startswith("p_")]
    for name in (name for name in (*NAMES, *NUMBERS, *shares) if name in schema):
        _require_column(name, schema, file)
    rules = {f"{name} is negative": pl.col(name) < 0 for name in COUNTS if name in schema}
    rules |= {f"{name} is no probability": ~pl.col(name).is_between(-ROUNDING, 1 + ROUNDING) for name in shares}
    if shares:
        scale = _scale(shares, file)
        lowest, highest = min(scale) - ROUNDING, max(scale) + ROUNDING
        rules["probabilities don't sum to 1"] = (pl.sum_horizontal(shares) - 1).abs() > ROUNDING
        on_scale = {name: pl.col(name).is_in(scale) for name in ("rating", "argmax") if name in schema}
        rules |= {f"{name} is not on the scale": ~rule for name, rule in on_scale.items()}
        if "expected" in schema:
            rules["expected is outside of the scale"] = ~pl.col("expected").is_between(lowest, highest)
    if {"user", "t"} <= {*schema}:
        one = [name for name in ("user", "t", DRAW) if name in schema]
        rules["a target stands twice"] = pl.struct(one).is_duplicated()
    found = pl.scan_parquet(file, glob=False).select(rule.any().alias(name) for name, rule in rules.items()).collect()
    broken = [name for name in rules if found[name][0]]
    if broken:
        raise UserError(f"{file}: {broken[0]}: these are no run's predictions")


def _scale(shares: Sequence[str], file: Path) -> list[float]:
    try:
        return [float(name.removeprefix("p_")) for name in shares]
    except ValueError as error:
        raise UserError(f"{file}: a column p_… is of no rating: {error}") from error


def _require_column(name: str, schema: dict[str, pl.DataType] | pl.Schema, file: Path) -> None:
    if name not in schema:
        raise UserError(f"{file}: there is no column {name}")
    kind = schema[name]
    if not (kind.is_numeric() or (name in NAMES and kind == pl.String)):
        raise UserError(f"{file}: the column {name} must be {'text or ' if name in NAMES else ''}numbers, not {kind}")


def require(content: Any, form: Form, place: str, name: str = "") -> None:
    """Raises UserError where `content`, which stands in the file `place` as `name`, hasn't this form."""
    kind = form if isinstance(form, Kind) else OBJECT if isinstance(form, dict) else LIST
    if not kind.holds(content):
        raise UserError(f"{place}: {name or 'the content'} must be {kind.name}, not {_short(content)}")
    if isinstance(form, list):
        for i, item in enumerate(content):
            require(item, form[0], place, f"{name}[{i}]")
    elif isinstance(form, dict):
        named = {key.removesuffix("?"): key for key in form if key is not ...}
        for key, written in named.items():
            if key == written and key not in content:
                raise UserError(f"{place}: {_below(name, key)} is missing")
        for key, value in content.items():
            if key in named or ... in form:
                require(value, form[named.get(key, ...)], place, _below(name, key))


def _below(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _short(content: Any) -> str:
    if isinstance(content, dict | list):
        return "an object" if isinstance(content, dict) else "a list"
    text = repr(content)
    return text if len(text) <= 60 else f"{text[:57]}..."
