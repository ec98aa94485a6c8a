"""Prints an inspection as a page for the terminal. Markup and control characters in titles, tags and profiles are
printed as text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlens.comparison.finished_runs import strategy_label
from mlens.data.items import Item, item_of
from mlens.data.split import STAGES, TRAIN
from mlens.history.strategy import redraw_of
from mlens.pipeline import RunInputs
from mlens.show.find import format_time
from mlens.show.inspection import Inspection
from mlens.show.prediction import Prediction
from mlens.show.prompt_pieces import Piece
from mlens.show.rating_status import CHOSEN, DROPPED, HIDDEN, NOT_CHOSEN, TARGET, RatingStatus, count_kinds
from mlens.show.row_placement import RowPlacement, TokenRange
from mlens.text import printable

STYLES = {CHOSEN: "green", DROPPED: "yellow", NOT_CHOSEN: "dim", HIDDEN: "red", TARGET: "bold cyan"}
MEANINGS = {
    CHOSEN: "in the prompt",
    DROPPED: "requested by the strategy, but over the budget",
    NOT_CHOSEN: "visible, but not chosen by the strategy",
    HIDDEN: "not visible to this target",
}
# Excerpt of a long list: the first entries, those before and after the target, those at changes of kind if there are at
# most CHANGES, and the ratings for which the strategy gives a reason if they are at most REASONS.
FIRST, BEFORE, AFTER, CHANGES, REASONS = 3, 12, 3, 4, 40
# Columns of a page that isn't on a terminal, and of the drawings.
PAGE_WIDTH, DRAWING_WIDTH = 120, 100
ALONE, SEEN, UNSEEN, OTHER = "█", "▓", "░", "·"


def print_inspection(inputs: RunInputs, inspection: Inspection, everything: bool = False) -> None:
    """Print the page on stdout.

    everything: print long lists in full.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, markup=False, emoji=False, width=PAGE_WIDTH)

    def section(number: int, title: str) -> None:
        console.print()
        console.print(Text(f"{number}  {title}", "bold"))

    section(1, "The rating to predict")
    console.print(_target(inputs, inspection))
    section(2, "The status of the user's ratings")
    for line in _history_summary(inputs, inspection):
        console.print(Text(line), soft_wrap=True)
    console.print(_history(inputs, inspection, everything))
    section(3, "The prompt, as the model reads it")
    for line in inspection.text.split("\n"):
        console.print(Text(f"│ {printable(line)}"), soft_wrap=True)
    section(4, "The token ids, piece by piece")
    console.print(_pieces(inspection, item_of(inputs.settings.data), everything))
    console.print(Text(_prompt_length(inspection)), soft_wrap=True)
    section(5, "The row of this target")
    for line in _row_summary(inspection.placement, len(inspection.dataset)):
        console.print(Text(line), soft_wrap=True)
    console.print(_token_ranges(inspection))
    if inspection.prediction is not None:
        section(6, "The prediction of this run")
        console.print(_prediction(inspection.prediction))
        console.print(Text(_prediction_summary(inputs, inspection.prediction)), soft_wrap=True)


def _target(inputs: RunInputs, inspection: Inspection) -> Table:
    table, target = inspection.dataset.table, inspection.target
    user, movie = int(table.user[target]), int(table.movie[target])
    first, stop = (int(table.user_offsets[user + at]) for at in (0, 1))
    item, genres = item_of(inputs.settings.data), table.movies["genres"][movie]
    grid = Table.grid(padding=(0, 2))
    for name, value in {
        "user": str(table.users["id"][user]),
        item.name: f"{table.movies['title'][movie]}, id {table.movies['id'][movie]}",
        item.categories: genres or "none",
        "rating": f"{table.scale[table.rating_index[target]]}, given {format_time(int(table.timestamp[target]))} UTC",
        "position": f"t={target - first} of the user's {stop - first} ratings in time order (from 0)",
        "stage": f"{inspection.dataset.stage.name}: {inspection.role_reason}",
        "run": "none, these settings" if inspection.run is None else str(inspection.run),
    }.items():
        grid.add_row(Text(name, "dim"), Text(printable(value)))
    return grid


def _history_summary(inputs: RunInputs, inspection: Inspection) -> Iterator[str]:
    """Yield lines on the number of ratings of each kind, the budget and the draw."""
    found, dataset, style = count_kinds(inspection.statuses), inspection.dataset, inputs.settings.prompt
    visible = found[CHOSEN] + found[DROPPED] + found[NOT_CHOSEN]
    strategy = strategy_label(inputs.settings.config["history"])
    if not inputs.settings.ablation.history:
        strategy += " (not used: the ablation shows no history)"
    yield printable(
        f"Of the user's {len(inspection.statuses) - 1} other ratings {visible} are visible to this target; "
        f"history={strategy} requests {found[CHOSEN] + found[DROPPED]} of these; {found[CHOSEN]} fit and are shown."
    )
    if found[DROPPED]:
        budget = f"prompt.max_tokens={style.max_tokens}"
        budget += "" if style.history_tokens is None else f", prompt.history_tokens={style.history_tokens}"
        yield f"Budget: {budget}. {dataset.histories.trim_rule}"
    redraw = redraw_of(inputs.settings.history)
    if redraw is not None and inputs.settings.ablation.history:
        redrawn = dataset.stage.name == STAGES[TRAIN] and redraw == "epoch"
        yield "Drawn from the seed, " + ("anew in each epoch; this is epoch 0." if redrawn else "once.")


