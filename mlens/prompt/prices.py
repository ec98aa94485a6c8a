"""The tokens of a stage's histories, and the room that its prompts leave for them."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from mlens.data.chunked import by_blocks, int_type
from mlens.data.ragged import offsets
from mlens.data.stage import Stage
from mlens.errors import UserError
from mlens.history.budget import Budget
from mlens.prompt.renderer import Renderer
from mlens.prompt.template import PromptTemplate


def make_budget(renderer: Renderer, stage: Stage) -> Budget:
    """Compute the budget of `stage`'s histories.

    Every target leaves room for the longest legal answer: what is shown must not depend on the answer. Context
    yields to history, so `room` counts no context.

    Raises UserError where a target doesn't fit even without history, and names it.
    """
    template = renderer.template
    style, pieces, lengths = template.style, template.pieces, template.pieces.lengths
    room = style.max_tokens - template.longest_answer

    def room_left(targets: np.ndarray) -> np.ndarray:
        return (room - renderer.bare_lengths(targets)).astype(int_type(style.max_tokens))

    left = by_blocks(room_left, stage.targets)
    if (left < 0).any():
        _refuse(template, stage.targets[int(np.argmin(left))], -int(left.min()))
    most = room if style.history_tokens is None else min(room, style.history_tokens)
    after_target = after_context = np.minimum(left, most)
    if template.context is not None:
        context = by_blocks(lambda targets, left: _context_tokens(template, targets, left), stage.targets, left)
        after_context = np.minimum(left - context, most)

    def line_lengths(visible: np.ndarray) -> np.ndarray:
        return template.line_lengths(visible).astype(np.int32)

    lines, numbers, header = by_blocks(line_lengths, stage.visible), lengths[pieces.number], int(lengths[pieces.header])
    total = int_type(int(lines.sum() + numbers.sum()) + header)
    return Budget(
        line_ends=offsets(lines, total),
        number_ends=offsets(numbers, total),
        header=header,
        room=after_target,
        room_after_context=after_context,
    )


def _context_tokens(template: PromptTemplate, targets: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return the tokens of each target's newest context turns, at most max_context, that fit in `left` [n]: [n]."""
    context, table = template.context, template.table
    assert context is not None
    costs = template.pieces.lengths[template.pieces.turn[context.turn]].astype(left.dtype)
    owner = targets if context.time is None else table.user[targets]
    start, turn = context.owner_offsets[owner], context.owner_offsets[owner + 1]
    if context.time is not None:
        turn = _first_not_before(context.time, start, turn, table.timestamp[targets])
    used, shown = np.zeros_like(left), np.zeros_like(left)
    t = np.arange(len(targets))
    while len(t := t[(turn[t] > start[t]) & (shown[t] < template.style.max_context)]):
        turn[t] -= 1
        counts = context.movie is None or context.movie[turn[t]] != table.movie[targets[t]]
        tokens = used[t] + costs[turn[t]] * counts
        fits = tokens <= left[t]
        t, counts = t[fits], np.broadcast_to(counts, fits.shape)[fits]
        used[t] = tokens[fits]
        shown[t] += counts
    return used


def _refuse(template: PromptTemplate, target: int, missing: int) -> NoReturn:
    table, most = template.table, template.style.max_tokens
    user, movie = table.users["id"][int(table.user[target])], table.movies["title"][int(table.movie[target])]
    raise UserError(
        f"prompt.max_tokens={most} is too small: user {user}'s target {movie!r} alone, without any history, takes "
        f"{most + missing} tokens"
    )


def _first_not_before(time: np.ndarray, start: np.ndarray, stop: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the first index of time[start:stop], which ascends, that isn't before `at`, else stop: [n]."""
    low, high = start.copy(), stop.copy()
    while (low < high).any():
        open_ = low < high
        middle = (low + high) // 2
        before = open_ & (time[np.minimum(middle, len(time) - 1)] < at)
        low, high = np.where(before, middle + 1, low), np.where(open_ & ~before, middle, high)
    return low
