"""The text of prompts, character by character."""

from dataclasses import replace

import numpy as np
import pytest

from mlens.errors import UserError
from mlens.model.load import load_tokenizer
from mlens.model.settings import TinyModel
from mlens.prompt.renderer import make_renderer
from tests.helpers.reference import make_table
from tests.helpers.tokenizers_for_tests import (
    ABLATIONS,
    EVERYTHING,
    HISTORY,
    needs_qwen3,
    plain_ids,
    qwen3,
    style,
    tiny,
    tiny_dated,
)

SIMPLE = """[TASK]
基于用户在 MovieLens 上的历史评分和标签数据，模拟该用户的电影偏好和行为模式

[USER_PROFILE]
gender: F; age: 25; occupation: student

[HISTORICAL_RATINGS]
1. Movie A (2020) (Action): 5.0
2. Movie C (2021) (Comedy): 4.5

[RECENT_DIALOGUE]
User: Movie Z (2023) (Thriller):

预测用户对该电影的评分："""

ENGLISH = """[TASK]
Based on the user's past ratings and tags on MovieLens, simulate this user's taste in films and way of rating

[HISTORICAL_RATINGS]
1. Movie A (2020) (Action): 5.0
2. Movie C (2021) (Comedy): 4.5

[RECENT_DIALOGUE]
User: Movie Z (2023) (Thriller):

Predict the user's rating of this film:"""

WITH_CONTEXT = """[TASK]
基于用户在 MovieLens 上的历史评分和标签数据，模拟该用户的电影偏好和行为模式

[RECENT_DIALOGUE]
User: Movie A (2020) (Action): loud
User: Movie C (2021) (Comedy): funny, too
User: Movie Z (2023) (Thriller):

预测用户对该电影的评分："""


DATED = """[TASK]
基于用户在 MovieLens 上的历史评分和标签数据，模拟该用户的电影偏好和行为模式

[HISTORICAL_RATINGS]
1. Movie A (2020) (Action), 1998-03-13: 5.0
2. Movie C (2021) (Comedy), 1998-03-13: 4.5

[RECENT_DIALOGUE]
User: Movie Z (2023) (Thriller), 1998-03-14:

预测用户对该电影的评分："""

NEWEST_FIRST = """[HISTORICAL_RATINGS]
1. Movie C (2021) (Comedy), 1998-03-13: 4.5
2. Movie A (2020) (Action), 1998-03-13: 5.0

[RECENT_DIALOGUE]
User: Movie Z (2023) (Thriller), 1998-03-14:"""


@pytest.fixture
def table():
    """One user who rates A, B, C and then Z; the prompts below show A and C to the target Z."""
    return make_table(
        [[(0, 5.0, 10), (1, 1.0, 20), (2, 4.5, 30), (3, 2.0, 40)]],
        titles=["Movie A (2020)", "Movie B (2020)", "Movie C (2021)", "Movie Z (2023)", "Bare"],
        genres=["Action", "Drama", "Comedy", "Thriller", ""],
        profile=["gender: F; age: 25; occupation: student"],
        tags=[(0, 0, "loud", 11), (0, 3, "of the target", 12), (0, 2, "funny, too", 39), (0, 1, "same second", 40)],
    )


def text(table, history=(0, 2), ablation=HISTORY, name="simple", tokenizer=None, target=3):
    return make_renderer(table, style(name), ablation, tokenizer or tiny()).text(target, np.array(history, dtype=int))


def test_the_designs_example(table):
    assert text(table, ablation=ABLATIONS["profile_and_history"]) == SIMPLE


def test_without_profile(table):
    without = SIMPLE.replace("[USER_PROFILE]\ngender: F; age: 25; occupation: student\n\n", "")
    assert text(table) == without


def test_without_history(table):
    start, rest = SIMPLE.split("[HISTORICAL_RATINGS]")
    expected = start + "[RECENT_DIALOGUE]" + rest.split("[RECENT_DIALOGUE]")[1]
    assert text(table, [], ABLATIONS["profile_and_history"]) == expected


