"""model=tiny_base: trained once, on all training ratings and no other, and shared by all strategies."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file

import mlens.training.base_model as base
from mlens.data.cache import seal
from mlens.data.split import TRAIN, Split, assign_roles
from mlens.data.stage import make_stage
from mlens.model.load import build_model
from mlens.packing.packed import PackedRows
from mlens.prompt.renderer import make_renderer
from mlens.training.base_model import base_weights, cut_excerpts, plan_excerpts
from tests.helpers.cases import SPLITS, small_table
from tests.helpers.equality import rating_tokens
from tests.helpers.prefix_groups import check_row, prompts
from tests.helpers.reference import dated
from tests.helpers.runs import FAST, run_here, train
from tests.helpers.small_model import row_scores
from tests.helpers.steps import parts
from tests.helpers.tokenizers_for_tests import HISTORY, style, tiny

SMALL_BASE = ("model=tiny_base", "model.base.lines=[4,6]", "model.base.steps=2", "model.base.ratings_per_step=40")


@st.composite
def stages(draw):
    """(renderer, training stage, roles) of a few small users, with and without dates."""
    table, split = dated(small_table(draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 14)))), draw(SPLITS)
    roles = assign_roles(table, split)
    stage = make_stage(table, roles, split, "train")
    assume(len(stage))
    return make_renderer(table, style(dates=draw(st.booleans())), HISTORY, tiny()), stage, roles


@pytest.fixture(scope="module")
def several():
    """The template and training stage of a user of 30 ratings and some with fewer."""
    table, split = small_table(seed=1, ratings=30), Split("temporal")
    stage = make_stage(table, assign_roles(table, split), split, "train")
    return make_renderer(table, style(), HISTORY, tiny()).template, stage


@given(stages(), st.integers(2, 6), st.integers(1, 3), st.sampled_from([0.0, 0.4, 1.0]), st.integers(0, 3))
def test_excerpts_contain_every_training_rating_once_and_no_other(drawn, lines, interleaved, target_share, epoch):
    renderer, stage, roles = drawn
    template = renderer.template
    excerpts, table = cut_excerpts(template, stage, lines, interleaved, target_share, 0, epoch), template.table
    found = []
    for i, (user, history) in enumerate(zip(excerpts.user, histories_of(excerpts), strict=True)):
        ratings = history.tolist()
        assert 1 <= len(ratings) <= lines
        assert ratings == sorted(ratings)
        assert {int(table.user[rating]) for rating in ratings} == {int(user)}
        # Exchanged within the ratings of `interleaved` excerpts, and not at all without interleaving.
        indices = excerpts.indices[excerpts.start[i] : excerpts.stop[i]]
        assert indices[-1] - indices[0] < lines * interleaved
        found += ratings
    assert len(excerpts) == len(excerpts.start)
    assert sorted(found) == np.flatnonzero(roles == TRAIN).tolist()
    assert interleaved > 1 or found == sorted(found)


def histories_of(excerpts):
    """The ratings of each excerpt, as indices into the table."""
    borders = zip(excerpts.start, excerpts.stop, strict=True)
    return [excerpts.stage.visible[excerpts.indices[start:stop]] for start, stop in borders]


@given(stages(), st.integers(2, 6), st.sampled_from([0.0, 0.4, 1.0]))
def test_each_rating_of_an_excerpt_carries_loss_once_after_those_before_it(drawn, lines, target_share):
    """In its line, or as the target of a prompt with the excerpt before it as history."""
    renderer, stage, _ = drawn
    excerpts = cut_excerpts(renderer.template, stage, lines, 2, target_share, 0, 0)
    for i, history in enumerate(histories_of(excerpts)):
        group = excerpts.prefix_group(i)
        places = rating_tokens(renderer, int(history[0]), history)
        tokens = renderer.tokens(int(history[0]), history)
        assert group.prefix.tolist() == tokens[: places[int(history[-1])].stop].tolist()
        as_target = excerpts.as_target[excerpts.indices[excerpts.start[i] : excerpts.stop[i]]]
        assert target_share == 0.4 or as_target.all() == as_target.any() == bool(target_share)
        assert group.lines.tolist() == [place for rating in history[~as_target] for place in places[int(rating)]]
        want = [
            (renderer.tokens(int(rating), history[:n]).tolist(), renderer.template.answer(int(rating)).tolist())
            for n, rating in enumerate(history)
            if as_target[n]
        ]
        assert prompts([group]) == want


def test_excerpts_are_in_time_order_whatever_the_order_of_prompts(several):
    template, stage = several
    newest_first = replace(template, style=style(order="newest_first"))
    one, other = (cut_excerpts(made, stage, 6, 2, 0.5, 0, 0) for made in (template, newest_first))
    assert all(
        np.array_equal(one.prefix_group(i).prefix, other.prefix_group(i).prefix)
        and prompts([one.prefix_group(i)]) == prompts([other.prefix_group(i)])
        for i in range(len(one))
    )


@pytest.mark.parametrize("target_share", [0.0, 0.5])
def test_a_row_of_excerpts_sees_only_what_it_may(several, target_share):
    excerpts = cut_excerpts(*several, 6, 2, target_share, 0, 0)
    groups = [excerpts.prefix_group(i) for i in range(len(excerpts))]
    check_row(PackedRows().train_row(groups, 1.0), groups)


@pytest.mark.parametrize("interleaved", [1, 3])
def test_a_rating_takes_every_position_in_an_excerpt(several, interleaved):
    _, stage = several
    rating = stage.visible[stage.visible_offsets[np.argmax(np.diff(stage.visible_offsets))] + 12]
    seen, before, as_target = set(), set(), []
    for epoch in range(60):
        excerpts = cut_excerpts(*several, 5, interleaved, 0.25, 0, epoch)
        (ratings,) = [history.tolist() for history in histories_of(excerpts) if rating in history]
        seen.add(ratings.index(rating))
        before |= {one for one, next_one in pairwise(ratings) if next_one == rating}
        as_target.append(excerpts.as_target)
    assert seen == {0, 1, 2, 3, 4}
    # Without interleaving the rating before it is always the same.
    assert len(before) == 1 if interleaved == 1 else len(before) > 5
    assert (
        0.2 < np.mean(as_target) < 0.3
        and (np.mean(as_target, axis=0) > 0).all()
        and (np.mean(as_target, axis=0) < 0.6).all()
    )


def planned(excerpts, row_tokens, per_step, world):
    """[ranks][steps][rows] of (groups, labels, last)."""
    return [list(plan_excerpts(excerpts, PackedRows(row_tokens), per_step, 0, 0, rank, world)) for rank in range(world)]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("row_tokens", [60, 300, 10**6])
@pytest.mark.parametrize("per_step", [1, 12, 1000])
def test_an_epoch_trains_on_every_excerpt_once(several, row_tokens, per_step, world):
    excerpts = cut_excerpts(*several, 5, 2, 0.3, 0, 0)
    ranks = planned(excerpts, row_tokens, per_step, world)
    found = []
    for step in zip(*ranks, strict=True):
        assert len({len(rows) for rows in step}) == 1
        assert all([last for *_, last in rows] == [False] * (len(rows) - 1) + [True] for rows in step)
        groups = [group for rows in step for groups, _, _ in rows for group in groups]
        tokens = sum(len(group.lines) for group in groups) + sum(len(answer) for _, answer in prompts(groups))
        assert {labels for rows in step for _, labels, _ in rows} == {tokens}
        found += [key_of(group) for group in groups]
    assert sorted(found) == sorted(key_of(excerpts.prefix_group(i)) for i in range(len(excerpts)))
    # Excerpts are never cut: each belongs to the step in which its last rating falls.
    ratings = int((excerpts.stop - excerpts.start).sum())
    assert min(len(excerpts), ratings // (per_step + 5)) <= len(ranks[0]) <= -(-ratings // per_step)


def key_of(group):
    return group.prefix.tolist(), group.lines.tolist(), prompts([group])


def test_a_step_ends_once_where_its_last_rows_are_empty(several):
    """Rows of one excerpt each: rows are added several at a time, so some may remain empty."""
    template, stage = several
    one = cut_excerpts(template, stage, 5, 1, 0.0, 0, 0)
    chosen = np.full(755, np.argmax(one.stop - one.start))
    many = replace(one, user=one.user[chosen], start=one.start[chosen], stop=one.stop[chosen])
    length = len(many.prefix_group(0).prefix)
    (((*rows,),),) = planned(many, length + length // 2, 10**6, world=1)
    assert [bool(groups) for groups, _, _ in rows].count(False) > 0
    assert [last for *_, last in rows] == [False] * (len(rows) - 1) + [True]


# training and caching


@pytest.fixture
def trained(monkeypatch):
    """The folders of the base models trained so far."""
    folders, train = [], base._train

    def noted(*arguments):
        folders.append(arguments[-1])
        train(*arguments)

    monkeypatch.setattr(base, "_train", noted)
    return folders


@pytest.fixture
def only_made(monkeypatch):
    """The folders of the base models that would have been trained."""
    folders = []

    def make(*arguments):
        arguments[-1].mkdir()
        seal(arguments[-1])
        folders.append(arguments[-1])

    monkeypatch.setattr(base, "_train", make)
    return folders


def folder_of(*overrides):
    made = parts(*SMALL_BASE, *overrides)
    return base_weights(made.inputs, made.ranks)


def test_a_base_is_trained_once_and_its_ratings_become_more_probable(trained):
    steps = "model.base.steps=15"
    folder = folder_of(steps)
    assert trained == [folder]
    files = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= files.keys()
    assert folder_of(steps) == folder and trained == [folder]
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == files
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]
    assert loss_of(folder) < 0.7 * loss_of(None)


def test_dropout_changes_the_base_and_leaves_the_random_state(trained):
    state = torch.random.get_rng_state()
    plain, dropped = (load_file(folder_of(f"model.base.dropout={p}") / "model.safetensors") for p in (0.0, 0.5))
    assert len(trained) == 2 and torch.equal(torch.random.get_rng_state(), state)
    assert any(not torch.equal(plain[name], dropped[name]) for name in plain)


def loss_of(weights):
    """The loss of a base model, or of an untrained one, on the training ratings (nats a token)."""
    made = parts(*SMALL_BASE)
    renderer, stage = made.datasets["train"].renderer, made.datasets["train"].stage
    model = build_model(made.settings.model, made.settings.peft, made.tokenizer, 256, 0, weights=weights)
    excerpts = cut_excerpts(renderer.template, stage, 6, 1, 0.25, 0, 0)
    row = PackedRows().train_row([excerpts.prefix_group(i) for i in range(len(excerpts))], 1.0)
    with torch.no_grad():
        return -float(row_scores(model, row).sum()) / len(row.label)


def test_runs_that_differ_in_history_order_and_evaluation_have_one_base(only_made):
    same = [
        ("history=random", "seed=3", "prompt.max_tokens=200"),
        ("history=none", "split.eval_history=train", "evaluation.max_users=2", "prompt.order=newest_first"),
        ("split.max_train_targets_per_user=2", "trainer.targets_per_step=4", "trainer.history_loss_weight=1"),
    ]
    folders = {folder_of(), *(folder_of(*overrides) for overrides in same)}
    assert len(folders) == len(only_made) == 1


def test_other_data_split_prompt_or_sizes_have_a_separate_base(only_made):
    others = [
        ("data.max_users=5",),
        ("split.val_ratio=0.3",),
        ("model.base.steps=1",),
        ("model.hidden_size=16",),
        ("prompt=simple_en",),
        ("prompt.dates=true",),
    ]
    folders = [folder_of(), *(folder_of(*other) for other in others)]
    assert len(only_made) == len(set(folders)) == len(folders)


def test_without_lengths_there_is_no_base(trained):
    assert folder_of("model.base.lines=[]") is None
    made = parts()
    assert base_weights(made.inputs, made.ranks) is None
    assert not trained


@pytest.mark.slow
def test_every_run_starts_from_the_bases_weights(tmp_path, trained):
    common = (*FAST, *SMALL_BASE, "trainer.max_steps=0", "data.max_users=10")
    runs = {
        "none": ("history=none", "seed=1"),
        "some": ("history=fixed_count", "history.count=3"),
        "other": ("history=none", "model.base.seed=5"),
    }
    for name, more in runs.items():
        run_here(tmp_path / name, *common, *more)
    start = {name: load_file(tmp_path / name / "model" / "model.safetensors") for name in runs}
    assert len(trained) == 2
    assert start["none"].keys() == start["some"].keys()
    assert all(torch.equal(start["none"][name], start["some"][name]) for name in start["none"])
    assert any(not torch.equal(start["none"][name], start["other"][name]) for name in start["none"])


@pytest.mark.slow
def test_adapters_are_added_to_a_base_that_was_trained_without_them(tmp_path, trained):
    overrides = (*SMALL_BASE, "peft=lora", "peft.r=2", "trainer.optimizer=adamw", "data.max_users=10")
    run_here(tmp_path / "run", *FAST, *overrides)
    (base,) = trained
    assert (base / "model.safetensors").is_file() and not (base / "adapter_model.safetensors").exists()
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_two_ranks_train_the_same_base(tmp_path):
    # Each rank drops other numbers.
    common = (*FAST, *SMALL_BASE, "model.base.dropout=0", "trainer.max_steps=0", "data.max_users=10")
    for name, ranks in (("one", 0), ("two", 2)):
        result = train(
            *common, f"output_dir={tmp_path / name}", ranks=ranks, MLENS_CACHE=str(tmp_path / f"cache_{name}")
        )
        assert result.returncode == 0, result.stderr
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    fresh = parts(*SMALL_BASE, "data.max_users=10").model.state_dict()
    for name in one:
        went = (
            float((one[name] - fresh[name].cpu()).norm())
            if name in fresh and fresh[name].shape == one[name].shape
            else 1
        )
        assert float((one[name] - two[name]).norm()) < 1e-2 * went, name
