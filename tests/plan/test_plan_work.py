"""What a plan says is read, against the very rows that training and scoring make."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlens.history.all_previous import AllPrevious
from mlens.packing.epoch_plan import plan_epoch, plan_scoring, steps_per_epoch, train_row_builder
from mlens.packing.packed import PackedRows
from mlens.packing.reference import ReferenceRows
from mlens.packing.steps import Steps
from mlens.plan import work
from mlens.plan.work import scoring_work, training_work
from tests.helpers.cases import cases, make_case, small_table
from tests.helpers.prefix_groups import chains_of


def pairs_of(row) -> int:
    """Counted from what each token sees; of plain sequences, padding included, from their lengths."""
    if row.spans is None:
        n, length = row.input_ids.shape
        return n * length * (length + 1) // 2
    return int((row.spans[:, :, 1] - row.spans[:, :, 0]).sum())


def sums(rows) -> tuple[int, int, int]:
    rows = list(rows)
    return sum(row.useful for row in rows), sum(map(pairs_of, rows)), sum(len(row.keep) for row in rows)


def training_rows(case):
    dataset = case.train.with_epoch(0)
    for rank in range(case.world):
        planned = plan_epoch(dataset, case.collator, case.steps, dataset.seed, 0, rank, case.world)
        for one in planned:
            if one.groups:
                groups = [dataset.prefix_group(group) for group in one.groups]
                yield train_row_builder(dataset, case.collator, case.steps)(groups)


def scoring_rows(case, dataset):
    for rank in range(case.world):
        for groups in plan_scoring(dataset, case.collator, rank, case.world):
            if groups:
                yield case.collator.score_row(
                    [dataset.prefix_group(group) for group in groups], dataset.renderer.template.answers
                )


def as_tuple(passes):
    return pytest.approx((passes.tokens, passes.pairs, passes.logits), rel=1e-9)


@settings(max_examples=10)
@given(cases(), st.booleans())
def test_training_and_scoring_read_what_is_planned(case, over_ratings):
    if over_ratings:
        case = replace(case, steps=replace(case.steps, history_loss_weight=0.0, loss="ordinal"))
    full = steps_per_epoch(len(case.train), case.steps.targets)
    planned = training_work(case.train.with_epoch(0), case.collator, case.steps, case.world, most=full)
    assert sums(training_rows(case)) == as_tuple(planned.passes)
    assert planned.share == 1
    alone = [case.train.with_epoch(0)[i] for i in range(len(case.train))]
    answers = [case.answers if over_ratings else [sample.answer] for sample in alone]
    read = sum(length for of_sample in answers for length, *_ in chains_of(of_sample))
    assert planned.unshared_tokens == sum(len(sample.prompt) for sample in alone) + read
    for name in set(case.datasets) - {"train"}:
        dataset = case.datasets[name]
        assert sums(scoring_rows(case, dataset)) == as_tuple(scoring_work(dataset, case.collator, case.world).passes)


def test_shared_histories_are_read_once():
    case = make_case(small_table(seed=0, ratings=100), AllPrevious(), room=10_000)
    planned = training_work(case.train, PackedRows(), case.steps, 1, most=10)
    unshared = training_work(case.train, PackedRows(share="never"), case.steps, 1, most=10)
    assert planned.unshared_tokens == unshared.unshared_tokens == unshared.passes.tokens
    assert planned.passes.tokens < planned.unshared_tokens / 10


def test_the_heaviest_rows_are_among_those_that_are_made():
    case = make_case(small_table(seed=0, ratings=100), AllPrevious(), room=500)
    planned = training_work(case.train, case.collator, case.steps, 1, most=10)
    made = list(training_rows(case))
    assert max(row.useful for row in planned.heaviest) == max(row.useful for row in made)
    assert max(len(row.keep) for row in planned.heaviest) == max(len(row.keep) for row in made)


def test_reference_rows_read_a_prompt_for_every_answer():
    case = make_case(small_table(seed=0), AllPrevious(), collator=lambda _: ReferenceRows())
    dataset = case.datasets["test"]
    tokens, _, _ = sums(scoring_rows(case, dataset))
    assert scoring_work(dataset, case.collator, 1).passes.tokens == tokens
    case = replace(case, steps=Steps(100, 1, loss="expected"))
    tokens, _, _ = sums(training_rows(case))
    planned = training_work(case.train, case.collator, case.steps, 1, most=10)
    assert (planned.passes.tokens, planned.share) == (tokens, 1)


def test_a_long_epoch_is_counted_on_some_of_its_steps(monkeypatch):
    case = make_case(small_table(seed=3, ratings=200), AllPrevious(), room=500)
    steps = type(case.steps)(targets=4, pieces=1)
    full = training_work(case.train, case.collator, steps, 1, most=10**6)
    monkeypatch.setattr(work, "MAX_MEASURED", 40)
    part = training_work(case.train, case.collator, steps, 1, most=10**6)
    assert part.share == pytest.approx(10 * 4 / len(case.train), rel=0.1)
    assert part.passes.tokens == pytest.approx(full.passes.tokens, rel=0.3)
    scored = scoring_work(case.datasets["test"], case.collator, 1)
    monkeypatch.setattr(work, "MAX_MEASURED", len(case.datasets["test"]) - 1)
    assert scoring_work(case.datasets["test"], case.collator, 1).share < 1 == scored.share
    assert np.isfinite(part.passes.pairs)
