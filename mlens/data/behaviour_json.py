"""Ratings as a JSON list of users, or as JSON Lines, with their profile, task text and collections of rated movies."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import ijson
import numpy as np
import polars as pl

from mlens.data.delimited import PLACE
from mlens.data.raw import HALF_STARS, RawTables
from mlens.data.source_fields import check_max_users, check_rating_scale, given_file
from mlens.data.terms import OWN_DATA, Terms
from mlens.data.text_files import open_text, refuse_undecodable
from mlens.data.values import A_TIME, number, seconds
from mlens.errors import UserError

# Ratings kept as Python objects before they become columns.
CHUNK = 1 << 16
# How deep a record may be nested: seven levels hold all that is read, a profile may have some of its own.
DEEPEST = 100
# Bytes among which a file's first character is looked for.
START = 1 << 12
# A number of more digits than Python turns into one is a ValueError.
NO_JSON = (ijson.JSONError, ValueError)
NO_USERS = "no users in it. It must be a JSON list of them, or have one on each line"
WORDS = {"dict": "an object", "list": "a list", "str": "text"}
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "user": pl.Int32,
    "movie": pl.Int32,
    "rating": pl.Float64,
    "timestamp": pl.Int64,
    "context": pl.List(pl.String),
    "line": pl.Int64,
}
# What each byte outside of text does to the depth.
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_TITLE_AND_LAST_GROUP = re.compile(r"(.*\S)\s*\(([^()]*)\)")


@dataclass(frozen=True)
class BehaviourJson:
    """A file with a JSON list of users, or with one user a line (JSON Lines); gzip may have compressed it. A user:

    {"user_hash": …, "user": {"profile": {"name": …, …}}, "task": {"description": …, "task_behavior_collections":
    [{"type": "movie_rating", "data": [{"context": [], "continuation": "5.0", "continuation_prefix":
    "Lilo & Stitch (2002) (Adventure, Animation): ", "timestamp": …}]}]}}

    A user is known by `user_hash`, else by the profile's `name`; a movie by its `continuation_prefix`. Of collections
    of type movie_review those continuations count that are a rating on the scale; other types are passed over.
    Timestamps are seconds or ISO 8601 (see `seconds`); either all ratings have one or none has, and then they are in
    order of time as they stand.
    """

    path: str | None = None
    max_users: int | None = None
    rating_scale: list[float] | None = None
    terms: ClassVar[Terms] = OWN_DATA

    def __post_init__(self) -> None:
        check_max_users(self.max_users)
        check_rating_scale(self.rating_scale)

    def files(self) -> list[Path]:
        """The one file. Raises UserError where it is missing."""
        if self.path is None:
            raise UserError("data.path is not set: data=behaviour_json needs data.path=FILE.json")
        return [given_file("data.path", self.path)]

    def read(self, files: list[Path]) -> RawTables:
        """Streams the file, one user at a time. Raises UserError naming file, user or line, rating and rule."""
        scale = tuple(self.rating_scale or HALF_STARS)
        file = files[0]
        as_lines = _are_json_lines(file)
        columns = _Columns(PLACE if as_lines else "{file}: rating {line}")
        if as_lines:
            for line, record in _line_records(file):
                columns.line = line
                _read_user(record, PLACE.format(file=file, line=line), scale, columns)
        else:
            for user, record in enumerate(_list_records(file), 1):
                _read_user(record, f"{file}: user {user}", scale, columns)
        if not columns.users:
            raise UserError(f"{file}: {NO_USERS}")
        return RawTables(
            ratings=columns.ratings(file),
            movies=columns.movie_frame(),
            ratings_file=file,
            scale=scale,
            users=columns.user_frame(),
            place=columns.place,
        )


@dataclass
class _Columns:
    """What is read so far; a rating names its user and movie by their number in `users` and `movies`.

    place: how an error names a rating; line: that of the ratings that follow, or None: they are numbered.
    """

    place: str
    line: int | None = None
    users: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)  # id -> profile, task
    movies: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[int, int, float, int | None, list[str], int]] = field(default_factory=list)
    chunks: list[pl.DataFrame] = field(default_factory=list)

    def add(self, movie: str, rating: float, timestamp: int | None, context: list[str]) -> None:
        """A rating of the user added last."""
        place = self.movies.setdefault(movie, len(self.movies))
        line = self.line or CHUNK * len(self.chunks) + len(self.rows) + 1
        self.rows.append((len(self.users) - 1, place, rating, timestamp, context, line))
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
        frame = pl.concat(self.chunks, rechunk=True)
        self.chunks = []
        undated = frame["timestamp"].is_null()
        if undated.all():
            frame = frame.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64))
        elif undated.any():
            line = frame["line"][undated.arg_true()[0]]
            raise UserError(f"{self.place.format(file=file, line=line)}: has no timestamp, though others have")
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


def _are_json_lines(file: Path) -> bool:
    """By the first character; where it is neither a list's nor a user's, by the name. Raises UserError where there is
    none."""
    with open_text(file) as stream:
        first = stream.read(START).lstrip()[:1]
    if not first:
        raise UserError(f"{file}: {NO_USERS}")
    named = Path(file.name.lower().removesuffix(".gz")).suffix in (".jsonl", ".ndjson")
    return first == b"{" or (named and first != b"[")


def _list_records(file: Path) -> Iterator[Any]:
    """The users of a list, one at a time."""
    read = 0
    with open_text(file) as stream:
        try:
            for record in ijson.items(_Shallow(stream, file), "item", use_float=True):
                read += 1
                yield record
        except UserError:
            raise
        except NO_JSON as error:
            raise UserError(f"{file}: not valid JSON after user {read} ({_reason(error, file)})") from error


def _line_records(file: Path) -> Iterator[tuple[int, Any]]:
    """The users of JSON Lines, one at a time, with their line (1-based)."""
    with open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            if line.isspace():
                continue
            try:
                for record in ijson.items(_Shallow(io.BytesIO(line), file), "", use_float=True):
                    yield number, record
            except UserError:
                raise
            except NO_JSON as error:
                rule = "each line must be one user, or the file a list of them"
                raise UserError(f"{file}:{number}: not valid JSON ({_reason(error, file)}): {rule}") from error


def _reason(error: Exception, file: Path) -> str:
    """In the parser's words. Raises UserError where it is another encoding."""
    reason = error.args[0]
    # The parser hands on its text as bytes where it quotes bytes that are no UTF-8.
    reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    reason = reason.partition("\n")[0].strip()
    if isinstance(error, UnicodeDecodeError) or "UTF8" in reason:
        refuse_undecodable(file)
    return reason


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
                rating = number(item.get("continuation"))
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


def _timestamp(value: object, place: str) -> int | None:
    if value is None or value == "":
        return None
    time = seconds(value)
    if time is None:
        raise UserError(f"{place}: timestamp must be {A_TIME}, not {value!r}")
    return time


def _text(value: object) -> str:
    """A profile's value on one line: text as it is, a list with commas, all else as JSON writes it."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
