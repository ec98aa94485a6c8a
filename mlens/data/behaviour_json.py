"""The behaviour JSON source: a JSON list of users, or JSON Lines, with profile, task text and rated movies."""

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
from mlens.data.source_fields import check_common_fields, given_file
from mlens.data.terms import USER_DATA, Terms
from mlens.data.text_files import open_text, refuse_undecodable
from mlens.data.values import A_TIME, number, seconds
from mlens.errors import UserError

# Ratings kept as Python objects before they become columns.
CHUNK_ROWS = 1 << 16
# The deepest nesting of a record: what is read lies within seven levels, and a profile may nest further.
MAX_DEPTH = 100
# Bytes in which a file's first character is searched for.
START_BYTES = 1 << 12
# ValueError: a number with more digits than Python converts.
JSON_ERRORS = (ijson.JSONError, ValueError)
NO_USERS = "no users in it. It must be a JSON list of users, or have one user on each line"
KIND_NAMES = {"dict": "an object", "list": "a list", "str": "text"}
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "user": pl.Int32,
    "movie": pl.Int32,
    "rating": pl.Float64,
    "timestamp": pl.Int64,
    "context": pl.List(pl.String),
    "line": pl.Int64,
}
# How each byte outside strings changes the depth.
_DEPTH_CHANGE = np.zeros(256, dtype=np.int8)
_DEPTH_CHANGE[list(b"[{")], _DEPTH_CHANGE[list(b"]}")] = 1, -1
_TITLE_AND_LAST_GROUP = re.compile(r"(.*\S)\s*\(([^()]*)\)")


@dataclass(frozen=True)
class BehaviourJson:
    """A file with a JSON list of users, or with one user a line (JSON Lines), optionally gzipped. A user:

    {"user_hash": …, "user": {"profile": {"name": …, …}}, "task": {"description": …, "task_behavior_collections":
    [{"type": "movie_rating", "data": [{"context": [], "continuation": "5.0", "continuation_prefix":
    "Lilo & Stitch (2002) (Adventure, Animation): ", "timestamp": …}]}]}}

    A user is identified by `user_hash`, else by the profile's `name`; a movie by its `continuation_prefix`. Collections
    of type movie_rating are read; of type movie_review, only the continuations that are a rating on the scale; other
    types are skipped. Timestamps are seconds or ISO 8601 (see `seconds`). Either all ratings have one or none has; in
    that case the file lists them in time order.

    path: the file.
    max_users: a seeded subset of that many users; None: all.
    min_user_ratings, min_item_ratings: drop users and movies with fewer ratings, see `keep_k_core`; None: none.
    rating_scale: legal ratings, ascending; None: half stars.
    item: what is rated, one of ITEMS; the prompt's texts name it.
    """

    path: str | None = None
    max_users: int | None = None
    min_user_ratings: int | None = None
    min_item_ratings: int | None = None
    rating_scale: list[float] | None = None
    item: str = "film"
    terms: ClassVar[Terms] = USER_DATA

    def __post_init__(self) -> None:
        check_common_fields(self)

    def files(self) -> list[Path]:
        """Return the file. Raises UserError where it is missing."""
        if self.path is None:
            raise UserError("data.path is not set: data=behaviour_json needs data.path=FILE.json")
        return [given_file("data.path", self.path)]

    def read(self, files: list[Path]) -> RawTables:
        """Stream the file, one user at a time. Raises UserError naming file, user or line, rating and rule."""
        scale = tuple(self.rating_scale or HALF_STARS)
        file = files[0]
        json_lines = _is_json_lines(file)
        columns = _Columns(PLACE if json_lines else "{file}: rating {line}")
        if json_lines:
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
    """The columns read so far; a rating refers to its user and movie by their index in `users` and `movies`.

    place: format of a rating's location in an error.
    line: the line of the ratings added next; None: ratings are numbered.
    users: id -> profile, task.
    movies: prefix -> index.
    rows: the newest ratings, not in `chunks` yet.
    chunks: the other ratings, with the columns of SCHEMA.
    """

    place: str
    line: int | None = None
    users: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    movies: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[int, int, float, int | None, list[str], int]] = field(default_factory=list)
    chunks: list[pl.DataFrame] = field(default_factory=list)

    def add(self, movie: str, rating: float, timestamp: int | None, context: list[str]) -> None:
        """Add a rating of the user added last."""
        index = self.movies.setdefault(movie, len(self.movies))
        line = self.line or CHUNK_ROWS * len(self.chunks) + len(self.rows) + 1
        self.rows.append((len(self.users) - 1, index, rating, timestamp, context, line))
        if len(self.rows) == CHUNK_ROWS:
            self._flush()

    def _flush(self) -> None:
        self.chunks.append(pl.DataFrame(self.rows, schema=SCHEMA, orient="row"))
        self.rows = []

    def ratings(self, file: Path) -> pl.DataFrame:
        self._flush()
        if all(chunk["context"].list.len().sum() == 0 for chunk in self.chunks):
            self.chunks = [chunk.drop("context") for chunk in self.chunks]
        # Contiguous, or every later access to a column copies it; the chunks are released, to save memory.
        frame = pl.concat(self.chunks, rechunk=True)
        self.chunks = []
        missing = frame["timestamp"].is_null()
        if missing.all():
            frame = frame.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64))
        elif missing.any():
            line = frame["line"][missing.arg_true()[0]]
            raise UserError(f"{self.place.format(file=file, line=line)}: has no timestamp, but others have one")
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
        texts = {
            "profile": [profile for profile, _ in self.users.values()],
            "task": [task for _, task in self.users.values()],
        }
        columns = {"user": list(self.users)} | {name: column for name, column in texts.items() if any(column)}
        return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def _is_json_lines(file: Path) -> bool:
    """Whether the file is JSON Lines: decided by its first character, or by its name where that is neither `[` nor `{`.

    Raises UserError for an empty file.
    """
    with open_text(file) as stream:
        first = stream.read(START_BYTES).lstrip()[:1]
    if not first:
        raise UserError(f"{file}: {NO_USERS}")
    named = Path(file.name.lower().removesuffix(".gz")).suffix in (".jsonl", ".ndjson")
    return first == b"{" or (named and first != b"[")


