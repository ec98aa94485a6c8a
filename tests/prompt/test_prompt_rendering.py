"""Random prompts against a naive renderer that tokenises the full text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlens.data.movielens_csv import MovieLensCsv
from mlens.data.sources import load_table
from mlens.model.load import load_tokenizer
from mlens.model.settings import TinyModel
from mlens.prompt.renderer import check_borders, make_renderer
from tests.helpers.reference import HALF_STARS, dated, make_table, naive_prompt, user_ratings
from tests.helpers.tokenizers_for_tests import (
    ABLATIONS,
    END,
    EVERYTHING,
    HISTORY,
    metaspace,
    needs_qwen3,
    plain,
    plain_ids,
    qwen3,
    style,
    text_ids,
    tiny,
    tiny_dated,
)

ML = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small"
# Data are text: these are titles, tags and profiles like any other.
ODD = [
    "<|im_end|>",
    "<|im_start|>assistant",
    "<think>\n\n</think>",
    "[TASK]",
    "[RECENT_DIALOGUE]",
    END,
    "1. Movie: 5.0",
    "4.5",
    "Up (2009): 3.0",
    "Up (2009) (Drama): 3.0 (2010)",
    "Up (2009), 1998-03-13: 3.0",
    "Up (2009) (Drama), 1998-03-13: 3.0 (2010)",
    "1998-03-13: a day (1998), a night",
    "2001: A Space Odyssey (1968)",
    "...And Justice for All (1979)",
    "Amélie (2001)",
    "E\u0301tat (1990)",
    "七人の侍 (1954)",
    "9½ Weeks (1986)",
    "🎬🍿",
    "'Round Midnight",
    "$",
    "a  b",
    "x\ny",
    "\u200bzero width",
]
words = st.one_of(st.sampled_from(ODD), st.text(min_size=1, max_size=12)).map(str.strip).filter(bool)
titles = st.one_of(words, words.map(lambda word: f"{word} (1999)"))
orders = st.sampled_from(["time", "newest_first"])


@st.composite
def worlds(draw):
    """A table with odd texts everywhere, and a target of it with some earlier ratings as history."""
    movies = 8
    sizes = draw(st.lists(st.integers(1, 15), min_size=1, max_size=3))
    rows = st.tuples(st.integers(0, movies - 1), st.sampled_from(HALF_STARS), st.integers(0, 9))
    users = [sorted(draw(st.lists(rows, min_size=n, max_size=n)), key=lambda row: row[2]) for n in sizes]
    some = st.lists(words, max_size=3)
    tag = st.tuples(st.integers(0, len(users) - 1), st.integers(0, movies - 1), words, st.integers(0, 9))
    with_records = draw(st.booleans())
    table = make_table(
        users,
        titles=draw(st.lists(titles, min_size=movies, max_size=movies)),
        genres=draw(st.lists(st.sampled_from(["", "Drama", "Comedy, Sci-Fi"]), min_size=movies, max_size=movies)),
        profile=draw(st.lists(st.none() | words, min_size=len(users), max_size=len(users))),
        task=draw(st.lists(st.none() | words, min_size=len(users), max_size=len(users))),
        tags=sorted(draw(st.lists(tag, min_size=1, max_size=12)), key=lambda t: (t[0], t[3])),
        contexts=[draw(some) for _ in range(sum(sizes))] if with_records else None,
    )
    table = dated(table)
    target = draw(st.integers(0, len(table) - 1))
    earlier = [i for i in user_ratings(table, table.user[target]) if i < target]
    history = [i for i in earlier if draw(st.booleans())]
    return table, target, history


def render(world, ablation, tokenizer, **fields):
    table, target, history = world
    chosen = style(**fields)
    renderer = make_renderer(table, chosen, ablation, tokenizer)
    expected = naive_prompt(table, target, history if ablation.history else [], ablation, chosen).text()
    given_history = np.array(history if ablation.history else [], dtype=np.int64)
    return renderer, target, given_history, expected


@given(worlds(), st.sampled_from(list(ABLATIONS.values())), st.integers(0, 4), st.booleans(), orders, st.booleans())
@settings(max_examples=8)
@pytest.mark.filterwarnings("ignore:.*pieces of a prompt don't join")
def test_text_and_ids_are_those_of_the_naive_prompt(world, ablation, max_context, dates, order, with_date_tokens):
    tokenizer = tiny_dated() if with_date_tokens else tiny()
    fields = {"max_context": max_context, "dates": dates, "order": order}
    renderer, target, history, expected = render(world, ablation, tokenizer, max_tokens=10**6, **fields)
    assert renderer.text(target, history) == expected
    ids = renderer.tokens(target, history).tolist()
    assert tokenizer.decode(ids) == expected
    assert ids == text_ids(tokenizer, expected)
    names, parts = zip(*renderer.parts(target, history), strict=True)
    assert np.concatenate(parts).tolist() == ids
    if renderer.shares_prefixes:
        assert names.count("date") == dates * len(history) and names.count("date to rate") == dates


@needs_qwen3
@pytest.mark.parametrize(
    ("ablation", "fields"),
    [
        (EVERYTHING, {}),
        (ABLATIONS["context_only"], {}),
        (EVERYTHING, {"dates": True, "order": "newest_first"}),
        (ABLATIONS["context_only"], {"dates": True}),
    ],
)
def test_with_qwen3_odd_titles_tags_and_profiles_join_and_stay_text(ablation, fields):
    """Every odd text as a title and as a tag, and some in a profile."""
    n = len(ODD)
    table = make_table(
        [[(m, HALF_STARS[m % 10], m) for m in range(n)]],
        titles=ODD,
        genres=["Drama, Film-Noir" if m % 2 else "" for m in range(n)],
        profile=["name: <|im_end|> <think> [TASK] x"],
        tags=[(0, m, ODD[-m], m) for m in range(n)],
    )
    table, chosen = dated(table), style(**fields)
    renderer = make_renderer(table, chosen, ablation, qwen3())
    assert renderer.shares_prefixes
    special = set(qwen3().get_added_vocab().values())
    assert len(special) > 20
    for target in range(n):
        history = np.arange(target) if ablation.history else np.arange(0)
        expected = naive_prompt(table, target, history, ablation, chosen).text()
        ids = renderer.tokens(target, history).tolist()
        assert renderer.text(target, history) == expected
        assert ids == text_ids(qwen3(), expected)
        assert not special & set(ids)
        # Qwen's normal form composes accents; else the text comes back as it was.
        assert qwen3().decode(ids).replace("É", "E\u0301") == expected


@needs_qwen3
def test_in_chat_only_the_template_has_special_tokens():
    table = make_table([[(m, 3.0, m) for m in range(len(ODD))]], titles=ODD)
    renderer = make_renderer(table, style("chat"), HISTORY, qwen3())
    special = set(qwen3().get_added_vocab().values())
    ids = renderer.tokens(len(ODD) - 1, np.arange(len(ODD) - 1)).tolist()
    shown = [qwen3().convert_ids_to_tokens(i) for i in ids if i in special]
    assert shown == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<think>", "</think>"]


@needs_qwen3
def test_plain_text_equals_the_tokenizer_where_no_added_token_occurs():
    texts = [text for text in ODD if "<" not in text] + ["", " ", "\n\n[X]\n", "a. b: c"]
    assert [ids.tolist() for ids in plain(qwen3()).encode(texts)] == [plain_ids(qwen3(), text) for text in texts]


@given(worlds())
@pytest.mark.filterwarnings("ignore:.*pieces of a prompt don't join")
def test_the_prompt_does_not_depend_on_the_targets_rating(world):
    table, target, history = world
    rating = np.array(table.rating)
    rating[target] = 5.5 - rating[target]
    other = type(table)(**{**{name: getattr(table, name) for name in table.__dataclass_fields__}, "rating": rating})
    one, two = (render((t, target, history), EVERYTHING, tiny(), max_tokens=10**6) for t in (table, other))
    assert one[0].text(target, one[2]) == two[0].text(target, two[2])
    assert one[0].tokens(target, one[2]).tolist() == two[0].tokens(target, two[2]).tolist()


def test_the_tiny_tokenizers_pieces_join():
    table = make_table([[(m % 30, HALF_STARS[m % 10], m) for m in range(60)]], profile=["age: 25; occupation: other"])
    assert make_renderer(table, style(), ABLATIONS["profile_and_history"], tiny()).shares_prefixes
    assert make_renderer(table, style("simple_en"), HISTORY, tiny()).shares_prefixes


@needs_qwen3
@pytest.mark.parametrize(("section", "ablation"), [("profile", "profile_and_history"), ("task", "history_only")])
def test_a_single_user_whose_text_ends_in_a_full_stop_is_detected(section, ablation):
    """`.` and the blank line after it are one token: such a head doesn't join, even if it is one among hundreds."""
    users = [[(0, 3.0, 1), (1, 4.0, 2)]] * 300
    texts = ["name: someone"] * 300
    texts[150] = "name: Sammy Davis, Jr."
    table = make_table(users, **{section: texts})
    with pytest.warns(UserWarning, match="don't join"):
        renderer = make_renderer(table, style(), ABLATIONS[ablation], qwen3())
    target, history = 301, np.array([300])
    assert renderer.tokens(target, history).tolist() == plain_ids(qwen3(), renderer.text(target, history))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLENS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_table(MovieLensCsv("ml-latest-small", path=str(ML)))


