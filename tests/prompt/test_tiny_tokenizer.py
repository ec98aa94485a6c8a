"""The tiny model's tokenizer: a title, a bracket of genres and a rating are one token each; all else is text."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mlens.model.load import load_tokenizer
from mlens.model.settings import TinyModel
from mlens.prompt.renderer import make_renderer
from mlens.prompt.tokens import tiny_tokenizer
from tests.helpers.reference import HALF_STARS, dated, make_table
from tests.helpers.tokenizers_for_tests import HISTORY, style, tiny, tiny_dated

VOCAB = 400
titles = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=12).map(str.strip).filter(bool)


def tokens_of(tokenizer, text: str) -> list[str]:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    return [tokenizer.decode([one]) for one in ids]


def test_a_line_of_the_data_is_eight_tokens():
    line = "\n2. Movie B1 (1981) (Comedy, Drama, Sci-Fi): 4.5"
    parts = ["\n", "2", ".", " Movie B1 (1981)", " (Comedy, Drama, Sci-Fi)", ":", " ", "4.5"]
    assert tokens_of(tiny(), line) == parts


def test_a_line_with_a_date_is_twelve_tokens():
    line = "\n2. Movie B1 (1981) (Comedy, Drama, Sci-Fi), 1998-03-15: 4.5"
    parts = [
        "\n",
        "2",
        ".",
        " Movie B1 (1981)",
        " (Comedy, Drama, Sci-Fi)",
        ",",
        " 1998",
        "-03",
        "-15",
        ":",
        " ",
        "4.5",
    ]
    assert tokens_of(tiny_dated(), line) == parts
    assert len(tokens_of(tiny_dated(), " 2031-07-29:")) > 4  # not a day of the data


def test_titles_and_ratings_that_the_data_lack_are_text():
    for text in (" Movie B1 (1982) (Comedy, Drama, Sci-Fi):", " Alphaville (1965) (Noir):", " 7.3", " Paris, Texas:"):
        assert len(tokens_of(tiny(), text)) > 4 or text == " 7.3"
    assert tokens_of(tiny(), " 7.3") == [" ", "7", ".", "3"]


def test_a_title_with_a_year_a_bracket_or_a_rating_in_it_is_one_token():
    titles = [
        "2001: A Space Odyssey (1968)",
        "1984 (1984)",
        "Up (2009): 3.0 (2010)",
        "(500) Days of Summer (2009)",
        "8.5 (1963)",
    ]
    movies = [f" {title} (Drama):" for title in titles]
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(movies, ["x"], ["3.0", "8.5"], VOCAB))
    assert tokens_of(tokenizer, f"1.{movies[0]} 3.0") == [
        "1",
        ".",
        " 2001: A Space Odyssey (1968)",
        " (Drama)",
        ":",
        " ",
        "3.0",
    ]
    for title, movie in zip(titles, movies, strict=True):
        first = title if title != "Up (2009): 3.0 (2010)" else "Up (2009)"  # the first year before a colon ends it
        assert tokens_of(tokenizer, movie)[0] == f" {first}"


def test_the_vocabulary_is_bytes_merges_and_the_words_of_the_data():
    table = make_table([[(0, 3.0, 0), (1, 4.0, 1)]], titles=["One (1990)", "Two (1991)"], genres=["Drama", "Drama"])
    tokenizer = load_tokenizer(TinyModel(vocab_size=VOCAB), table, style(), HISTORY)
    words = {" One (1990)", " Two (1991)", " (Drama)", *map(str, table.scale)}
    assert words <= {tokenizer.decode([i]) for i in range(len(tokenizer))}
    assert len(tokenizer) <= VOCAB + len(words)


@given(st.text(max_size=40))
def test_any_text_comes_back(text):
    assert tiny().decode(tiny()(text)["input_ids"]) == text


@given(
    st.lists(titles, min_size=2, max_size=6),
    st.lists(titles, min_size=2, max_size=2),
    st.sampled_from(["", " (1999)"]),
    st.booleans(),
)
def test_pieces_join_whatever_the_titles_and_genres(names, genres, year, dates):
    table = make_table(
        [[(m, HALF_STARS[m], m) for m in range(len(names))]],
        titles=[name + year for name in names],
        genres=[genres[m % 2] for m in range(len(names))],
    )
    table, chosen = dated(table), style(dates=dates)
    tokenizer = load_tokenizer(TinyModel(vocab_size=VOCAB), table, chosen, HISTORY)
    renderer = make_renderer(table, chosen, HISTORY, tokenizer)
    target, history = len(names) - 1, np.arange(len(names) - 1)
    assert renderer.shares_prefixes
    assert renderer.tokens(target, history).tolist() == tokenizer(renderer.text(target, history))["input_ids"]
