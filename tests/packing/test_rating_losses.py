"""Losses over the legal ratings: their values and gradients in rows are those of separate prompts."""

import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlens.history.all_previous import AllPrevious
from mlens.history.none import NoHistory
from mlens.model.attention.cpu import ROW_ATTENTION
from mlens.model.losses import row_loss
from mlens.packing.epoch_plan import epoch_order, plan_epoch, rating_row, train_row_builder
from mlens.packing.packed import PackedRows
from mlens.packing.reference import ReferenceRows
from mlens.packing.row import RatingLoss
from mlens.packing.steps import LOSSES, Steps
from tests.helpers.cases import cases, make_case, small_table, train_steps
from tests.helpers.equality import TOLERANCE, dtypes, model
from tests.helpers.prefix_groups import lone_groups, prefix_group_lists, prompts
from tests.helpers.rating_losses import LOSSES as OVER_RATINGS
from tests.helpers.rating_losses import plain_rating_loss
from tests.helpers.small_model import assert_close_gradients, gradients, model_once, plain_score, row_scores

losses, weights = st.sampled_from(OVER_RATINGS), st.sampled_from([0.3, 1.0, 4.0])


def test_these_are_all_losses():
    assert {"ce", *OVER_RATINGS} == LOSSES.keys()


def total(used, rows) -> torch.Tensor:
    return sum((row_loss(row_scores(used, row), row) for row in rows), torch.zeros(()))


