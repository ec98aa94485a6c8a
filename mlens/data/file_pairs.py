"""Find a file of ratings and the file about its items, which a data set has by category."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlens.errors import UserError

ENDINGS = (".json.gz", ".jsonl.gz", ".json", ".jsonl")
# The most file names that an error lists.
MAX_LISTED = 10


def stem(name: str) -> str:
    """Return a file's name without its ending of ENDINGS; an empty text where it has none."""
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
    return "" if ending is None else name.removesuffix(ending)


def find_pair(path: str, partners: Callable[[str], list[str]], example: str) -> list[Path]:
    """Return the file of ratings and the one about its items.

    path: the file of ratings, next to which the other one is, or a folder with one such pair.
    partners: maps the stem of a file of ratings to stems of the file about its items, in order of preference; none
        where the file has no ratings.
    example: names of such a pair and where to get them, for errors.

    Raises UserError where there is no pair or several.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(f"data.path={place}: no such file or folder. It needs {example}")
    folder = place if place.is_dir() else place.parent
    present = {stem(file.name): file for file in sorted(folder.iterdir()) if file.is_file() and stem(file.name)}
    pairs = []
    for file in present.values() if place.is_dir() else [place]:
        about = next((present[partner] for partner in partners(stem(file.name)) if partner in present), None)
        if about is not None:
            pairs.append([file, about])
    if not pairs:
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:MAX_LISTED]) or "no files"
        where = "" if place.is_dir() else f", next to {found}"
        rule = f"has {found}" if place.is_dir() else "has no file about its items"
        raise UserError(f"data.path={place}: {rule}{where}. It needs {example}")
    if len(pairs) > 1:
        names = ", ".join(ratings.name for ratings, _ in pairs)
        raise UserError(f"data.path={place}: has several files of ratings: {names}. Give one of them")
    return pairs[0]
