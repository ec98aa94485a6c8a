"""The probe of what a model remembers: questions that the files alone answer, models with and without memory."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chisquare
from transformers import AutoTokenizer

from mlens.cli.probe import main
from mlens.model.attention.cpu import ROW_ATTENTION
from mlens.packing.packed import PackedRows
from mlens.probe.questions import (
    CHOICES,
    CSV,
    EXAMPLES,
    FORMATS,
    LineFormat,
    Questions,
    context_questions,
    rating_questions,
    title_questions,
)
from mlens.probe.recall import Recall, answer_scores, recall
from mlens.prompt.tokens import PlainText, tiny_tokenizer
from tests.helpers.reference import make_table
from tests.helpers.small_model import make_model, plain_score

ROWS = PackedRows(row_tokens=700)


@pytest.fixture(scope="module")
def table():
    """40 users who rate 24 movies each; 60 movies of two years, whose ids and titles tell nothing of each other."""
    random = np.random.default_rng(0)
    ids = random.permutation(900) + 100
    rated = [random.permutation(60)[:24] for _ in range(40)]
    users = [[(int(m), float(random.integers(1, 11)) / 2, t) for t, m in enumerate(own)] for own in rated]
    titles = [f"{''.join(random.choice(list('abcdefgh'), 5))}, The ({1990 + m % 2})" for m in range(60)]
    return make_table(users, titles=titles, movie_ids=ids[:60].tolist(), user_ids=ids[60:100].tolist())


@pytest.fixture(scope="module")
def tokenizer(table, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLENS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return AutoTokenizer.from_pretrained(tiny_tokenizer(list(table.movies["title"]), ["1,2"], [], 400))


def lines_of_movies(table):
    return {f"{i},": f'"{title}"' for i, title in table.movies.select("id", "title").iter_rows()}


def test_title_questions_are_the_files_lines_with_other_ids_of_the_year(table):
    questions, lines = title_questions(table, CSV, 20, seed=3), lines_of_movies(table)
    years = {title: title[-6:-2] for title in lines.values()}
    assert len(questions.answers) == len(questions.beginnings) == 20
    shown = questions.contexts[0].splitlines()
    assert {*questions.contexts} == {questions.contexts[0]}
    assert len(shown) == EXAMPLES and all(line in [a + b for a, b in lines.items()] for line in shown)
    for answer, (true, *others) in zip(questions.answers, questions.beginnings, strict=True):
        assert lines[true] == answer
        assert len({true, *others}) == CHOICES
        assert {years[lines[other]] for other in others} == {years[answer]}
        assert not any(line.startswith((true, *others)) for line in shown)
    assert title_questions(table, CSV, 20, seed=3) == questions != title_questions(table, CSV, 20, seed=4)


def test_rating_questions_are_lines_with_ids_of_users_who_did_not_rate_so(table):
    questions = rating_questions(table, CSV, 25, seed=3)
    raw = {
        (table.users["id"][int(u)], table.movies["id"][int(m)]): float(r)
        for u, m, r in zip(table.user, table.movie, table.rating, strict=True)
    }
    asked = [line.split(",") for line in questions.contexts[0].splitlines()]
    assert {*questions.contexts} == {questions.contexts[0]}
    assert len(questions.answers) == 25 and len(asked) == EXAMPLES
    for answer, (true, *others) in zip(questions.answers, questions.beginnings, strict=True):
        user, movie, _ = true.split(",")
        assert raw[int(user), int(movie)] == float(answer)
        assert len({true, *others}) == CHOICES and {other.split(",")[1] for other in others} == {movie}
        assert all(raw.get((int(other.split(",")[0]), int(movie))) != float(answer) for other in others)
        asked.append([user, movie, answer])
    assert all(raw[int(user), int(movie)] == float(rating) for user, movie, rating in asked)
    assert len({user for user, _, _ in asked}) == len(asked)


def test_a_question_in_context_follows_lines_of_the_same_user():
    """Movie 20 is rated twice, and user 6 has a line too few. Only 5.0 occurs once among the last ten of user 7."""
    movies = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 100, 101, 102, 103, 1000]
    ratings = [1.0, 4.0, 4.5, 5.0, 3.0, 2.0, 4.0, 4.0, 3.0, 4.0, 4.0, 3.0, 5.0, 4.0, 3.5, 3.5, 4.0, 3.0]
    own = [(index, rating, 99 - index) for index, rating in enumerate(ratings)]
    rows = [own[:17], [*own, (18, 0.5, 200), (18, 1.5, 201)]]
    questions = context_questions(make_table(rows, user_ids=[6, 7], movie_ids=[*movies, 20]), CSV, 10, seed=0)
    assert questions == Questions(
        "rating by id in context",
        ("7,2,1.0\n7,3,4.0\n7,4,4.5\n7,5,5.0\n7,6,3.0\n7,7,2.0\n7,8,4.0\n7,9,4.0\n",),
        (("7,14,", *(f"7,{movie}," for movie in (10, 11, 12, 13, 100, 101, 102, 103, 1000))),),
        ("5.0",),
    )


def choices(questions):
    """Return the ids of the movies of the only question: the true one, and all in order."""
    ((true, *others),) = [[int(beginning.split(",")[1]) for beginning in own] for own in questions.beginnings]
    return true, sorted([true, *others])


@given(st.lists(st.sampled_from((1.0, 2.0, 3.0, 4.0)), min_size=18, max_size=60), st.permutations(range(CHOICES)))
def test_the_true_movie_is_exchangeable_with_the_others(ratings, order):
    """Where the ratings of the choices change places, the question stays, and its true movie moves with its rating."""

    def ask(ratings):
        return context_questions(make_table([[(m, r, 0) for m, r in enumerate(ratings)]]), CSV, 1, seed=5)

    before = ask(ratings)
    if before.answers:
        true, ids = choices(before)
        first = ids[0] - 10  # the index of the first choice: movie ids begin at 10
        moved = [*ratings[:first], *(ratings[first + i] for i in order), *ratings[first + CHOICES :]]
        after = ask(moved)
        assert (after.contexts, after.answers, choices(after)[1]) == (before.contexts, before.answers, ids)
        assert choices(after)[0] == ids[order.index(ids.index(true))]


def test_a_model_that_knows_nothing_recalls_by_chance_whichever_ids_it_prefers():
    random = np.random.default_rng(0)
    rows = [
        [(int(m), float(random.choice(5, p=[0.05, 0.1, 0.25, 0.4, 0.2]) + 1), 0) for m in random.choice(300, n, False)]
        for n in random.integers(18, 60, 700)
    ]
    questions = context_questions(make_table(rows), CSV, 1000, seed=0)
    ids = np.array([[int(beginning.split(",")[1]) for beginning in own] for own in questions.beginnings])
    place = (ids[:, 1:] < ids[:, :1]).sum(axis=1)
    assert len(place) > 600
    assert chisquare(np.bincount(place, minlength=CHOICES)).pvalue > 0.01


@pytest.mark.parametrize(
    ("form", "title", "rating"),
    [
        (CSV, '7,"Matrix, The (1999)"', "4.0"),
        (FORMATS["MovieLensDat"], "7::Matrix, The (1999)", "4"),
        (FORMATS["MovieLens100k"], "7|Matrix, The (1999)", "4"),
    ],
)
def test_lines_are_written_as_the_release_writes_them(form: LineFormat, title, rating):
    assert f"7{form.movie_mark}{form.title('Matrix, The (1999)')}" == title
    assert form.rating(4.0) == rating and form.rating(3.5) == "3.5"


@pytest.mark.parametrize("make", [title_questions, context_questions])
def test_answers_score_as_in_plain_forward_passes(table, tokenizer, make):
    questions = make(table, CSV, 2, seed=0)
    rows, plainly = (make_model(attention, vocabulary=len(tokenizer)).eval() for attention in (ROW_ATTENTION, "sdpa"))
    scores = answer_scores(rows, tokenizer, questions, ROWS)
    plain = PlainText(tokenizer)
    asked = zip(questions.contexts, questions.beginnings, questions.answers, scores, strict=True)
    for lines, own, answer, found in asked:
        for beginning, score in zip(own, found, strict=True):
            context, begin, end = plain.encode([lines, beginning, answer])
            assert score == pytest.approx(plain_score(plainly, [*context, *begin], end).item(), rel=1e-6)


class Memory:
    """A stand-in for a model that has read `lines` (each a beginning's tokens and an answer's): behind a beginning that
    it knows, the line's tokens are probable; behind any other, all tokens are alike."""

    device = torch.device("cpu")

    def __init__(self, lines, vocabulary):
        self.vocabulary = vocabulary
        self.next = {
            (*map(int, begin), *map(int, end[:n])): int(end[n]) for begin, end in lines for n in range(len(end))
        }

    def __call__(self, input_ids, logits_to_keep, **_):
        tokens = input_ids[0].tolist()
        logits = torch.zeros(1, len(logits_to_keep), self.vocabulary)
        for row, place in zip(logits[0], logits_to_keep.tolist(), strict=True):
            for known, following in self.next.items():
                if tuple(tokens[place + 1 - len(known) : place + 1]) == known:
                    row[following] = 5.0
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize(
    ("make", "known"),
    [(title_questions, 0), (title_questions, 7), (title_questions, 20), (context_questions, 0), (context_questions, 7)],
)
def test_what_a_model_has_read_is_recalled_and_nothing_else(table, tokenizer, make, known):
    questions, plain = make(table, CSV, 20, seed=0), PlainText(tokenizer)
    read = [plain.encode([own[0], end]) for own, end in zip(questions.beginnings, questions.answers, strict=True)]
    found = recall(Memory(read[:known], len(tokenizer)), tokenizer, questions, ROWS)
    assert (found.questions, found.recalled) == (20, known)
    assert found.p_value == pytest.approx(binom.sf(known - 1, 20, 1 / CHOICES))
    z, share = 1.959964, known / 20
    middle, half = share + z**2 / 40, z * (share * (1 - share) / 20 + z**2 / 1600) ** 0.5
    assert (found.low, found.high) == pytest.approx(
        tuple((middle + s * half) / (1 + z**2 / 20) for s in (-1, 1)), abs=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=sample"], "error: only a pretrained model can be probed: choose model=hf model.path=DIR, or a Qwen3"),
        (["data=sample", "--questions", "0"], "error: --questions must be at least 1, not 0"),
        (["data=nothing"], "error: data=nothing: there is no such option."),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["probe", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith(message) and error.count("\n") == 1


def test_the_command_asks_a_saved_model(tmp_path, table, tokenizer, capsys, monkeypatch):
    make_model("sdpa", torch.float32, len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = ["data=sample", "model=hf", f"model.path={tmp_path / 'model'}", "--questions", "5"]
    monkeypatch.setattr(sys, "argv", ["probe", *words, "data.users=60", "data.movies=1500"])
    main()
    shown = capsys.readouterr().out
    assert all(f"│ {kind} " in shown for kind in ("title by id", "rating by id", "rating by id in context"))
    assert "10% are recalled" in shown


def test_a_kind_without_questions_recalls_nothing(tokenizer):
    nothing = Questions("rating by id in context", (), (), ())
    assert recall(None, tokenizer, nothing, ROWS) == Recall("rating by id in context", 0, 0, 0.0, 1.0, 1.0)