def _history(inputs: RunInputs, inspection: Inspection, everything: bool) -> Table:
    table, statuses, item = inspection.dataset.table, inspection.statuses, item_of(inputs.settings.data).name
    listing = Table("t", "given (UTC)", "rating", "stage", item, "", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    listing.columns[0].justify = "right"
    explained = [at for at, status in enumerate(statuses) if status.reason and status.kind in (CHOSEN, DROPPED)]
    listing.columns[4].overflow, listing.columns[4].max_width = "ellipsis", 36 if explained else 48
    listing.columns[4].no_wrap = listing.columns[1].no_wrap = True
    target = next(at for at, status in enumerate(statuses) if status.kind == TARGET)
    changes = [at for at, (one, other) in enumerate(pairwise(statuses), 1) if one.kind != other.kind]
    around = [near for at in changes if len(changes) <= CHANGES for near in (at - 1, at)]
    kept = {
        *range(FIRST),
        *range(target - BEFORE, target + AFTER + 1),
        *around,
        *(explained if len(explained) <= REASONS else ()),
        *range(len(statuses) - 1, len(statuses)),
    }
    for part in _excerpt(len(statuses), set(range(len(statuses))) if everything else kept):
        if len(part) > 1:
            kinds = [f"{n} {kind}" for kind, n in count_kinds([statuses[at] for at in part]).items() if n]
            listing.add_row("…", "", "", "", Text(f"{len(part)} more: {', '.join(kinds)}", "dim"), "")
            continue
        status = statuses[part[0]]
        listing.add_row(
            str(status.t),
            format_time(int(table.timestamp[status.rating])),
            str(table.scale[table.rating_index[status.rating]]),
            status.role,
            Text(printable(table.movies["title"][int(table.movie[status.rating])])),
            Text(_format_status(status)),
            style=STYLES[status.kind],
        )
    listing.caption = "; ".join(f"{kind}: {MEANINGS[kind]}" for kind, n in count_kinds(statuses).items() if n)
    listing.caption_justify = "left"
    return listing


def _format_status(status: RatingStatus) -> str:
    words = [f"line {status.line}"] if status.kind == CHOSEN else []
    words += [status.reason] if status.reason else []
    return f"{status.kind}: {', '.join(words)}" if words else status.kind


def _excerpt(n: int, kept: set[int]) -> Iterator[range]:
    """Yield the ranges of an excerpt of 0 to n - 1.

    Each index of `kept` is a range, and so is each gap between them; gaps of one or two are split into single indices.

    >>> list(_excerpt(9, {0, 7, 8}))
    [range(0, 1), range(1, 7), range(7, 8), range(8, 9)]
    """
    at = 0
    while at < n:
        stop = next((end for end in range(at, n) if end in kept), n)
        if stop - at > 2:
            yield range(at, stop)
        else:
            yield from (range(one, one + 1) for one in range(at, stop))
        if stop < n:
            yield range(stop, stop + 1)
        at = stop + 1


def _pieces(inspection: Inspection, item: Item, everything: bool) -> Table:
    listing = Table(
        "piece", "tokens", "text (↵ line break, ␣ space at an end)", "ids", box=box.SIMPLE_HEAD, pad_edge=False
    )
    listing.columns[1].justify, listing.columns[2].overflow = "right", "fold"
    pieces = inspection.pieces
    kept = {*range(3 + 2 * FIRST), *range(len(pieces) - 8, len(pieces))}
    for part in _excerpt(len(pieces), set(range(len(pieces))) if everything else kept):
        if len(part) > 1:
            tokens = sum(len(pieces[at].ids) for at in part)
            listing.add_row(Text(f"{len(part)} more", "dim"), str(tokens), "", "")
            continue
        piece = pieces[part[0]]
        ids = Text(" ".join(map(str, piece.ids)), "dim")
        part_name = piece.part.replace("item", item.name)
        listing.add_row(part_name, str(len(piece.ids)), Text(_visible(piece), "green"), ids)
    return listing


def _visible(piece: Piece) -> str:
    """Return the piece's text with line breaks and outer spaces as visible characters."""
    text = piece.text
    spaces = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" ")) if text.strip(" ") else 0
    text = "␣" * spaces[0] + text.strip(" ") + "␣" * spaces[1]
    return printable(text.replace("\n", "↵"))


