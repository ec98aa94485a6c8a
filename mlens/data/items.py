"""What is rated: the kinds of items, and how English texts name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Item:
    """A kind of item in English.

    name: one item.
    plural: several.
    categories: what a prompt prints in brackets after the title.
    """

    name: str
    plural: str
    categories: str


# By the value of data.item; conf/prompt/simple.yaml has the texts of their prompts.
ITEMS = {
    "film": Item("film", "films", "genres"),
    "book": Item("book", "books", "categories"),
    "product": Item("product", "products", "categories"),
}


def item_of(source: Any) -> Item:
    """Return the kind of item of a data source: its field `item`, and films where it has none."""
    return ITEMS[getattr(source, "item", "film")]
