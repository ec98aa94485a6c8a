"""A look as a page for the terminal. Titles, tags and profiles are text there: no markup, no control characters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlens.comparison.finished_runs import strategy_label
from mlens.data.split import STAGES, TRAIN
from mlens.history.random import Random
from mlens.pipeline import RunInputs
from mlens.show.find import told_time
from mlens.show.look import Look
from mlens.show.prediction import Prediction
from mlens.show.prompt_pieces import Piece
from mlens.show.rating_status import CHOSEN, DROPPED, HIDDEN, NOT_CHOSEN, TARGET, RatingStatus, counts
from mlens.show.row_placement import RowPlacement, Stretch
from mlens.text import printable

STYLES = {CHOSEN: "green", DROPPED: "yellow", NOT_CHOSEN: "dim", HIDDEN: "red", TARGET: "bold cyan"}
MEANINGS = {
    CHOSEN: "in the prompt",
    DROPPED: "the strategy wants it, the budget has no room for it",
    NOT_CHOSEN: "may be seen, the strategy doesn't want it",
    HIDDEN: "this target must not see it",
}
# Of a long list: its first, those around what matters, and its last; and how many changes of kind.
FIRST, BEFORE, AFTER, CHANGES = 3, 12, 3, 4
# The width of a page that isn't on a terminal, and of the drawings.
PIPED, DRAWN = 120, 100
OWN, SEEN, UNSEEN, OTHER = "█", "▓", "░", "·"


def print_look(inputs: RunInputs, look: Look, everything: bool = False) -> None:
    """On stdout; with `everything` long lists in full."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, markup=False, emoji=False, width=PIPED)

    def section(number: int, title: str) -> None:
        console.print()
        console.print(Text(f"{number}  {title}", "bold"))

    section(1, "The rating to predict")
    console.print(_target(inputs, look))
    section(2, "What became of this user's ratings")
    for line in _told_history(inputs, look):
        console.print(Text(line), soft_wrap=True)
    console.print(_history(inputs, look, everything))
    section(3, "The prompt, as the model reads it")
    for line in look.text.split("\n"):
        console.print(Text(f"│ {printable(line)}"), soft_wrap=True)
    section(4, "The same as token ids, piece by piece")
    console.print(_pieces(look, everything))
    console.print(Text(_length(look)), soft_wrap=True)
    section(5, "The row that holds it")
    for line in _row(look.placement, len(look.dataset)):
        console.print(Text(line), soft_wrap=True)
    console.print(_stretches(look))
    if look.prediction is not None:
        section(6, "What this run predicted")
        console.print(_prediction(look.prediction))
        console.print(Text(_told_prediction(inputs, look.prediction)), soft_wrap=True)


def _target(inputs: RunInputs, look: Look) -> Table:
    table, target = look.dataset.table, look.target
    user, movie = int(table.user[target]), int(table.movie[target])
    first, stop = (int(table.user_offsets[user + at]) for at in (0, 1))
    genres = table.movies["genres"][movie]
    grid = Table.grid(padding=(0, 2))
    for name, value in {
        "user": str(table.users["id"][user]),
        "film": f"{table.movies['title'][movie]}{f' ({genres})' if genres else ''}, id {table.movies['id'][movie]}",
        "rating": f"{table.scale[table.rating_index[target]]}, given {told_time(int(table.timestamp[target]))} UTC",
        "place": f"t={target - first} of the user's {stop - first} ratings in time order (from 0)",
        "stage": f"{look.dataset.stage.name}: {look.why}",
        "run": "none: these settings" if look.run is None else str(look.run),
    }.items():
        grid.add_row(Text(name, "dim"), Text(printable(value)))
    return grid


def _told_history(inputs: RunInputs, look: Look) -> Iterator[str]:
    """The counts, and what the strategy and the budget did."""
    found, dataset, style = counts(look.statuses), look.dataset, inputs.settings.prompt
    visible = found[CHOSEN] + found[DROPPED] + found[NOT_CHOSEN]
    strategy = strategy_label(inputs.settings.config["history"])
    if not inputs.settings.ablation.history:
        strategy += " (not used: the ablation shows no history)"
    yield printable(
        f"Of {len(look.statuses) - 1} other ratings it may see {visible}; history={strategy} wants "
        f"{found[CHOSEN] + found[DROPPED]} of these; {found[CHOSEN]} fit and are shown."
    )
    if found[DROPPED]:
        room = f"prompt.max_tokens={style.max_tokens}"
        room += "" if style.history_tokens is None else f", prompt.history_tokens={style.history_tokens}"
        yield f"Room: {room}. {dataset.histories.trim_rule}"
    history = inputs.settings.history
    if isinstance(history, Random) and inputs.settings.ablation.history:
        redrawn = dataset.stage.name == STAGES[TRAIN] and history.redraw == "epoch"
        yield "Drawn by " + ("the seed, anew in each epoch: this is epoch 0." if redrawn else "the seed, once.")


