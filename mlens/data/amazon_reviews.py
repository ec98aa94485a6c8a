"""The Amazon reviews source: ratings of one category of products, of the releases of 2018 and 2023."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from mlens.data.delimited import compact
from mlens.data.dropped import drop_repeats, drop_unnamed
from mlens.data.file_pairs import find_pair
from mlens.data.json_records import Schema, first_record, listed, read_records, require_fields, require_values
from mlens.data.raw import WHOLE_STARS, RawTables, without_entities
from mlens.data.source_fields import check_common_fields
from mlens.data.terms import Terms
from mlens.errors import UserError

EXAMPLE = (
    "the reviews of a category and their metadata, such as Books_5.json.gz and meta_Books.json.gz from "
    "https://nijianmo.github.io/amazon/ or Books.jsonl.gz and meta_Books.jsonl.gz from "
    "https://amazon-reviews-2023.github.io/"
)
# The most categories of a product that a prompt shows, and the most characters of one: metadata of 2018 have
# descriptions and markup among them.
MAX_CATEGORIES = 4
MAX_CATEGORY = 60
# Markup that pages of 2018 left in the metadata in place of a title.
NO_TITLE = r"getTime|<span|<script"


@dataclass(frozen=True)
class Release:
    """The names of a release's fields.

    user, item, rating, timestamp: of a review.
    categories, main_category: of the metadata, besides `item` and `title`.
    per_second: how many units of the timestamp are a second.
    """

    user: str
    item: str
    rating: str
    timestamp: str
    categories: str
    main_category: str
    per_second: int

    @property
    def review(self) -> dict[str, str]:
        """Our names of a review's columns, and those of its fields."""
        return {"user": self.user, "movie": self.item, "rating": self.rating, "timestamp": self.timestamp}


RELEASES = {
    "2018": Release("reviewerID", "asin", "overall", "unixReviewTime", "category", "main_cat", 1),
    "2023": Release("user_id", "parent_asin", "rating", "timestamp", "categories", "main_category", 1000),
}


@dataclass(frozen=True)
class AmazonReviews:
    """One category of Amazon Reviews 2018 (Ni, Li and McAuley 2019) or 2023 (Hou et al. 2024), distinguished by
    their fields.

    path: the folder with the reviews and the metadata of a category, or the file of reviews, next to which
        the metadata are.
    max_users: a seeded subset of that many users; None: all.
    min_user_ratings, min_item_ratings: drop users and items with fewer ratings, see `keep_k_core`; None: none.
    rating_scale: legal ratings, ascending; None: 1 to 5.
    item: what is rated, one of ITEMS; the prompt's texts name it.

    Ratings of products without a title are dropped, as are repeated ones. A product's categories are those below the
    one that all have in common, or its main category where it has no other.
    """

    path: str | None = None
    max_users: int | None = None
    min_user_ratings: int | None = None
    min_item_ratings: int | None = None
    rating_scale: list[float] | None = None
    item: str = "product"
    terms: ClassVar[Terms] = Terms(
        "Amazon Reviews (McAuley Lab, UC San Diego)",
        "not stated by the publisher",
        'J. Ni, J. Li and J. McAuley, "Justifying Recommendations using Distantly-Labeled Reviews and Fine-Grained '
        'Aspects", EMNLP 2019, for the release of 2018; Y. Hou, J. Li, Z. He, A. Yan, X. Chen and J. McAuley, '
        '"Bridging Language and Items for Retrieval and Recommendation", arXiv 2403.03952, 2024, for that of 2023',
        dataset="amazon-reviews",
    )

    def __post_init__(self) -> None:
        check_common_fields(self)

    def files(self) -> list[Path]:
        """Return the files of reviews and of metadata. Raises UserError where one is missing."""
        if self.path is None:
            raise UserError(f"data.path is not set: data=amazon_reviews needs {EXAMPLE}")
        return find_pair(self.path, _metadata_of, EXAMPLE)

    def read(self, files: list[Path]) -> RawTables:
        """Read and check the files. Raises UserError naming file, line and rule."""
        reviews_file, metadata_file = files
        release = _release_of(reviews_file)
        require_fields(metadata_file, (release.item, "title"))
        ratings, repeated = drop_repeats(compact(_ratings(reviews_file, release)), reviews_file)
        products = pl.concat(_products(metadata_file, release, ratings.select("movie").unique()))
        ratings, products, unnamed = drop_unnamed(ratings, products, reviews_file, metadata_file)
        return RawTables(
            ratings=ratings,
            movies=products,
            ratings_file=reviews_file,
            movies_file=metadata_file,
            scale=tuple(self.rating_scale or WHOLE_STARS),
            notes=repeated + unnamed,
        )


def _metadata_of(reviews: str) -> list[str]:
    """Return the stems of the metadata of a file of reviews; `Books_5` is the 5-core of `Books`."""
    return [] if reviews.startswith("meta_") else [f"meta_{reviews}", f"meta_{reviews.removesuffix('_5')}"]


def _release_of(file: Path) -> Release:
    record = first_record(file)
    for release in RELEASES.values():
        if all(name in record for name in release.review.values()):
            return release
    known = "; ".join(f"{year} has {', '.join(release.review.values())}" for year, release in RELEASES.items())
    raise UserError(f"{file}: reviews of neither release ({known}): the first record has {listed(record)}")


def _ratings(file: Path, release: Release) -> Iterator[pl.DataFrame]:
    fields = release.review
    types: Schema = {"user": pl.String, "movie": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}
    named = [pl.col(field).alias(name) for name, field in fields.items()]
    for part in read_records(file, {field: types[name] for name, field in fields.items()}):
        ratings = require_values(part.select(*named, "line"), file, fields)
        yield ratings.with_columns(pl.col("timestamp").floordiv(release.per_second))


def _products(file: Path, release: Release, rated: pl.DataFrame) -> Iterator[pl.DataFrame]:
    texts = pl.List(pl.String())
    schema: Schema = {
        release.item: pl.String,
        "title": pl.String,
        release.categories: texts,
        release.main_category: pl.String,
    }
    for part in read_records(file, schema):
        products = part.rename({release.item: "movie"}).join(rated, on="movie", how="semi", maintain_order="left")
        title = pl.col("title").fill_null("")
        yield products.select(
            "movie",
            pl.when(title.str.contains(NO_TITLE)).then(pl.lit("")).otherwise(without_entities(title)).alias("title"),
            _categories(pl.col(release.categories), pl.col(release.main_category)).alias("genres"),
            "line",
        )


def _categories(categories: pl.Expr, main: pl.Expr) -> pl.Expr:
    name = pl.element()
    proper = (
        (name.str.strip_chars() != "") & ~name.str.contains("<", literal=True) & (name.str.len_chars() <= MAX_CATEGORY)
    )
    below = categories.list.slice(1).list.eval(name.filter(proper)).list.head(MAX_CATEGORIES).list.join(", ")
    plain_main = pl.when(main.str.contains("<", literal=True)).then(pl.lit("")).otherwise(main)
    return without_entities(pl.when(below.fill_null("") != "").then(below).otherwise(plain_main.fill_null("")))