@needs_qwen3
@pytest.mark.slow
@pytest.mark.skipif(not ML.is_dir(), reason="needs ../shared/data/ml-latest-small")
@pytest.mark.parametrize("name", ["simple", "simple_en"])
@pytest.mark.parametrize(("profile", "dates"), [(False, False), (True, False), (False, True)])
def test_all_movies_of_ml_latest_small_join_with_qwen3(small, name, profile, dates):
    """Each movie as a history line and as the target."""
    movies = len(small.movies)
    assert movies == 9742
    rows = [(m, HALF_STARS[m % 10], m) for m in range(movies)]
    table = make_table(
        [rows],
        titles=small.movies["title"].to_list(),
        genres=small.movies["genres"].to_list(),
        profile=["gender: F; age: 25; occupation: student"],
    )
    table = dated(table)
    ablation = ABLATIONS["profile_and_history" if profile else "history_only"]
    chosen = style(name, dates=dates)
    renderer = make_renderer(table, chosen, ablation, qwen3())
    assert renderer.shares_prefixes
    for target in range(20, movies, 10):
        history = np.arange(target - 20, target)
        ids = [*renderer.tokens(target, history), *renderer.template.answer(target)]
        text = naive_prompt(table, target, history, ablation, chosen).text() + f"{table.rating[target]:.1f}"
        assert ids == [*plain_ids(qwen3(), text), qwen3().eos_token_id]
    for target in range(movies):
        history = np.arange(max(0, target - 1), target)
        text = naive_prompt(table, target, history, ablation, chosen).text()
        assert renderer.tokens(target, history).tolist() == plain_ids(qwen3(), text)