def _history(inputs: RunInputs, look: Look, everything: bool) -> Table:
    table, statuses = look.dataset.table, look.statuses
    listing = Table("t", "given (UTC)", "rating", "stage", "film", "", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    listing.columns[0].justify = "right"
    listing.columns[4].overflow, listing.columns[4].max_width = "ellipsis", 48
    listing.columns[4].no_wrap = listing.columns[1].no_wrap = True
    target = next(at for at, status in enumerate(statuses) if status.kind == TARGET)
    changes = [at for at, (one, other) in enumerate(pairwise(statuses), 1) if one.kind != other.kind]
    around = [near for at in changes if len(changes) <= CHANGES for near in (at - 1, at)]
    kept = {
        *range(FIRST),
        *range(target - BEFORE, target + AFTER + 1),
        *around,
        *range(len(statuses) - 1, len(statuses)),
    }
    for stretch in _excerpt(len(statuses), set(range(len(statuses))) if everything else kept):
        if len(stretch) > 1:
            told = [f"{n} {kind}" for kind, n in counts([statuses[at] for at in stretch]).items() if n]
            listing.add_row("…", "", "", "", Text(f"{len(stretch)} more: {', '.join(told)}", "dim"), "")
            continue
        status = statuses[stretch[0]]
        listing.add_row(
            str(status.place),
            told_time(int(table.timestamp[status.rating])),
            str(table.scale[table.rating_index[status.rating]]),
            status.role,
            Text(printable(table.movies["title"][int(table.movie[status.rating])])),
            Text(_told(status)),
            style=STYLES[status.kind],
        )
    listing.caption = ", ".join(f"{kind}: {MEANINGS[kind]}" for kind, n in counts(statuses).items() if n)
    listing.caption_justify = "left"
    return listing


def _told(status: RatingStatus) -> str:
    if status.kind == CHOSEN:
        return f"chosen: line {status.line}"
    return f"{status.kind}: {status.why}" if status.why else status.kind


def _excerpt(n: int, kept: set[int]) -> Iterator[range]:
    """0 to n - 1 in order: each of `kept` alone, and what lies between them (each alone where there are few).

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


def _pieces(look: Look, everything: bool) -> Table:
    listing = Table(
        "piece", "tokens", "text (↵ line break, ␣ blank at an end)", "ids", box=box.SIMPLE_HEAD, pad_edge=False
    )
    listing.columns[1].justify, listing.columns[2].overflow = "right", "fold"
    pieces = look.pieces
    kept = {*range(3 + 2 * FIRST), *range(len(pieces) - 8, len(pieces))}
    for stretch in _excerpt(len(pieces), set(range(len(pieces))) if everything else kept):
        if len(stretch) > 1:
            tokens = sum(len(pieces[at].ids) for at in stretch)
            listing.add_row(Text(f"{len(stretch)} more", "dim"), str(tokens), "", "")
            continue
        piece = pieces[stretch[0]]
        ids = Text(" ".join(map(str, piece.ids)), "dim")
        listing.add_row(piece.part, str(len(piece.ids)), Text(_visible(piece), "green"), ids)
    return listing


def _visible(piece: Piece) -> str:
    text = piece.text
    blanks = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" ")) if text.strip(" ") else 0
    text = "␣" * blanks[0] + text.strip(" ") + "␣" * blanks[1]
    return printable(text.replace("\n", "↵"))


def _length(look: Look) -> str:
    prompt, answer = sum(len(piece.ids) for piece in look.pieces[:-1]), len(look.pieces[-1].ids)
    most = look.dataset.renderer.template.style.max_tokens
    return f"{prompt} tokens of prompt + {answer} of the answer = {prompt + answer} (prompt.max_tokens={most})"


def _row(placement: RowPlacement, targets: int) -> Iterator[str]:
    where = f"row {placement.row} of {placement.rows} (from 0)"
    if placement.step is None:
        alone = (
            ""
            if placement.packed == targets
            else f", if this user's {placement.packed} of {targets:,} were all there is"
        )
        yield f"In evaluation, packed for one process: {where}{alone}."
    else:
        yield f"In training, epoch 0, packed for one process: step {placement.step} of {placement.steps:,}, {where}."
    yield f"The row has {placement.tokens:,} tokens: {placement.targets} targets in {placement.groups} prefix groups."
    own = sum(stretch.stop - stretch.first for stretch in placement.stretches)
    if placement.prefix is None:
        yield f"This target shares nothing: each of its {own} tokens sees those before it, and no other target's."
    else:
        (_, seen), prefix = _seen_of_prefix(placement), placement.prefix[1] - placement.prefix[0]
        yield (
            f"This target is suffix {placement.suffix} of {placement.suffixes} (from 0) of a shared prefix of "
            f"{prefix:,} tokens, of which it sees the first {seen:,}; {own} tokens are its own."
        )
    if placement.other_labels:
        yield f"Besides, {placement.other_labels} tokens of ratings in the row's histories carry loss (history loss)."
    yield ""
    yield _drawn(placement)
    each = max(1, round(placement.tokens / min(DRAWN, placement.tokens)))
    signs = {OWN: "its own tokens", SEEN: "prefix it sees", UNSEEN: "prefix it doesn't see", OTHER: "other targets"}
    legend = ", ".join(f"{sign} {meaning}" for sign, meaning in signs.items() if sign in _drawn(placement))
    yield f"The row from left to right (a sign is about {each} token{'s' * (each > 1)}): {legend}"


def _seen_of_prefix(placement: RowPlacement) -> tuple[int, int]:
    """Where the prefix begins, and how many of its tokens the target sees."""
    assert placement.prefix is not None
    first, stop = placement.stretches[0].sees[0]
    return first, stop - first


def _drawn(placement: RowPlacement) -> str:
    """One sign for each of some neighbouring tokens of the row."""
    signs = [OTHER] * placement.tokens
    if placement.prefix is not None:
        first, seen = _seen_of_prefix(placement)
        for at in range(*placement.prefix):
            signs[at] = SEEN if at < first + seen else UNSEEN
    for stretch in placement.stretches:
        signs[stretch.first : stretch.stop] = [OWN] * (stretch.stop - stretch.first)
    cells = min(DRAWN, placement.tokens)
    borders = [cell * placement.tokens // cells for cell in range(cells + 1)]
    order = (OWN, SEEN, UNSEEN, OTHER)
    return "".join(min(signs[a:b], key=order.index) for a, b in pairwise(borders))


def _stretches(look: Look) -> Table:
    listing = Table("tokens of the row", "positions", "see", "predict", box=box.SIMPLE_HEAD, pad_edge=False)
    for stretch in look.placement.stretches:
        size = stretch.stop - stretch.first
        predicted = [token for place, token in look.placement.labels if stretch.first <= place < stretch.stop]
        listing.add_row(
            f"{stretch.first}–{stretch.stop - 1}",
            f"{stretch.position}–{stretch.position + size - 1}",
            _sees(stretch),
            " ".join(map(str, predicted)) + (" (its last tokens)" if predicted and size > len(predicted) else ""),
        )
    return listing


def _sees(stretch: Stretch) -> str:
    others = [f"{start}–{stop - 1}" for start, stop in stretch.sees]
    return ", ".join([*others, f"{stretch.own} to itself"])


def _prediction(prediction: Prediction) -> Table:
    grid = Table.grid(padding=(0, 1))
    most = max(prediction.probability.values())
    for value, probability in prediction.probability.items():
        true = value == prediction.rating
        bar = OWN * round(40 * probability / most)
        grid.add_row(
            str(value),
            f"{probability:6.1%}",
            Text(bar, "cyan" if true else "blue"),
            "← the true rating" if true else "",
        )
    return grid


def _told_prediction(inputs: RunInputs, prediction: Prediction) -> str:
    draws = inputs.settings.evaluation.draws
    first = f"; from the history that the page shows, the first of {draws} draws" if draws > 1 else ""
    return f"expected {prediction.expected:.2f}, most probable {prediction.argmax}, true {prediction.rating}{first}"
