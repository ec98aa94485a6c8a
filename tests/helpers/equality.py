"""What a step and a score must be, sample by sample, and whether rows give that."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from mlens.model.attention.cpu import ROW_ATTENTION
from mlens.packing.plan import epoch_order
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
from tests.helpers.tokenizers_for_tests import tiny, whole_ids

REFERENCE = ReferenceRows()
# Of a loss or a score, and of a gradient. Qwen3's norms compute in float32 in either case.
TOLERANCE = {torch.float64: (1e-7, 1e-6), torch.float32: (1e-5, 1e-4)}
VOCABULARY = 700
dtypes = st.sampled_from(list(TOLERANCE))


@dataclass(frozen=True)
class PlainStep:
    """targets; labels: the weights of its label tokens; loss: of all, as a mean."""

    targets: list[int]
    labels: float
    loss: torch.Tensor


def plain_steps(case: Case, model):
    """Each step's loss by one ordinary forward pass a sample."""
    dataset, steps = case.train, case.steps
    order = epoch_order(dataset, steps, dataset.seed, case.epoch)
    for first in range(0, len(order), steps.targets):
        targets = sorted(order[first : first + steps.targets].tolist())
        total, labels = torch.zeros((), dtype=model.dtype), 0.0
        for i in targets:
            sample = dataset[i]
            total = total - plain_score(model, sample.prompt, sample.answer)
            labels += len(sample.answer)
            places = line_tokens(case, i) if steps.history_loss_weight else []
            if places:
                own = plain_log_probabilities(model, sample.prompt)[torch.tensor(places) - 1].sum()
                total = total - steps.history_loss_weight * own
                labels += steps.history_loss_weight * len(places)
        yield PlainStep(targets, labels, total / labels)


def line_tokens(case: Case, i: int) -> list[int]:
    """Where in its prompt the ratings stand that training target i shows and that no target of its user before it
    sees."""
    dataset = case.train
    table, targets = dataset.table, dataset.stage.targets.tolist()
    earlier = [t for t in targets[:i] if table.user[t] == table.user[targets[i]]]
    shown_to = [naive_visible(table, case.roles, t, case.split.eval_history, case.split.ties) for t in earlier]
    old = {rating for visible in shown_to for rating in visible}
    shown = rating_places(dataset.renderer, targets[i], dataset.history(i))
    return [place for rating, places in shown.items() if rating not in old for place in places]


def rating_places(renderer: Renderer, target: int, history) -> dict[int, range]:
    """Where in the prompt of `target` each rating of its history stands, found by tokenising the prompt's text up to
    it."""
    table, places = renderer.template.table, {}
    for n, rating in enumerate(map(int, history)):
        text = naive_prompt(table, target, history[: n + 1], renderer.template.ablation, renderer.template.style).text()
        line, shown = text.rpartition("\n\n[RECENT_DIALOGUE]")[0], f" {table.rating[rating]:.1f}"
        assert line.endswith(shown)
        start, stop = (len(whole_ids(tiny(), part)) for part in (line.removesuffix(shown), line))
        places[rating] = range(start, stop)
    return places


def model(attention: str, dtype: torch.dtype):
    return model_once(attention, dtype, VOCABULARY)


def same(row: Row) -> Row:
    return row


def check_training(case: Case, dtype: torch.dtype, change: Callable[[Row], Row] = same) -> None:
    """Each step's labels, loss and gradients, over all ranks' rows (each changed by `change`), and those of reference
    rows, are those of one ordinary forward pass a sample."""
    of_loss, of_gradient = TOLERANCE[dtype]
    shared, plain = model(ROW_ATTENTION, dtype), model("sdpa", dtype)
    steps = zip(plain_steps(case, plain), train_steps(case), train_steps(case, REFERENCE), strict=True)
    for step, rows, alone in steps:
        want = gradients(plain, step.loss)
        for built, own in ((rows, shared), (alone, plain)):
            assert sorted(t for one in built for t in one.targets) == step.targets
            assert [one.labels for one in built] == pytest.approx([step.labels] * len(built))
            changed = [change(one.row) if own is shared else one.row for one in built if one.targets]
            loss = -sum((row_scores(own, row) * row.weight).sum() for row in changed) / step.labels
            assert loss.item() == pytest.approx(step.loss.item(), rel=of_loss)
            assert_close_gradients(gradients(own, loss), want, of_gradient)


def check_scores(case: Case, stage: str, dtype: torch.dtype, change: Callable[[Row], Row] = same) -> None:
    """Every legal rating's score after every prompt of a stage, as by one ordinary forward pass of both."""
    shared, plain = model(ROW_ATTENTION, dtype), model("sdpa", dtype)
    dataset, answers = case.datasets[stage], case.answers
    with torch.no_grad():
        want = [[plain_score(plain, sample.prompt, a).item() for a in answers] for sample in dataset]
        for collator, own in ((case.collator, shared), (REFERENCE, plain)):
            got = np.full((len(dataset), len(answers)), np.nan)
            for one in score_rows(case, stage, collator):
                if one.targets:
                    assert np.isnan(got[one.targets]).all()
                    scores = row_scores(own, change(one.row) if own is shared else one.row)
                    got[one.targets] = scores.view(-1, len(answers)).numpy()
            assert got == pytest.approx(np.array(want), rel=TOLERANCE[dtype][0])
