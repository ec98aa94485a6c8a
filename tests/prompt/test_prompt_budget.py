"""The budget of a prompt: prompt and answer within max_tokens, the target intact, context trimmed before history."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.data.split import Split
from mlens.errors import UserError
from mlens.history.all_previous import AllPrevious
from mlens.history.fixed_count import FixedCount
from mlens.history.fixed_ratio import FixedRatio
from mlens.history.none import NoHistory
from mlens.history.random import Random
from mlens.packing.dataset import RatingDataset
from mlens.packing.lengths import measure_lengths
from mlens.prompt.prices import make_budget
from mlens.prompt.renderer import make_renderer
from tests.helpers.reference import HALF_STARS, dated, make_table, naive_film, naive_k, naive_prompt, stage_of
from tests.helpers.tokenizers_for_tests import (
    ABLATIONS,
    EVERYTHING,
    HISTORY,
    growing,
    metaspace,
    plain_ids,
    style,
    tiny,
)

STRATEGIES = {
    "none": NoHistory(),
    "all": AllPrevious(),
    "ratio": FixedRatio(0.7),
    "count": FixedCount(6),
    "per_target": Random(0.8, "per_target"),
    "per_user": Random(0.8, "per_user"),
}
ORDERS = st.sampled_from(["time", "newest_first"])
DATED = {"dates": True, "order": "newest_first"}


def world(seed=0, users=3, most=25):
    """Users with many ratings, titles of very different lengths, and tags."""
    random = np.random.default_rng(seed)
    sizes = [int(n) for n in random.integers(5, most, users)]
    movies = 12
    rows = [
        [
            (int(random.integers(movies)), HALF_STARS[random.integers(10)], int(t))
            for t in sorted(random.integers(0, 50, n))
        ]
        for n in sizes
    ]
    tags = [
        (int(random.integers(users)), int(random.integers(movies)), "tag " * int(random.integers(1, 6)) + "x", int(t))
        for t in random.integers(0, 50, 20)
    ]
    table = make_table(
        rows,
        titles=[f"Movie {m} " + "long " * (m % 5) + f"({1980 + m})" for m in range(movies)],
        profile=[f"age: {20 + u}; occupation: {'other' * u}x" for u in range(users)],
        tags=sorted(tags, key=lambda tag: (tag[0], tag[3])),
    )
    return dated(table)


class Naive:
    """Lengths by tokenising full texts."""

    def __init__(self, table, ablation, style, tokenizer):
        self.table, self.ablation, self.style, self.tokenizer = table, ablation, style, tokenizer
        self.longest = 1 + max(len(plain_ids(tokenizer, str(rating))) for rating in table.scale)

    def length(self, target, history, turns=()):
        """The tokens of prompt and longest answer."""
        naive = naive_prompt(self.table, target, history, self.ablation, self.style)
        text = type(naive)(**{**vars(naive), "turns": list(turns)}).text()
        return len(plain_ids(self.tokenizer, text)) + self.longest

    def fits(self, target, history):
        section = self.length(target, history) - self.length(target, [])
        bound = self.style.history_tokens
        return self.length(target, history) <= self.style.max_tokens and (bound is None or section <= bound)

    def turns(self, target, history):
        """The newest turns that fit together with the history."""
        turns = naive_prompt(self.table, target, [], self.ablation, self.style).turns
        while turns and self.length(target, history, turns) > self.style.max_tokens:
            turns = turns[1:]
        return turns

    def text(self, target, history):
        naive = naive_prompt(self.table, target, history, self.ablation, self.style)
        return type(naive)(**{**vars(naive), "turns": self.turns(target, history)}).text()

    def exact(self, target, visible, wanted):
        window = visible[len(visible) - wanted :]
        while window and not self.fits(target, window):
            window = window[1:]
        return window

    def strided(self, stage, wanted_of):
        """The rule of prompt.trim=strided, on texts."""
        windows, s, user = [], 0, None
        for t, target in enumerate(stage.targets):
            if stage.user[t] != user:
                user, s = stage.user[t], 0
            visible = stage.visible_to(t).tolist()
            c = len(visible)
            wanted_start = c - wanted_of(c)
            if not self.fits(target, visible[max(wanted_start, s) :]):
                left = self.style.max_tokens - self.length(target, [], self.turns(target, []))
                if self.style.history_tokens is not None:
                    left = min(left, self.style.history_tokens)
                bare = self.length(target, [])
                s = next(i for i in range(c + 1) if self.length(target, visible[i:]) - bare <= left // 2)
                if s == c and self.fits(target, visible[c - 1 :]):
                    s = c - 1
            windows.append(visible[max(wanted_start, s) :])
        return windows


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("ablation", "bounds", "stage"),
    [
        ("history_only", (170, None), "train"),
        ("history_only", (400, 60), "test"),
        ("profile_and_history_and_context", (170, None), "test"),
        pytest.param("profile_and_history_and_context", (400, 60), "train", marks=pytest.mark.slow),
    ],
)
def test_windows_are_trimmed_as_by_tokenising_full_texts(ablation, bounds, stage):
    table = world()
    chosen_style = {"max_tokens": bounds[0], "history_tokens": bounds[1], "max_context": 3}
    targets = stage_of(table, Split("temporal", 0.2, 0.3), stage)
    wanted_of = {
        "none": lambda c: 0,
        "all": lambda c: c,
        "ratio": lambda c: naive_k(0.7, c),
        "count": lambda c: min(6, c),
    }
    for trim in ("exact", "strided"):
        one_style = style(trim=trim, **chosen_style)
        naive = Naive(table, ABLATIONS[ablation], one_style, tiny())
        renderer = make_renderer(table, one_style, ABLATIONS[ablation], tiny())
        assert renderer.shares_prefixes
        for name, wanted in wanted_of.items():
            dataset = RatingDataset(table, targets, STRATEGIES[name], renderer, seed=1)
            strided = naive.strided(targets, wanted)
            for t, target in enumerate(targets.targets):
                visible = targets.visible_to(t).tolist()
                expected = naive.exact(target, visible, wanted(len(visible))) if trim == "exact" else strided[t]
                assert dataset.history(t).tolist() == expected
                assert dataset.text(t) == naive.text(target, expected)


@given(
    st.sampled_from(list(STRATEGIES)),
    st.integers(130, 400),
    st.sampled_from([None, 0, 30]),
    st.integers(0, 5),
    st.sampled_from(list(ABLATIONS)),
    st.booleans(),
    ORDERS,
)
def test_prompt_and_longest_answer_never_exceed_max_tokens_and_the_target_is_intact(
    name, most, bound, seed, ablation, dates, order
):
    table = world(seed, users=2, most=12)
    chosen = style(max_tokens=most, history_tokens=bound, dates=dates, order=order)
    renderer = make_renderer(table, chosen, ABLATIONS[ablation], tiny())
    dataset = RatingDataset(table, stage_of(table, Split("temporal"), "train"), STRATEGIES[name], renderer, seed)
    longest = max(len(answer) for answer in renderer.template.answers)
    lengths = dataset.prompt_lengths(np.arange(len(dataset)))
    for i, sample in enumerate(dataset):
        assert len(sample.prompt) == lengths[i]
        assert len(sample.prompt) + longest <= most
        assert tiny().decode(sample.prompt) == dataset.text(i)
        movie = naive_film(table, sample.target, dates)
        assert dataset.text(i).endswith(f"User: {movie}:\n\n{chosen.question}")
        assert sample.dropped == len(dataset.wanted(i)) - len(sample.history)
        if bound is not None and ABLATIONS[ablation].history:
            without = naive_prompt(table, sample.target, [], HISTORY, chosen).text()
            shown = naive_prompt(table, sample.target, sample.history, HISTORY, chosen).text()
            assert len(plain_ids(tiny(), shown)) - len(plain_ids(tiny(), without)) <= bound
        if not ABLATIONS[ablation].history:
            assert len(sample.history) == sample.dropped == 0


def test_context_takes_what_history_leaves_and_is_dropped_oldest_first():
    table = make_table([[(m, 3.0, 10 * m) for m in range(6)]], tags=[(0, m, f"tag{m}", 10 * m + 1) for m in range(5)])
    stage = stage_of(table, Split("leave_last"), "test")
    bare = make_renderer(table, style(), HISTORY, tiny())
    least = int(bare.bare_lengths(stage.targets)[0]) + bare.template.longest_answer
    seen = set()
    for most in range(least, least + 250, 7):
        chosen = style(max_tokens=most, trim="exact")
        without, with_context = (
            RatingDataset(table, stage, AllPrevious(), make_renderer(table, chosen, ablation, tiny()), 0)
            for ablation in (HISTORY, ABLATIONS["history_and_context"])
        )
        assert with_context.history(0).tolist() == without.history(0).tolist()
        shown = [m for m in range(5) if f"tag{m}" in with_context.text(0)]
        assert shown == list(range(5 - len(shown), 5))
        seen.add((len(with_context.history(0)), len(shown)))
    assert {(0, 0), (5, 0), (5, 3), (5, 5)} <= seen


@given(
    st.integers(0, 99),
    st.integers(130, 260),
    st.sampled_from([None, 20]),
    st.integers(0, 4),
    st.booleans(),
    st.booleans(),
)
def test_a_budgets_room_is_what_full_texts_leave(seed, most, bound, most_turns, records, dates):
    """With context of tags, or of the records themselves."""
    table = world(seed, users=3, most=12)
    if records:
        random = np.random.default_rng(seed)
        contexts = [["turn " * int(n) for n in random.integers(1, 9, random.integers(5))] for _ in range(len(table))]
        frame = pl.DataFrame({"context": contexts}, schema={"context": pl.List(pl.String)})
        table = replace(table, tags=None, contexts=frame)
    chosen = style(max_tokens=most, history_tokens=bound, max_context=most_turns, dates=dates)
    naive = Naive(table, ABLATIONS["history_and_context"], chosen, tiny())
    stage = stage_of(table, Split("temporal"), "train")
    budget = make_budget(make_renderer(table, chosen, ABLATIONS["history_and_context"], tiny()), stage)
    for t, target in enumerate(stage.targets):
        left = most - naive.length(target, [])
        after_context = most - naive.length(target, [], naive.turns(target, []))
        assert budget.room[t] == (left if bound is None else min(left, bound))
        assert budget.room_after_context[t] == (after_context if bound is None else min(after_context, bound))


def test_a_strided_cut_leaves_room_for_the_turns_that_just_fit():
    table = world(3)
    stage = stage_of(table, Split("temporal"), "train")
    checked = 0
    for t, target in enumerate(stage.targets):
        naive = Naive(table, ABLATIONS["history_and_context"], style(max_tokens=10**6, max_context=3), tiny())
        turns = naive.turns(target, [])
        if len(turns) < 2:
            continue
        checked += 1
        full, without = naive.length(target, [], turns), naive.length(target, [], turns[1:])
        for most, after_context in ((full, 0), (full - 1, full - 1 - without), (full + 8, 8)):
            chosen = style(max_tokens=most, max_context=3)
            renderer = make_renderer(table, chosen, ABLATIONS["history_and_context"], tiny())
            assert make_budget(renderer, stage.keep(np.array([t]))).room_after_context.tolist() == [after_context]
        if checked == 4:
            return
    raise AssertionError("too few targets with turns")


def test_a_target_that_does_not_fit_is_reported_with_its_tokens():
    table = make_table(
        [[(0, 3.0, 1), (1, 3.0, 2)]], titles=["Short", "Rather " + "long " * 50 + "title"], user_ids=["jo"]
    )
    stage = stage_of(table, Split("temporal"), "train")
    needed = len(plain_ids(tiny(), naive_prompt(table, 1, [], HISTORY, style()).text() + "5.0")) + 1
    fitting = make_renderer(table, style(max_tokens=needed), HISTORY, tiny())
    assert len(RatingDataset(table, stage, AllPrevious(), fitting, 0)) == 2
    renderer = make_renderer(table, style(max_tokens=needed - 1), HISTORY, tiny())
    with pytest.raises(UserError, match=rf"user jo's target 'Rather long .*takes {needed} tokens"):
        RatingDataset(table, stage, AllPrevious(), renderer, 0)


def test_trimming_does_not_depend_on_the_targets_rating():
    """Also where the length of the answer would decide, since legal answers differ in length."""
    table = world(3)
    other = type(table)(
        **{**{name: getattr(table, name) for name in table.__dataclass_fields__}, "scale": (0.5, 1.0, 1.5, 2.0, 10.25)}
    )
    stage = stage_of(other, Split("temporal"), "test")
    renderer = make_renderer(other, style(max_tokens=170), HISTORY, tiny())
    assert len({len(answer) for answer in renderer.template.answers}) > 1
    for t in range(len(stage)):
        shown = set()
        for rating in other.scale:
            changed = np.array(other.rating)
            changed[stage.targets[t]] = rating
            fields = {name: getattr(other, name) for name in other.__dataclass_fields__}
            again = type(other)(**{**fields, "rating": changed})
            renderer = make_renderer(again, style(max_tokens=170), HISTORY, tiny())
            shown.add(RatingDataset(again, stage, AllPrevious(), renderer, 0).text(t))
        assert len(shown) == 1


@pytest.mark.sampled(5)
@pytest.mark.filterwarnings("ignore:.*pieces of a prompt don't join")
@pytest.mark.parametrize("tokenizer", [metaspace, growing])
@pytest.mark.parametrize(
    ("name", "fields"), [(name, {}) for name in STRATEGIES] + [("all", DATED), ("per_target", DATED)]
)
def test_prompts_of_pieces_that_do_not_join_are_within_the_budget(tokenizer, name, fields):
    """`growing` makes a prompt longer than its pieces, so that the prices are too low."""
    table = world(1, users=2)
    stage = stage_of(table, Split("temporal"), "train")
    for ablation in (EVERYTHING,) if fields else (HISTORY, EVERYTHING):
        bare = make_renderer(table, style(max_tokens=10**6, **fields), ablation, tokenizer())
        longest = max(len(bare.tokens(int(target), np.arange(0))) for target in stage.targets)
        chosen = style(max_tokens=longest + 120, **fields)
        dataset = RatingDataset(table, stage, STRATEGIES[name], make_renderer(table, chosen, ablation, tokenizer()), 0)
        assert not dataset.renderer.shares_prefixes
        for i, sample in enumerate(dataset):
            assert len(sample.prompt) + dataset.renderer.template.longest_answer <= chosen.max_tokens
            assert sample.prompt.tolist() == plain_ids(tokenizer(), dataset.text(i))
            assert sample.history.tolist() == dataset.history(i).tolist()
            text = naive_prompt(table, sample.target, sample.history, ablation, chosen)
            start = type(text)(**{**vars(text), "turns": []}).text().split("[RECENT_DIALOGUE]")[0]
            assert dataset.text(i).startswith(start)
            assert sample.dropped == len(dataset.wanted(i)) - len(sample.history)


@pytest.mark.filterwarnings("ignore:.*pieces of a prompt don't join")
def test_a_prompt_of_pieces_that_do_not_join_is_refused_if_it_does_not_fit():
    table = world(1, users=1)
    stage = stage_of(table, Split("temporal"), "train")
    naive = Naive(table, HISTORY, style(), growing())
    needed = max(naive.length(target, []) for target in stage.targets)
    assert len(list(RatingDataset(table, stage, NoHistory(), renderer_of(table, needed), 0))) == len(stage)
    with pytest.raises(UserError, match=f"prompt.max_tokens={needed - 1} is too small"):
        RatingDataset(table, stage, NoHistory(), renderer_of(table, needed - 1), 0)


def renderer_of(table, most):
    return make_renderer(table, style(max_tokens=most), HISTORY, growing())


def test_measured_lengths_are_those_of_the_samples():
    table = world(2)
    stage = stage_of(table, Split("temporal"), "train")
    renderer = make_renderer(table, style(max_tokens=180), HISTORY, tiny())
    dataset = RatingDataset(table, stage, AllPrevious(), renderer, 0)
    lengths = measure_lengths(dataset)
    samples = list(dataset)
    tokens = [len(sample.prompt) + renderer.template.longest_answer for sample in samples]
    assert (lengths.tokens_min, lengths.tokens_max) == (min(tokens), max(tokens))
    assert lengths.tokens_total == sum(tokens)
    assert lengths.trimmed == np.mean([sample.dropped > 0 for sample in samples])
    assert 0 < lengths.trimmed < 1
    dropped = sum(sample.dropped for sample in samples)
    assert lengths.ratings_dropped == pytest.approx(dropped / (dropped + sum(len(s.history) for s in samples)))
    assert lengths.without_history == np.mean([len(sample.history) == 0 for sample in samples])
