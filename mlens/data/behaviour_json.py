"""Ratings as a JSON list of users with their profile, task text and collections of rated movies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import ijson
import numpy as np
import polars as pl

from mlens.data.raw import HALF_STARS, RawTables
from mlens.data.source_fields import check_max_users, check_rating_scale
from mlens.errors import UserError

# Ratings kept as Python objects before they become columns.
CHUNK = 1 << 16
# How deep a record may be nested: seven levels hold all that is read, a profile may have some of its own.
DEEPEST = 100
WORDS = {"dict": "an object", "list": "a list", "str": "text"}
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "user": pl.Int32,
    "movie": pl.Int32,
    "rating": pl.Float64,
    "timestamp": pl.Int64,
    "context": pl.List(pl.String),
}
# What each byte outside of text does to the depth.
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_TITLE_AND_LAST_GROUP = re.compile(r"(.*\S)\s*\(([^()]*)\)")


@dataclass(frozen=True)
class BehaviourJson:
    """A JSON file: a list of users, each like

    {"user_hash": …, "user": {"profile": {"name": …, …}}, "task": {"description": …, "task_behavior_collections":
    [{"type": "movie_rating", "data": [{"context": [], "continuation": "5.0", "continuation_prefix":
    "Lilo & Stitch (2002) (Adventure, Animation): ", "timestamp": …}]}]}}

    A user is known by `user_hash`, else by the profile's `name`; a movie by its `continuation_prefix`. Of collections
    of type movie_review those continuations count that are a rating on the scale; other types are passed over.
    Timestamps are seconds or ISO 8601 (UTC where it names no zone); either all ratings have one or none has, and then
    they are in order of time as they stand.
    """

    path: str | None = None
    max_users: int | None = None
    rating_scale: list[float] | None = None

    def __post_init__(self) -> None:
        check_max_users(self.max_users)
        check_rating_scale(self.rating_scale)

    def files(self) -> list[Path]:
        """The one file. Raises UserError where it is missing."""
        if self.path is None:
            raise UserError("data.path is not set: data=behaviour_json needs data.path=FILE.json")
        file = Path(self.path).expanduser()
        if not file.is_file():
            raise UserError(f"data.path={file}: no such file")
        return [file]

    def read(self, files: list[Path]) -> RawTables:
        """Streams the file, one user at a time. Raises UserError naming file, user, rating and rule."""
        scale = tuple(self.rating_scale or HALF_STARS)
        columns = _Columns()
        for number, record in enumerate(_records(files[0]), 1):
            _read_user(record, f"{files[0]}: user {number}", scale, columns)
        if not columns.users:
            raise UserError(f"{files[0]}: must be a list of users, and has none")
        return RawTables(
            ratings=columns.ratings(files[0]),
            movies=columns.movie_frame(),
            ratings_file=files[0],
            scale=scale,
            users=columns.user_frame(),
            place="{file}: rating {line}",
        )


@dataclass
class _Columns:
    """What is read so far; a rating names its user and movie by their number in `users` and `movies`."""

    users: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)  # id -> profile, task
    movies: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[int, int, float, int | None, list[str]]] = field(default_factory=list)
    chunks: list[pl.DataFrame] = field(default_factory=list)

    def add(self, movie: str, rating: float, timestamp: int | None, context: list[str]) -> None:
        """A rating of the user added last."""
        number = self.movies.setdefault(movie, len(self.movies))
        self.rows.append((len(self.users) - 1, number, rating, timestamp, context))
        if len(self.rows) == CHUNK:
            self._pack()

    def _pack(self) -> None:
        self.chunks.append(pl.DataFrame(self.rows, schema=SCHEMA, orient="row"))
        self.rows = []

    def ratings(self, file: Path) -> pl.DataFrame:
        self._pack()
        if all(chunk["context"].list.len().sum() == 0 for chunk in self.chunks):
            self.chunks = [chunk.drop("context") for chunk in self.chunks]
        # In one piece, or every later look at a column copies it; and the pieces aren't held beside it.
        frame = pl.concat(self.chunks, rechunk=True).with_row_index("line", offset=1)
        self.chunks = []
        undated = frame["timestamp"].is_null()
        if undated.all():
            frame = frame.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64))
        elif undated.any():
            raise UserError(
                f"{file}: rating {frame['line'][undated.arg_true()[0]]}: has no timestamp, though others have"
            )
        return frame.with_columns(
            pl.Series("user", list(self.users), dtype=pl.String).gather(frame["user"]),
            pl.Series("movie", list(self.movies), dtype=pl.String).gather(frame["movie"]),
        )

    def movie_frame(self) -> pl.DataFrame:
        split = [_split_prefix(prefix) for prefix in self.movies]
        return pl.DataFrame(
            {
                "movie": list(self.movies),
                "title": [title for title, _ in split],
                "genres": [genres for _, genres in split],
            },
            schema=dict.fromkeys(("movie", "title", "genres"), pl.String),
        )

    def user_frame(self) -> pl.DataFrame:
        told = {
            "profile": [profile for profile, _ in self.users.values()],
            "task": [task for _, task in self.users.values()],
        }
        told = {name: texts for name, texts in told.items() if any(texts)}
        return pl.DataFrame({"user": list(self.users), **told}, schema=dict.fromkeys(("user", *told), pl.String))


def _records(file: Path) -> Iterator[dict]:
    """The users, one at a time."""
    number = 0  # of users read
    with file.open("rb") as stream:
        if stream.read(3) != b"\xef\xbb\xbf":
            stream.seek(0)
        try:
            for record in ijson.items(_Shallow(stream, file), "item", use_float=True):
                number += 1
                yield record
        except UserError:
            raise
        # A number of more digits than Python turns into one is a ValueError.
        except (ijson.JSONError, ValueError) as error:
            reason = "invalid UTF-8" if isinstance(error, UnicodeDecodeError) else error.args[0]
            # The parser hands on its text as bytes where it quotes bytes that are no UTF-8.
            reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
            reason = reason.partition("\n")[0].strip()
            raise UserError(f"{file}: not valid JSON after user {number} ({reason})") from error


class _Shallow:
    """A stream of JSON that ends with a UserError where it is nested deeper than DEEPEST: the parser's memory grows
    with the square of the depth, and what reads a record goes down into it."""

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        self._stream, self._file = stream, file
        self._depth, self._inside, self._rest = 0, False, b""

    def read(self, size: int = -1) -> bytes:
        more = self._stream.read(size)
        # Without escapes, every second stretch between quotes is outside of text.
        text = (self._rest + more).replace(b"\\\\", b"").replace(b'\\"', b"")
        self._rest = b"\\" if text.endswith(b"\\") else b""
        stretches = text.split(b'"')
        signs = np.frombuffer(b"".join(stretches[self._inside :: 2]), dtype=np.uint8)
        self._inside ^= len(stretches) % 2 == 0
        depth = np.cumsum(_STEPS[signs], dtype=np.int64) + self._depth
        if len(depth):
            if depth.max() > DEEPEST:
                raise UserError(f"{self._file}: nested deeper than {DEEPEST} levels: this is no list of users")
            self._depth = int(depth[-1])
        return more


def _read_user(record: Any, place: str, scale: tuple[float, ...], columns: _Columns) -> None:
    _checked(record, dict, place, "must be an object")
    profile = _part(_part(record, "user", dict, place), "profile", dict, place)
    name = record.get("user_hash") or profile.get("name")
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise UserError(f"{place}: has neither user_hash nor user.profile.name")
    place = f"{place} ({name})"
    if str(name) in columns.users:
        raise UserError(f"{place}: is listed twice")
    task = _part(record, "task", dict, place)
    described = "; ".join(f"{key}: {_text(value)}" for key, value in profile.items() if value not in (None, "", [], {}))
    description = _part(task, "description", str, place).strip()
    columns.users[str(name)] = described or None, description or None
    for collection in _part(task, "task_behavior_collections", list, place):
        kind = _checked(collection, dict, place, "a collection must be an object").get("type")
        if kind in ("movie_rating", "movie_review"):
            for i, item in enumerate(_part(collection, "data", list, place), 1):
                item_place = f"{place}, {kind} {i}"
                _checked(item, dict, item_place, "must be an object")
                rating = _number(item.get("continuation"))
                if kind == "movie_review" and rating not in scale:
                    continue
                if rating is None:
                    raise UserError(f"{item_place}: continuation must be a rating, not {item.get('continuation')!r}")
                movie = _movie(item, item_place)
                columns.add(movie, rating, _timestamp(item.get("timestamp"), item_place), _context(item, item_place))


def _checked(value: Any, kind: type, place: str, rule: str) -> Any:
    if not isinstance(value, kind):
        raise UserError(f"{place}: {rule}")
    return value


def _part(record: dict, key: str, kind: type, place: str) -> Any:
    """`record[key]`; an empty one where it is absent or null."""
    value = record.get(key)
    return kind() if value is None else _checked(value, kind, place, f"{key} must be {WORDS[kind.__name__]}")


def _movie(item: dict, place: str) -> str:
    """The prefix without its colon: `Lilo & Stitch (2002) (Adventure, Animation)`."""
    movie = _part(item, "continuation_prefix", str, place).strip().removesuffix(":").strip()
    if not movie:
        raise UserError(f"{place}: continuation_prefix names no movie")
    return movie


def _split_prefix(movie: str) -> tuple[str, str]:
    """Title and genres: a last pair of brackets holds genres, unless it holds the year."""
    match = _TITLE_AND_LAST_GROUP.fullmatch(movie)
    if match is None or re.fullmatch(r"\d{4}(\s*[-–]\s*(\d{4})?)?", match[2].strip()):
        return movie, ""
    return match[1], match[2].strip()


def _context(item: dict, place: str) -> list[str]:
    context = _part(item, "context", list, place)
    if not all(isinstance(turn, str) for turn in context):
        raise UserError(f"{place}: context must be a list of texts")
    return context


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        return None  # Python reads 0_5 as 5, and digits of any script
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _timestamp(value: object, place: str) -> int | None:
    if value is None or value == "":
        return None
    number = _number(value)
    if number is not None and number.is_integer() and abs(number) < 2**53:
        return int(number)
    try:
        date = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise UserError(f"{place}: timestamp must be whole seconds or an ISO 8601 date, not {value!r}") from None
    return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())


def _text(value: object) -> str:
    """A profile's value on one line: text as it is, a list with commas, all else as JSON writes it."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
