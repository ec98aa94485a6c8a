"""The Goodreads source: the UCSD Book Graph's interactions of users with books."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from mlens.data.delimited import PLACE, compact
from mlens.data.dropped import drop_note, drop_unnamed
from mlens.data.file_pairs import find_pair
from mlens.data.json_records import Schema, read_records, require_fields, require_values
from mlens.data.raw import WHOLE_STARS, RawTables, shorten
from mlens.data.source_fields import check_common_fields
from mlens.data.terms import Terms
from mlens.errors import UserError

EXAMPLE = (
    "interactions and books, such as goodreads_interactions_poetry.json.gz and goodreads_books_poetry.json.gz (all: "
    "goodreads_interactions_dedup.json.gz and goodreads_books.json.gz) from "
    "https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html"
)
INTERACTION = {"user": "user_id", "movie": "book_id", "rating": "rating", "timestamp": "date_added"}
DATE = "%a %b %d %H:%M:%S %z %Y"
DATE_EXAMPLE = "Thu Mar 21 14:08:01 -0700 2013"
# How many of a book's most popular shelves are its categories, without those that say what users did with it.
SHELVES = 3
OTHER_SHELVES = (
    *("to-read", "currently-reading", "read", "re-read", "reread", "did-not-finish", "dnf", "abandoned", "unfinished"),
    *("owned", "own", "i-own", "owned-books", "books-i-own", "my-books", "my-library", "library", "library-books"),
    *("favorites", "favourites", "all-time-favorites", "default", "wish-list", "wishlist", "to-buy", "maybe", "tbr"),
    *("kindle", "ebook", "ebooks", "e-book", "e-books", "audio", "audiobook", "audiobooks", "audible", "borrowed"),
    *("on-hold", "to-read-next", "finished", "have", "shelfari-favorites", "recommended", "books", "series"),
)


@dataclass(frozen=True)
class Goodreads:
    """Interactions of the UCSD Book Graph (Wan and McAuley 2018), all or those of one genre.

    path: the folder with the interactions and the books, or the file of interactions, next to which the books are.
    max_users: a seeded subset of that many users; None: all.
    min_user_ratings, min_item_ratings: drop users and books with fewer ratings, see `keep_k_core`; None: none.
    rating_scale: legal ratings, ascending; None: 1 to 5.
    item: what is rated, one of ITEMS; the prompt's texts name it.

    The time of a rating is when the user added the book to a shelf. Interactions without a rating (0) are dropped, as
    are ratings of books without a title. A book's categories are its most popular shelves.
    """

    path: str | None = None
    max_users: int | None = None
    min_user_ratings: int | None = None
    min_item_ratings: int | None = None
    rating_scale: list[float] | None = None
    item: str = "book"
    terms: ClassVar[Terms] = Terms(
        "Goodreads (UCSD Book Graph)",
        "academic use only; no redistribution and no commercial use",
        'M. Wan and J. McAuley, "Item Recommendation on Monotonic Behavior Chains", RecSys 2018; M. Wan, R. Misra, '
        'N. Nakashole and J. McAuley, "Fine-Grained Spoiler Detection from Large-Scale Review Corpora", ACL 2019',
        dataset="goodreads",
        page="https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html",
    )

    def __post_init__(self) -> None:
        check_common_fields(self)

    def files(self) -> list[Path]:
        """Return the files of interactions and of books. Raises UserError where one is missing."""
        if self.path is None:
            raise UserError(f"data.path is not set: data=goodreads needs {EXAMPLE}")
        return find_pair(self.path, _books_of, EXAMPLE)

    def read(self, files: list[Path]) -> RawTables:
        """Read and check the files. Raises UserError naming file, line and rule."""
        interactions_file, books_file = files
        require_fields(interactions_file, INTERACTION.values())
        require_fields(books_file, ("book_id", "title", "popular_shelves"))
        total = 0

        def rated() -> Iterator[pl.DataFrame]:
            nonlocal total
            for part in _interactions(interactions_file):
                total += len(part)
                yield _with_seconds(part.filter(pl.col("rating") != 0), interactions_file)

        ratings = compact(rated())
        unrated = drop_note(interactions_file, total - len(ratings), total, "0 means that the user gave no rating")
        books = pl.concat(_books(books_file, ratings.select("movie").unique()))
        ratings, books, unnamed = drop_unnamed(ratings, books, interactions_file, books_file)
        return RawTables(
            ratings=ratings,
            movies=books,
            ratings_file=interactions_file,
            movies_file=books_file,
            scale=tuple(self.rating_scale or WHOLE_STARS),
            notes=unrated + unnamed,
        )


def _books_of(interactions: str) -> list[str]:
    """Return the stems of the files of books of a file of interactions."""
    start, found, genre = interactions.partition("interactions")
    if not found:
        return []
    return [f"{start}books{genre}", *([f"{start}books"] if genre in ("", "_dedup") else [])]


def _interactions(file: Path) -> Iterator[pl.DataFrame]:
    schema: Schema = {"user_id": pl.String, "book_id": pl.String, "rating": pl.Float64, "date_added": pl.String}
    named = [pl.col(field).alias(name) for name, field in INTERACTION.items()]
    for part in read_records(file, schema):
        yield require_values(part.select(*named, "line"), file, INTERACTION)


def _with_seconds(ratings: pl.DataFrame, file: Path) -> pl.DataFrame:
    """Convert the dates to seconds. Raises UserError, with the line, for text that isn't such a date."""
    time = ratings["timestamp"].str.to_datetime(DATE, strict=False, time_unit="ms").dt.epoch("s")
    if time.has_nulls():
        row = ratings.row(int(time.is_null().arg_max() or 0), named=True)
        where, given = PLACE.format(file=file, line=row["line"]), shorten(row["timestamp"])
        raise UserError(f"{where}: date_added must be a date such as {DATE_EXAMPLE}, not {given!r}")
    return ratings.with_columns(time.alias("timestamp"))


def _books(file: Path, rated: pl.DataFrame) -> Iterator[pl.DataFrame]:
    shelves = pl.List(pl.Struct({"name": pl.String}))
    name = pl.element().struct.field("name")
    categories = pl.col("popular_shelves").list.eval(name.filter(name.is_not_null() & ~name.is_in(OTHER_SHELVES)))
    for part in read_records(file, {"book_id": pl.String, "title": pl.String, "popular_shelves": shelves}):
        books = part.rename({"book_id": "movie"}).join(rated, on="movie", how="semi", maintain_order="left")
        yield books.select("movie", "title", categories.list.head(SHELVES).list.join(", ").alias("genres"), "line")
