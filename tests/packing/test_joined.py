"""Validation and test targets as one dataset: each has its own prompt, and the prefixes of a user are read once."""

import numpy as np
import pytest
from hypothesis import assume, given

from mlens.data.split import Split
from mlens.history.all_previous import AllPrevious
from mlens.history.fixed_count import FixedCount
from mlens.history.random import Random
from mlens.packing.epoch_plan import plan_scoring
from mlens.packing.joined import JoinedDatasets
from tests.helpers.cases import cases, make_case, small_table


def joined_of(case):
    return JoinedDatasets(tuple(case.datasets[name] for name in ("val", "test") if name in case.datasets))


def groups_of(case, joined):
    rows = (row for rank in range(case.world) for row in plan_scoring(joined, case.collator, rank, case.world))
    return [group for row in rows for group in row]


def assert_every_target_is_scored_once_after_its_own_prompt(case):
    joined = joined_of(case)
    samples = [sample for dataset in joined.datasets for sample in dataset]
    seen = []
    for targets in groups_of(case, joined):
        group = joined.prefix_group(targets)
        assert [suffix.seen for suffix in group.suffixes] == sorted(suffix.seen for suffix in group.suffixes)
        for target, suffix in zip(targets, group.suffixes, strict=True):
            prompt = np.concatenate([group.prefix[: suffix.seen], suffix.ids])
            assert prompt.tolist() == samples[target].prompt.tolist()
            assert suffix.answer.tolist() == samples[target].answer.tolist()
            seen.append(int(target))
    assert sorted(seen) == list(range(len(samples)))


@given(cases())
def test_every_target_is_scored_once_after_its_own_prompt(case):
    assume(len(joined_of(case).datasets))
    assert_every_target_is_scored_once_after_its_own_prompt(case)


@pytest.mark.parametrize("eval_history", ["all", "train"])
@pytest.mark.parametrize("strategy", [AllPrevious(), Random(0.6, "per_user")])
def test_stages_that_alternate_in_time_share_only_what_they_have_in_common(strategy, eval_history):
    split = Split("random", val_ratio=0.3, test_ratio=0.3, eval_history=eval_history)
    for seed in range(6):
        for room in (1000, 60):
            case = make_case(small_table(seed, ratings=20), strategy, split=split, room=room)
            assert_every_target_is_scored_once_after_its_own_prompt(case)


@given(cases())
def test_joined_shapes_are_those_of_the_datasets_with_fewer_groups(case):
    joined = joined_of(case)
    assume(len(joined.datasets))
    alone = [dataset.shapes(np.arange(len(dataset)), 3) for dataset in joined.datasets]
    together = joined.shapes(np.arange(len(joined)), 3)
    assert together.prefix.tolist() == [n for one in alone for n in one.prefix.tolist()]
    assert together.suffix.tolist() == [n for one in alone for n in one.suffix.tolist()]
    start = 0
    for one in alone:  # targets of one dataset share a prefix as they did
        number = together.group[start : start + len(one.group)]
        assert (np.equal.outer(number, number) >= np.equal.outer(one.group, one.group)).all()
        start += len(one.group)


def planned_tokens(case, joined):
    return sum(
        len(group.prefix) + sum(len(suffix.ids) for suffix in group.suffixes)
        for group in map(joined.prefix_group, groups_of(case, joined))
    )


@pytest.mark.parametrize(
    ("strategy", "split", "shared"),
    [
        (AllPrevious(), Split("temporal"), True),
        (Random(0.5, "per_user"), Split("temporal"), True),
        (AllPrevious(), Split("leave_last"), True),
        (FixedCount(2), Split("temporal"), False),  # a window that moves with every target
        (Random(0.5, "per_target"), Split("temporal"), False),
    ],
)
def test_test_targets_reread_no_validation_history(strategy, split, shared):
    case = make_case(small_table(3, ratings=20), strategy, split=split)
    val, test = case.datasets["val"], case.datasets["test"]
    together = planned_tokens(case, JoinedDatasets((val, test)))
    apart = sum(planned_tokens(case, JoinedDatasets((one,))) for one in (val, test))
    longest = {int(user): 0 for user in val.stage.user}
    for i, user in enumerate(val.stage.user):
        longest[int(user)] = max(longest[int(user)], int(val.shapes(np.array([i])).prefix[0]))
    assert apart - together == (sum(longest.values()) if shared else 0)
