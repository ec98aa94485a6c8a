"""JSON files with a schema: one that is truncated, edited by hand or forged is rejected in one line, so that code that
uses the content needs no checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlens.errors import UserError

# Larger numbers don't occur in a run.
LARGEST = 1e15
# Tolerance for the rounding of a share or of a sum of shares.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Kind:
    """A type of values.

    name: its name in messages.
    holds: whether a value is of this type.
    """

    name: str
    holds: Callable[[Any], bool]


# A schema is a kind of values, a list with the schema of its items, or a dict of schemas by key. `key?` is optional;
# `...` is the schema of all other keys, which aren't checked without it.
Schema = Any


def _is(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is(value, int, float) and abs(value) <= LARGEST  # false for NaN


def _is_within(value: Any, most: float) -> bool:
    return _is_number(value) and -ROUNDING <= value <= most + ROUNDING


TEXT = Kind("text", lambda value: _is(value, str))
TEXT_OR_NONE = Kind("text or null", lambda value: value is None or _is(value, str))
INTEGER = Kind("a whole number of 64 bits", lambda value: _is(value, int) and -(2**63) <= value < 2**63)
COUNT = Kind("a whole number of at least 0", lambda value: _is(value, int) and 0 <= value <= LARGEST)
NUMBER = Kind("a number", _is_number)
POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
ERROR = Kind("a number of at least 0", lambda value: _is_number(value) and value >= 0)
AMOUNT = Kind("a number of at least 0, or null", lambda value: value is None or ERROR.holds(value))
LOSS = Kind("a number of at least 0, or null", lambda value: value is None or _is_within(value, LARGEST))
SHARE = Kind("a number from 0 to 1, or null", lambda value: value is None or _is_within(value, 1))
MAYBE_NUMBER = Kind("a number (NaN included) or null", lambda value: value is None or _is(value, int, float))
NUMBER_OR_NONE = Kind("a number or null", lambda value: value is None or _is_number(value))
INTEGER_OR_NONE = Kind("a whole number of 64 bits, or null", lambda value: value is None or INTEGER.holds(value))
FIGURES = Kind("a number, null, or an object", lambda value: value is None or _is_number(value) or _is(value, dict))
OBJECT = Kind("an object", lambda value: _is(value, dict))
OBJECT_OR_NONE = Kind("an object or null", lambda value: value is None or _is(value, dict))
TWO_TEXTS_OR_NONE = Kind(
    "two texts, or null", lambda value: value is None or (_is(value, list) and [*map(type, value)] == [str, str])
)
LIST = Kind("a list", lambda value: _is(value, list))
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
ID = Kind("an id", lambda value: _is(value, int, str))


def read_json(file: Path, schema: Schema = OBJECT) -> Any:
    """Read a JSON file. Raises UserError if it can't be read or doesn't match the schema."""
    try:
        return parse_json(file.read_text(encoding="utf-8"), schema, str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read: {error}") from error


def parse_json(text: str, schema: Schema, place: str) -> Any:
    """Parse JSON text. Raises UserError, which begins with `place`, if it isn't JSON or doesn't match the schema."""
    try:
        content = json.loads(text)
        if "\\u" in text:  # an escaped lone surrogate parses, but can't be encoded as UTF-8
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} can't be read: {error}") from error
    require(content, schema, place)
    return content


def require(content: Any, schema: Schema, place: str, name: str = "") -> None:
    """Raise UserError if `content`, found in the file `place` under the key `name`, doesn't match the schema."""
    kind = schema if isinstance(schema, Kind) else OBJECT if isinstance(schema, dict) else LIST
    if not kind.holds(content):
        raise UserError(f"{place}: {name or 'the content'} must be {kind.name}, not {_short(content)}")
    if isinstance(schema, list):
        for i, item in enumerate(content):
            require(item, schema[0], place, f"{name}[{i}]")
    elif isinstance(schema, dict):
        named = {key.removesuffix("?"): key for key in schema if key is not ...}
        for key, written in named.items():
            if key == written and key not in content:
                raise UserError(f"{place}: {_below(name, key)} is missing")
        for key, value in content.items():
            if key in named or ... in schema:
                require(value, schema[named.get(key, ...)], place, _below(name, key))


def _below(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _short(content: Any) -> str:
    if isinstance(content, dict | list):
        return "an object" if isinstance(content, dict) else "a list"
    text = repr(content)
    return text if len(text) <= 60 else f"{text[:57]}..."
