"""Losses, gradients and scores computed sample by sample, and checks that rows give the same."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from mlens.model.attention.cpu import ROW_ATTENTION
from mlens.packing.epoch_plan import epoch_order
from mlens.packing.reference import ReferenceRows
from mlens.packing.row import Row
from mlens.prompt.renderer import Renderer
from tests.helpers.cases import Case, score_rows, train_steps
from tests.helpers.reference import naive_prompt, naive_visible
from tests.helpers.small_model import (
    assert_close_gradients,
    gradients,
    model_once,
    plain_log_probabilities,
    plain_score,
    row_scores,
)
from tests.helpers.tokenizers_for_tests import text_ids, tiny

REFERENCE = ReferenceRows()
# Relative tolerances of losses and scores, and of gradients. Qwen3's norms compute in float32 with either dtype.
TOLERANCE = {torch.float64: (1e-7, 1e-6), torch.float32: (1e-5, 1e-4)}
VOCABULARY = 700
dtypes = st.sampled_from(list(TOLERANCE))


@dataclass(frozen=True)
class PlainStep:
    """A step, computed sample by sample.

    targets: of the step.
    labels: total weight of the label tokens.
    loss: weighted mean over the label tokens.
    """

    targets: list[int]
    labels: float
    loss: torch.Tensor


def plain_steps(case: Case, model):
    """Yield each step, computed with one ordinary forward pass per sample."""
    dataset, steps = case.train, case.steps
    order = epoch_order(dataset, steps, dataset.seed, case.epoch)
    for first in range(0, len(order), steps.targets):
        targets = sorted(order[first : first + steps.targets].tolist())
        total, labels = torch.zeros((), dtype=model.dtype), 0.0
        for i in targets:
            sample = dataset[i]
            total = total - plain_score(model, sample.prompt, sample.answer)
            labels += len(sample.answer)
            tokens = line_tokens(case, i) if steps.history_loss_weight else []
            if tokens:
                history = plain_log_probabilities(model, sample.prompt)[torch.tensor(tokens) - 1].sum()
                total = total - steps.history_loss_weight * history
                labels += steps.history_loss_weight * len(tokens)
        yield PlainStep(targets, labels, total / labels)


def line_tokens(case: Case, i: int) -> list[int]:
    """Return the rating tokens with history loss, as indices into the prompt of training target i.

    These are the ratings in its history that no earlier target of its user sees.
    """
    dataset = case.train
    table, targets = dataset.table, dataset.stage.targets.tolist()
    earlier = [t for t in targets[:i] if table.user[t] == table.user[targets[i]]]
    shown_to = [naive_visible(table, case.roles, t, case.split.eval_history, case.split.ties) for t in earlier]
    old = {rating for visible in shown_to for rating in visible}
    shown = rating_tokens(dataset.renderer, targets[i], dataset.history(i))
    return [index for rating, indices in shown.items() if rating not in old for index in indices]


def rating_tokens(renderer: Renderer, target: int, history) -> dict[int, range]:
    """Return the range of tokens of each rating of a history in the prompt of `target`.

    Each is found by tokenising the prompt's text up to it.
    """
    table, style, ranges = renderer.template.table, renderer.template.style, {}
    newest_first = style.order == "newest_first"
    for n, rating in enumerate(map(int, history[::-1] if newest_first else history), 1):
        first_lines = history[len(history) - n :] if newest_first else history[:n]
        text = naive_prompt(table, target, first_lines, renderer.template.ablation, style).text()
        line, shown = text.rpartition("\n\n[RECENT_DIALOGUE]")[0], f" {table.rating[rating]:.1f}"
        assert line.endswith(shown)
        start, stop = (len(text_ids(tiny(), part)) for part in (line.removesuffix(shown), line))
        ranges[rating] = range(start, stop)
    return ranges


def model(attention: str, dtype: torch.dtype):
    return model_once(attention, dtype, VOCABULARY)


def unchanged(row: Row) -> Row:
    return row


def check_training(case: Case, dtype: torch.dtype, change: Callable[[Row], Row] = unchanged) -> None:
    """Assert that packed rows (each changed by `change`), and reference rows, give the labels, loss and gradients of
    each step that one ordinary forward pass per sample gives."""
    of_loss, of_gradient = TOLERANCE[dtype]
    shared, plain = model(ROW_ATTENTION, dtype), model("sdpa", dtype)
    steps = zip(plain_steps(case, plain), train_steps(case), train_steps(case, REFERENCE), strict=True)
    for step, rows, reference in steps:
        want = gradients(plain, step.loss)
        for built, used in ((rows, shared), (reference, plain)):
            assert sorted(t for one in built for t in one.targets) == step.targets
            assert [one.labels for one in built] == pytest.approx([step.labels] * len(built))
            changed = [change(one.row) if used is shared else one.row for one in built if one.targets]
            loss = -sum((row_scores(used, row) * row.weight).sum() for row in changed) / step.labels
            assert loss.item() == pytest.approx(step.loss.item(), rel=of_loss)
            assert_close_gradients(gradients(used, loss), want, of_gradient)


def check_scores(case: Case, stage: str, dtype: torch.dtype, change: Callable[[Row], Row] = unchanged) -> None:
    """Assert that rows give the score of each legal rating after each prompt of a stage that one ordinary forward pass
    gives."""
    shared, plain = model(ROW_ATTENTION, dtype), model("sdpa", dtype)
    dataset, answers = case.datasets[stage], case.answers
    with torch.no_grad():
        want = [[plain_score(plain, sample.prompt, a).item() for a in answers] for sample in dataset]
        for collator, used in ((case.collator, shared), (REFERENCE, plain)):
            got = np.full((len(dataset), len(answers)), np.nan)
            for one in score_rows(case, stage, collator):
                if one.targets:
                    assert np.isnan(got[one.targets]).all()
                    scores = row_scores(used, change(one.row) if used is shared else one.row)
                    got[one.targets] = scores.view(-1, len(answers)).numpy()
            assert got == pytest.approx(np.array(want), rel=TOLERANCE[dtype][0])