def _list_records(file: Path) -> Iterator[Any]:
    """Yield the users of a JSON list."""
    count = 0
    with open_text(file) as stream:
        try:
            for record in ijson.items(_DepthLimited(stream, file), "item", use_float=True):
                count += 1
                yield record
        except UserError:
            raise
        except JSON_ERRORS as error:
            raise UserError(f"{file}: not valid JSON after user {count} ({_parser_message(error, file)})") from error


def _line_records(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the users of JSON Lines, each with its line (1-based)."""
    with open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            if line.isspace():
                continue
            try:
                for record in ijson.items(_DepthLimited(io.BytesIO(line), file), "", use_float=True):
                    yield number, record
            except UserError:
                raise
            except JSON_ERRORS as error:
                rule = "each line must be one user, or the file a list of them"
                raise UserError(f"{file}:{number}: not valid JSON ({_parser_message(error, file)}): {rule}") from error


def _parser_message(error: Exception, file: Path) -> str:
    """Return the parser's message on one line. Raises UserError where the file isn't UTF-8."""
    reason = error.args[0]
    # The parser's message is bytes where it quotes bytes that aren't UTF-8.
    reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    reason = reason.partition("\n")[0].strip()
    if isinstance(error, UnicodeDecodeError) or "UTF8" in reason:
        refuse_undecodable(file)
    return reason


class _DepthLimited:
    """A stream of JSON that raises a UserError where it is nested deeper than MAX_DEPTH.

    The parser's memory grows with the square of the depth, and records are read recursively.
    """

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        self._stream, self._file = stream, file
        self._depth, self._in_string, self._pending = 0, False, b""

    def read(self, size: int = -1) -> bytes:
        more = self._stream.read(size)
        # Without escapes, every second part between quotes is outside strings.
        text = (self._pending + more).replace(b"\\\\", b"").replace(b'\\"', b"")
        self._pending = b"\\" if text.endswith(b"\\") else b""
        parts = text.split(b'"')
        signs = np.frombuffer(b"".join(parts[self._in_string :: 2]), dtype=np.uint8)
        self._in_string ^= len(parts) % 2 == 0
        depth = np.cumsum(_DEPTH_CHANGE[signs], dtype=np.int64) + self._depth
        if len(depth):
            if depth.max() > MAX_DEPTH:
                raise UserError(f"{self._file}: nested deeper than {MAX_DEPTH} levels: this is not a list of users")
            self._depth = int(depth[-1])
        return more


def _read_user(record: Any, place: str, scale: tuple[float, ...], columns: _Columns) -> None:
    _require_kind(record, dict, place, "must be an object")
    profile = _field(_field(record, "user", dict, place), "profile", dict, place)
    name = record.get("user_hash") or profile.get("name")
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise UserError(f"{place}: has neither user_hash nor user.profile.name")
    place = f"{place} ({name})"
    if str(name) in columns.users:
        raise UserError(f"{place}: is listed twice")
    task = _field(record, "task", dict, place)
    described = "; ".join(f"{key}: {_text(value)}" for key, value in profile.items() if value not in (None, "", [], {}))
    description = _field(task, "description", str, place).strip()
    columns.users[str(name)] = described or None, description or None
    for collection in _field(task, "task_behavior_collections", list, place):
        kind = _require_kind(collection, dict, place, "a collection must be an object").get("type")
        if kind in ("movie_rating", "movie_review"):
            for i, item in enumerate(_field(collection, "data", list, place), 1):
                item_place = f"{place}, {kind} {i}"
                _require_kind(item, dict, item_place, "must be an object")
                rating = number(item.get("continuation"))
                if kind == "movie_review" and rating not in scale:
                    continue
                if rating is None:
                    raise UserError(f"{item_place}: continuation must be a rating, not {item.get('continuation')!r}")
                movie = _movie(item, item_place)
                columns.add(movie, rating, _timestamp(item.get("timestamp"), item_place), _context(item, item_place))


def _require_kind(value: Any, kind: type, place: str, rule: str) -> Any:
    if not isinstance(value, kind):
        raise UserError(f"{place}: {rule}")
    return value


def _field(record: dict, key: str, kind: type, place: str) -> Any:
    """Return `record[key]`; an empty value where it is absent or null."""
    value = record.get(key)
    return kind() if value is None else _require_kind(value, kind, place, f"{key} must be {KIND_NAMES[kind.__name__]}")


def _movie(item: dict, place: str) -> str:
    """Return the prefix without its colon: `Lilo & Stitch (2002) (Adventure, Animation)`."""
    movie = _field(item, "continuation_prefix", str, place).strip().removesuffix(":").strip()
    if not movie:
        raise UserError(f"{place}: continuation_prefix names no movie")
    return movie


def _split_prefix(movie: str) -> tuple[str, str]:
    """Split into title and genres: the last pair of brackets holds genres, unless it holds the year."""
    match = _TITLE_AND_LAST_GROUP.fullmatch(movie)
    if match is None or re.fullmatch(r"\d{4}(\s*[-–]\s*(\d{4})?)?", match[2].strip()):
        return movie, ""
    return match[1], match[2].strip()


def _context(item: dict, place: str) -> list[str]:
    context = _field(item, "context", list, place)
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
    """Format a profile's value on one line: text unchanged, a list with commas, anything else as JSON."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