def _prompt_length(inspection: Inspection) -> str:
    prompt, answer = sum(len(piece.ids) for piece in inspection.pieces[:-1]), len(inspection.pieces[-1].ids)
    limit = inspection.dataset.renderer.template.style.max_tokens
    return f"{prompt} tokens of prompt + {answer} of the answer = {prompt + answer} (prompt.max_tokens={limit})"


def _row_summary(placement: RowPlacement, targets: int) -> Iterator[str]:
    """Yield lines on the row and the target's part of it; targets: of its stage."""
    where = f"row {placement.row} of {placement.rows} (from 0)"
    if placement.step is None:
        packed = (
            ""
            if placement.packed == targets
            else f", with only this user's {placement.packed} of {targets:,} targets packed"
        )
        yield f"In evaluation, packed for one process: {where}{packed}."
    else:
        yield f"In training, epoch 0, packed for one process: step {placement.step} of {placement.steps:,}, {where}."
    yield f"The row has {placement.tokens:,} tokens: {placement.targets} targets in {placement.groups} prefix groups."
    tokens = sum(part.stop - part.first for part in placement.token_ranges)
    if placement.prefix is None:
        yield f"This target shares no prefix: each of its {tokens} tokens sees those before it, and no other target's."
    else:
        (_, seen), prefix = _seen_of_prefix(placement), placement.prefix[1] - placement.prefix[0]
        yield (
            f"This target is suffix {placement.suffix} of {placement.suffixes} (from 0) of a shared prefix of "
            f"{prefix:,} tokens, of which it sees the first {seen:,}; the suffix has {tokens} tokens."
        )
    if placement.other_labels:
        yield f"In addition, {placement.other_labels} rating tokens in the row's histories have labels (history loss)."
    yield ""
    drawing = _drawing(placement)
    yield drawing
    each = max(1, round(placement.tokens / min(DRAWING_WIDTH, placement.tokens)))
    meanings = {
        ALONE: "this target alone",
        SEEN: "prefix it sees",
        UNSEEN: "prefix it doesn't see",
        OTHER: "other targets",
    }
    legend = ", ".join(f"{symbol} {meaning}" for symbol, meaning in meanings.items() if symbol in drawing)
    yield f"The row from left to right (each character is about {each} token{'s' * (each > 1)}): {legend}"


def _seen_of_prefix(placement: RowPlacement) -> tuple[int, int]:
    """Return where the prefix starts in the row, and how many of its tokens the target sees."""
    assert placement.prefix is not None
    first, stop = placement.token_ranges[0].sees[0]
    return first, stop - first


def _drawing(placement: RowPlacement) -> str:
    """Return the row as at most DRAWING_WIDTH characters, each for the same number of adjacent tokens (about)."""
    symbols = [OTHER] * placement.tokens
    if placement.prefix is not None:
        first, seen = _seen_of_prefix(placement)
        for at in range(*placement.prefix):
            symbols[at] = SEEN if at < first + seen else UNSEEN
    for part in placement.token_ranges:
        symbols[part.first : part.stop] = [ALONE] * (part.stop - part.first)
    cells = min(DRAWING_WIDTH, placement.tokens)
    borders = [cell * placement.tokens // cells for cell in range(cells + 1)]
    order = (ALONE, SEEN, UNSEEN, OTHER)
    return "".join(min(symbols[a:b], key=order.index) for a, b in pairwise(borders))


def _token_ranges(inspection: Inspection) -> Table:
    listing = Table("tokens of the row", "positions", "see", "predict", box=box.SIMPLE_HEAD, pad_edge=False)
    for part in inspection.placement.token_ranges:
        size = part.stop - part.first
        predicted = [token for at, token in inspection.placement.labels if part.first <= at < part.stop]
        listing.add_row(
            f"{part.first}–{part.stop - 1}",
            f"{part.position}–{part.position + size - 1}",
            _sees(part),
            " ".join(map(str, predicted)) + (" (from the last tokens)" if predicted and size > len(predicted) else ""),
        )
    return listing


def _sees(part: TokenRange) -> str:
    others = [f"{start}–{stop - 1}" for start, stop in part.sees]
    return ", ".join([*others, f"{part.causal_start} to itself"])


def _prediction(prediction: Prediction) -> Table:
    grid = Table.grid(padding=(0, 1))
    most = max(prediction.probability.values())
    for value, probability in prediction.probability.items():
        true = value == prediction.rating
        bar = ALONE * round(40 * probability / most)
        grid.add_row(
            str(value),
            f"{probability:6.1%}",
            Text(bar, "cyan" if true else "blue"),
            "← the true rating" if true else "",
        )
    return grid


def _prediction_summary(inputs: RunInputs, prediction: Prediction) -> str:
    draws = inputs.settings.evaluation.draws
    first = f"; with the history on this page, the first of {draws} draws" if draws > 1 else ""
    return f"expected {prediction.expected:.2f}, most probable {prediction.argmax}, true {prediction.rating}{first}"