def test_tags_of_other_movies_before_the_targets_second_are_its_context(table):
    assert text(table, [], ABLATIONS["context_only"]) == WITH_CONTEXT


def test_max_context_keeps_the_last_turns(table):
    renderer = make_renderer(table, style(max_context=1), ABLATIONS["context_only"], tiny())
    assert renderer.text(3, np.array([], dtype=int)) == WITH_CONTEXT.replace(
        "User: Movie A (2020) (Action): loud\n", ""
    )
    renderer = make_renderer(table, style(max_context=0), ABLATIONS["context_only"], tiny())
    assert "loud" not in renderer.text(3, np.array([], dtype=int))


def test_in_english(table):
    assert text(table, name="simple_en") == ENGLISH


@needs_qwen3
def test_with_dates_and_with_the_newest_first(table):
    """The last second of a day is on that day, the next one on the next."""
    seconds = np.array([86_400 * 10_298, 86_400 * 10_298, 86_400 * 10_299 - 1, 86_400 * 10_299])
    table = replace(table, timestamp=seconds)
    for tokenizer in (tiny(), tiny_dated(), qwen3()):
        texts = {}
        for order in ("time", "newest_first"):
            renderer = make_renderer(table, style(dates=True, order=order), HISTORY, tokenizer)
            assert renderer.shares_prefixes
            texts[order] = renderer.text(3, np.array([0, 2]))
            assert renderer.tokens(3, np.array([0, 2])).tolist() == plain_ids(tokenizer, texts[order])
        assert texts["time"] == DATED
        assert NEWEST_FIRST in texts["newest_first"] and len(texts["newest_first"]) == len(DATED)
    chat = make_renderer(table, style("chat", dates=True), HISTORY, qwen3())
    expected = f"<|im_start|>user\n{DATED}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert chat.shares_prefixes and chat.text(3, np.array([0, 2])) == expected
    assert chat.tokens(3, np.array([0, 2])).tolist() == plain_ids(qwen3(), expected)


@pytest.mark.parametrize("times", [[0, 1, 2, 3], [10**12, 10**12, 10**12 + 1, 10**12 + 2]])
def test_dates_of_line_numbers_and_of_milliseconds_are_refused(table, times):
    table = replace(table, timestamp=np.array(times))
    for refused in (
        lambda: make_renderer(table, style(dates=True), HISTORY, tiny()),
        lambda: load_tokenizer(TinyModel(), table, style(dates=True), HISTORY),
    ):
        with pytest.raises(UserError, match=r"prompt\.dates=true: the data have no dates") as error:
            refused()
        assert "\n" not in str(error.value)


def test_a_movie_without_genres_has_no_bracket():
    table = make_table([[(0, 3.5, 1), (1, 3.0, 2)]], titles=["Bare", "Naked (1993)"], genres=["", ""])
    prompt = text(table, [0], target=1)
    assert "\n1. Bare: 3.5\n" in prompt
    assert "\nUser: Naked (1993):\n\n" in prompt


def test_the_answer_is_the_rating_and_the_end_token(table):
    renderer = make_renderer(table, style(), HISTORY, tiny())
    end = tiny().eos_token_id
    assert [tiny().decode(answer[:-1]) for answer in renderer.template.answers] == [str(i / 2) for i in range(1, 11)]
    assert all(answer[-1] == end for answer in renderer.template.answers)
    assert renderer.template.answer(2).tolist() == [*plain_ids(tiny(), "4.5"), end]


def test_a_records_description_replaces_only_the_task_of_its_user():
    rows = [(0, 3.0, 1), (1, 4.0, 2)]
    table = make_table([rows, rows], task=[None, "Guess what this user likes"])
    assert text(table, [0], target=1) == text(make_table([rows]), [0], target=1)
    assert text(table, [2], target=3).startswith("[TASK]\nGuess what this user likes\n\n[HISTORICAL_RATINGS]\n")


def test_a_user_without_profile_has_no_profile_section():
    rows = [(0, 3.0, 1), (1, 4.0, 2)]
    table = make_table([rows, rows], profile=["age: 3", None])
    profile = ABLATIONS["profile_and_history"]
    assert "[USER_PROFILE]\nage: 3\n\n" in text(table, [0], profile, target=1)
    assert "USER_PROFILE" not in text(table, [2], profile, target=3)


