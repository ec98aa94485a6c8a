"""The Book-Crossing source: BX-Book-Ratings.csv, BX-Books.csv and BX-Users.csv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from mlens.data.archive import FileSet, source_files
from mlens.data.delimited import Format, compact, read_csv, read_parts, typed
from mlens.data.dropped import drop_note, drop_unnamed
from mlens.data.raw import RawTables, without_entities
from mlens.data.source_fields import check_common_fields
from mlens.data.terms import Terms
from mlens.errors import UserError

FILES = FileSet(("BX-Book-Ratings.csv", "BX-Books.csv"), ("BX-Users.csv",))
PLAIN = Format(";", encoding="latin-1")
ESCAPED = Format(";", encoding="latin-1", escape="\\")
SCALE = tuple(float(rating) for rating in range(1, 11))
# The ratings were collected in 2004; some years of publication are 0 or in the future.
LAST_YEAR = 2005
NO_TIMES = (
    "Book-Crossing has no times: the order of the file stands for them. Use split=random or split=user, and expect "
    "nothing of recent ratings"
)


@dataclass(frozen=True)
class BookCrossing:
    """Book-Crossing (Ziegler et al. 2005): ratings of books from 1 to 10, without times.

    path: a folder or zip with the files.
    max_users: a seeded subset of that many users; None: all.
    min_user_ratings, min_item_ratings: drop users and books with fewer ratings, see `keep_k_core`; None: none.
    rating_scale: legal ratings, ascending; None: 1 to 10.
    item: what is rated, one of ITEMS; the prompt's texts name it.

    Implicit ratings (0) are dropped, as are ratings of books that BX-Books.csv doesn't list. In place of genres, a book
    has its author. The order of the file stands for times.
    """

    path: str | None = None
    max_users: int | None = None
    min_user_ratings: int | None = None
    min_item_ratings: int | None = None
    rating_scale: list[float] | None = None
    item: str = "book"
    terms: ClassVar[Terms] = Terms(
        "Book-Crossing (C.-N. Ziegler)",
        "research use, with acknowledgement by the citation",
        'C.-N. Ziegler, S. M. McNee, J. A. Konstan and G. Lausen, "Improving Recommendation Lists Through Topic '
        'Diversification", WWW 2005, doi 10.1145/1060745.1060754',
        dataset="book-crossing",
        page="http://www2.informatik.uni-freiburg.de/~cziegler/BX/",
    )

    def __post_init__(self) -> None:
        check_common_fields(self)

    def files(self) -> list[Path]:
        """Return the files of ratings, books and, if present, users. Raises UserError where one can't be found."""
        if self.path is None:
            raise UserError(
                "data.path is not set: data=book_crossing needs BX-CSV-Dump.zip, or the folder with its files, from "
                "http://www2.informatik.uni-freiburg.de/~cziegler/BX/ or a copy of it"
            )
        return list(source_files(self.path, "BX-CSV-Dump", [FILES]).values())

    def read(self, files: list[Path]) -> RawTables:
        """Read and check the files. Raises UserError naming file, line and rule."""
        ratings_file, books_file, *users_files = files
        columns = {"user": "User-ID", "movie": "ISBN", "rating": "Book-Rating"}
        given = compact(read_parts(ratings_file, columns, {"user": pl.Int64, "rating": pl.Float64}, PLAIN))
        given = given.with_columns(pl.col("movie").fill_null("").str.strip_chars())
        explicit = given.filter(pl.col("rating") != 0)
        implicit = drop_note(ratings_file, len(given) - len(explicit), len(given), "0 stands for an implicit rating")
        ratings, books, unnamed = drop_unnamed(explicit, _books(books_file), ratings_file, books_file)
        return RawTables(
            ratings=ratings.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64)),
            movies=books,
            ratings_file=ratings_file,
            movies_file=books_file,
            scale=tuple(self.rating_scale or SCALE),
            users=_profiles(users_files[0]) if users_files else None,
            notes=(*implicit, *unnamed, NO_TIMES),
        )


def _books(file: Path) -> pl.DataFrame:
    columns = {"movie": "ISBN", "title": "Book-Title", "author": "Book-Author", "year": "Year-Of-Publication"}
    books = read_csv(file, columns, form=ESCAPED)
    # Three titles end in an escaped quote, so that they contain the author, and the year follows.
    title, author, year = pl.col("title"), pl.col("author"), pl.col("year")
    joined = title.str.contains('";', literal=True) & author.str.contains(r"^\d{4}$")
    parts = title.str.split_exact('";', 1)
    books = books.select(
        pl.col("movie").fill_null("").str.strip_chars(),
        without_entities(pl.when(joined).then(parts.struct.field("field_0")).otherwise(title))
        .str.strip_chars()
        .alias("title"),
        pl.when(joined).then(parts.struct.field("field_1")).otherwise(author).fill_null("").alias("author"),
        pl.when(joined).then(author).otherwise(year).cast(pl.Int64, strict=False).alias("year"),
        "line",
    )
    is_year = pl.col("year").is_between(1000, LAST_YEAR)
    dated = pl.when((pl.col("title") != "") & is_year).then(pl.format("{} ({})", "title", "year")).otherwise("title")
    return books.select("movie", dated.alias("title"), without_entities(pl.col("author")).alias("genres"), "line")


def _profiles(file: Path) -> pl.DataFrame:
    users = read_csv(file, {"user": "User-ID", "location": "Location", "age": "Age"}, form=ESCAPED)
    age = pl.col("age").cast(pl.Int64, strict=False)
    place = pl.col("location").fill_null("").str.strip_chars(" ,")
    profile = pl.concat_str(
        pl.when(place != "").then(pl.format("location: {}", place)),
        pl.when(age.is_between(1, 120)).then(pl.format("age: {}", age)),
        separator="; ",
        ignore_nulls=True,
    )
    return typed(users, file, {"user": pl.Int64}).select("user", profile.alias("profile"))