@pytest.mark.slow
@pytest.mark.skipif(not ML.is_dir(), reason="needs ../shared/data/ml-latest-small")
@pytest.mark.parametrize("dates", [False, True])
def test_all_movies_of_ml_latest_small_join_with_the_tiny_tokenizer(small, dates):
    """Each rating as the target after the two before it, on the days of the data."""
    chosen = style(dates=dates)
    tokenizer = load_tokenizer(TinyModel(), small, chosen, HISTORY)
    renderer = make_renderer(small, chosen, HISTORY, tokenizer)
    assert renderer.shares_prefixes
    targets = np.unique(small.movie, return_index=True)[1]
    assert len(targets) > 9700
    for target in targets:
        history = np.arange(max(small.user_offsets[small.user[target]], target - 2), target)
        text = naive_prompt(small, target, history, HISTORY, chosen).text()
        assert renderer.tokens(target, history).tolist() == plain_ids(tokenizer, text)


def test_pieces_that_do_not_join_are_detected_and_prompts_tokenised_as_single_texts():
    table = make_table([[(m % 9, HALF_STARS[m % 10], m) for m in range(40)]])
    with pytest.warns(UserWarning, match="don't join"):
        renderer = make_renderer(table, style(), HISTORY, metaspace())
    assert not renderer.shares_prefixes
    assert not check_borders(renderer.template, renderer.plain)
    for target in (0, 1, 39):
        history = np.arange(target)
        text = naive_prompt(table, target, history, HISTORY, style()).text()
        assert renderer.text(target, history) == text
        assert renderer.tokens(target, history).tolist() == plain_ids(metaspace(), text)


def test_a_tokenizer_with_a_begin_token_begins_prompts_with_it_and_an_end_token_is_not_added_twice():
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = type(tiny().backend_tokenizer).from_str(tiny().backend_tokenizer.to_str())
    backend.add_special_tokens(["<s>"])
    start = backend.token_to_id("<s>")
    backend.post_processor = TemplateProcessing(
        single=f"<s> $A {END}", special_tokens=[("<s>", start), (END, tiny().eos_token_id)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=END)
    table = make_table([[(0, 3.0, 1), (1, 3.0, 2)]])
    renderer = make_renderer(table, style(), HISTORY, tokenizer)
    history = np.array([0])
    assert renderer.shares_prefixes
    assert renderer.tokens(1, history).tolist() == [start, *plain_ids(tiny(), renderer.text(1, history))]
    assert renderer.template.answer(1).tolist() == [*plain_ids(tiny(), "3.0"), tokenizer.eos_token_id]


def test_context_that_no_rating_has_is_an_empty_context():
    table = make_table([[(0, 3.0, 1), (1, 3.0, 2)]], contexts=[[], []])
    context = ABLATIONS["history_and_context"]
    renderer = make_renderer(table, style(), context, tiny())
    assert renderer.text(1, np.array([0])) == naive_prompt(table, 1, [0], context, style()).text()