def test_the_context_of_a_record_is_above_the_target():
    table = make_table([[(0, 3.0, 1), (1, 4.0, 2)]], contexts=[[], ["First: turn", "second"]])
    prompt = text(table, [0], ABLATIONS["history_and_context"], target=1)
    assert ": 3.0\n\n[RECENT_DIALOGUE]\nUser: First: turn\nUser: second\nUser: Movie B1" in prompt


@needs_qwen3
@pytest.mark.parametrize(
    ("name", "ablation", "golden"),
    [
        ("simple", "profile_and_history", SIMPLE),
        ("simple_en", "history_only", ENGLISH),
        ("simple", "context_only", WITH_CONTEXT),
    ],
)
def test_with_qwen3_the_joined_ids_are_those_of_the_text(table, name, ablation, golden):
    renderer = make_renderer(table, style(name), ABLATIONS[ablation], qwen3())
    history = np.array([0, 2] if ABLATIONS[ablation].history else [], dtype=int)
    assert renderer.shares_prefixes
    assert renderer.text(3, history) == golden
    ids = [*renderer.tokens(3, history), *renderer.template.answer(3)]
    assert ids == [*plain_ids(qwen3(), golden + "2.0"), qwen3().convert_tokens_to_ids("<|im_end|>")]


@needs_qwen3
def test_chat_wraps_the_simple_prompt_in_qwen3s_template_with_thinking_off(table):
    renderer = make_renderer(table, style("chat"), ABLATIONS["profile_and_history"], qwen3())
    expected = f"<|im_start|>user\n{SIMPLE}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    history = np.array([0, 2])
    assert renderer.shares_prefixes
    assert renderer.text(3, history) == expected
    ids = [*renderer.tokens(3, history), *renderer.template.answer(3)]
    assert ids == plain_ids(qwen3(), f"{expected}2.0<|im_end|>")
    message = [{"role": "user", "content": SIMPLE}]
    template = qwen3().apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert renderer.text(3, history) == template


def test_chat_without_a_template_is_refused(table):
    with pytest.raises(UserError, match="prompt=chat"):
        make_renderer(table, style("chat"), HISTORY, tiny())


@pytest.mark.parametrize("name", [n for n, ablation in ABLATIONS.items() if ablation.profile])
def test_an_ablation_with_profile_is_refused_without_profiles(name):
    table = make_table([[(0, 3.0, 1)]], tags=[(0, 0, "x", 1)])
    with pytest.raises(UserError, match="no user profiles"):
        make_renderer(table, style(), ABLATIONS[name], tiny())


@pytest.mark.parametrize("name", [n for n, ablation in ABLATIONS.items() if ablation.context])
def test_an_ablation_with_context_is_refused_without_tags_and_context(name):
    table = make_table([[(0, 3.0, 1)]], profile=["age: 3"])
    with pytest.raises(UserError, match="no tags and no context"):
        make_renderer(table, style(), ABLATIONS[name], tiny())


def test_there_are_seven_ablations_and_history_only_has_only_history():
    sections = {name: {k for k, on in vars(ablation).items() if on} for name, ablation in ABLATIONS.items()}
    assert sections == {
        "profile_and_history_and_context": {"profile", "history", "context"},
        "profile_and_history": {"profile", "history"},
        "profile_and_context": {"profile", "context"},
        "history_and_context": {"history", "context"},
        "profile_only": {"profile"},
        "history_only": {"history"},
        "context_only": {"context"},
    }
    assert vars(EVERYTHING) == {"profile": True, "history": True, "context": True}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"history_tokens": -1}, "history_tokens"),
        ({"trim": "loose"}, "trim"),
        ({"max_context": -1}, "max_context"),
        ({"order": "oldest_first"}, "order"),
    ],
)
def test_bad_settings_are_refused_by_name(fields, name):
    with pytest.raises(UserError, match=rf"prompt\.{name}"):
        style(**fields)