def computed(used, loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss as a number, and its gradients."""
    return loss.item(), gradients(used, loss)


def check_equal(one, other, relative: float = 1e-6) -> None:
    """Assert that two results of `computed` are equal."""
    assert one[0] == pytest.approx(other[0], rel=relative, abs=relative)
    assert_close_gradients(one[1], other[1], relative)


@st.composite
def answers_and_groups(draw):
    """Draw legal answers, of which one may be the start of another without its end token, and groups with a true answer
    for each target."""
    chain = st.lists(st.integers(2, 5), min_size=1, max_size=3)
    chains = draw(st.lists(chain, min_size=2, max_size=6, unique_by=tuple))
    answers = [torch.tensor([*chain, 1]).numpy() for chain in chains]
    groups = [
        replace(group, suffixes=tuple(replace(s, answer=draw(st.sampled_from(answers))) for s in group.suffixes))
        for group in draw(prefix_group_lists(most=2))
    ]
    return answers, groups


@settings(max_examples=4)
@given(answers_and_groups(), losses, weights, st.data())
def test_with_any_answers_the_loss_is_that_of_separate_prompts(drawn, kind, weight, data):
    answers, groups = drawn
    stars = st.lists(st.integers(1, 20), min_size=len(answers), max_size=len(answers), unique=True)
    ratings = [tenth / 2 for tenth in sorted(data.draw(stars))]
    loss = RatingLoss(kind, torch.tensor(ratings), torch.zeros(0, dtype=torch.int64), weight)
    plain, shared = model_once("sdpa"), model_once(ROW_ATTENTION)
    want = torch.zeros(())
    for prompt, answer in prompts(groups):
        scores = torch.stack([plain_score(plain, prompt, one) for one in answers])
        truth = next(i for i, one in enumerate(answers) if one.tolist() == answer)
        want = want + plain_rating_loss(kind, weight, scores, ratings, truth)
    expected = computed(plain, want)
    row = rating_row(PackedRows(), answers, loss, groups)
    check_equal(computed(shared, total(shared, [row])), expected)
    alone = [replace(group, suffixes=(suffix,)) for group in groups for suffix in group.suffixes]
    rows = [rating_row(ReferenceRows(), answers, loss, [group]) for group in alone]
    check_equal(computed(plain, total(plain, rows)), expected)


@settings(max_examples=3)
@given(cases(ratings=5), dtypes, losses, weights)
def test_a_steps_loss_is_the_mean_over_its_targets(case, dtype, kind, weight):
    case = replace(case, steps=Steps(6, case.steps.pieces, loss=kind, expected_loss_weight=weight))
    dataset, table = case.train, case.train.table
    order = epoch_order(dataset, case.steps, dataset.seed, case.epoch)
    targets = sorted(order[:6].tolist())
    plain, shared = model("sdpa", dtype), model(ROW_ATTENTION, dtype)
    want = torch.zeros(())
    for i in targets:
        scores = torch.stack([plain_score(plain, dataset[i].prompt, answer) for answer in case.answers])
        truth = table.scale.index(float(table.rating[dataset.stage.targets[i]]))
        want = want + plain_rating_loss(kind, weight, scores, list(table.scale), truth) / len(targets)
    expected = computed(plain, want)
    for used, steps in ((shared, train_steps(case)), (plain, train_steps(case, ReferenceRows()))):
        (labels,) = {one.labels for one in steps[0]}
        assert sorted(t for one in steps[0] for t in one.targets) == targets
        assert labels == len(targets)
        loss = total(used, [one.row for one in steps[0] if one.targets]) / labels
        check_equal(computed(used, loss), expected, TOLERANCE[dtype][1])


@pytest.mark.sampled(4)
@pytest.mark.parametrize("strategy", [AllPrevious(), NoHistory()], ids=str)
@pytest.mark.parametrize("kind", OVER_RATINGS)
def test_loss_and_gradients_do_not_depend_on_sharing(kind, strategy):
    case = make_case(small_table(seed=1, ratings=14), strategy, steps=Steps(9, 2, loss=kind), world=2)
    used = model(ROW_ATTENTION, torch.float64)
    shared, apart = (train_steps(replace(case, collator=PackedRows(600, share))) for share in ("auto", "never"))
    tokens = [sum(one.row.useful for one in steps[0]) for steps in (shared, apart)]
    assert tokens[0] < tokens[1]
    rows = ([one.row for one in steps[0] if one.targets] for steps in (shared, apart))
    check_equal(*(computed(used, total(used, of_step)) for of_step in rows), 2e-6)


@given(st.data(), st.integers(2, 10))
def test_at_certainty_the_losses_are_the_prediction_s_error(data, scale):
    """With all probability on one rating, `expected` is its squared error and `ordinal` its absolute error."""
    ratings = torch.arange(1, scale + 1) / 2
    predicted, truth = (data.draw(st.integers(0, scale - 1)) for _ in range(2))
    scores = torch.full((scale,), -1e4)
    scores[predicted] = 0
    error = float(ratings[predicted] - ratings[truth])
    row = rating_row_of(scores, ratings, truth)
    assert row_loss(scores, row("expected")).item() == pytest.approx(error**2)
    assert row_loss(scores, row("ordinal")).item() == pytest.approx(abs(error))


@given(st.lists(st.floats(-5, 5), min_size=10, max_size=10), st.integers(0, 9), losses, st.floats(-100, 100))
def test_only_cross_entropy_depends_on_what_is_not_legal(scores, truth, kind, shift):
    """Equal factors on all probabilities cancel, except in the cross-entropy of `ce+expected`."""
    ratings, scores = torch.arange(1, 11) / 2, torch.tensor(scores, dtype=torch.float64)
    assume(abs(shift) > 1)
    row = rating_row_of(scores, ratings, truth)(kind)
    change = row_loss(scores + shift, row) - row_loss(scores, row)
    assert change.item() == pytest.approx(-shift if kind == "ce+expected" else 0, abs=1e-6)


def rating_row_of(scores, ratings, truth):
    """Return a function from a kind of loss to a row of one target with `scores`."""
    answers = [torch.tensor([2 + i, 1]).numpy() for i in range(len(scores))]
    (group,) = lone_groups([3])
    groups = [replace(group, suffixes=(replace(group.suffixes[0], answer=answers[truth]),))]
    nothing = torch.zeros(0, dtype=torch.int64)
    return lambda kind: rating_row(PackedRows(), answers, RatingLoss(kind, ratings, nothing), groups)


@pytest.mark.parametrize("kind", OVER_RATINGS)
def test_the_loss_of_a_row_without_targets_is_0_and_has_gradients(kind):
    case = make_case(small_table(0), AllPrevious(), steps=Steps(9, 2, loss=kind))
    for collator in (PackedRows(), ReferenceRows()):
        row = train_row_builder(case.train, collator, case.steps)([])
        assert row.scores == 0 and len(row.rating_loss.truth) == 0
        scores = torch.zeros(1, requires_grad=True)  # as `row_scores` returns them
        row_loss(scores, row).backward()
        assert scores.grad is not None


def test_what_builds_rows_is_sent_to_the_loaders_workers():
    case = make_case(small_table(2), AllPrevious(), steps=Steps(5, 2, loss="ce+expected", expected_loss_weight=0.5))
    build = train_row_builder(case.train, case.collator, case.steps)
    sent = pickle.loads(pickle.dumps(build))
    planned = next(plan_epoch(case.train, case.collator, case.steps, 7, 0, 0, 1))
    groups = [case.train.prefix_group(group) for group in planned.groups]
    row = pickle.loads(pickle.dumps(sent(groups)))
    want = build(groups).rating_loss
    assert (row.rating_loss.kind, row.rating_loss.expected_weight) == ("ce+expected", 0.5)
    assert torch.equal(row.rating_loss.truth, want.truth) and torch.equal(row.rating_loss.ratings, want.ratings)
    table = case.train.table
    ratings = [float(table.rating[case.train.stage.targets[i]]) for i in planned.targets]
    assert row.rating_loss.ratings[row.rating_loss.truth].tolist() == ratings
