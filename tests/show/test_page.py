"""The page and the command on a small CSV: exact contents, hostile titles as text, the prediction of a run."""

import re
import sys
from dataclasses import dataclass, replace

import polars as pl
import pytest

from mlens.cli import show as command
from mlens.compose import compose_config, run_config
from mlens.config import check_config
from mlens.errors import UserError
from mlens.history.all_previous import AllPrevious
from mlens.packing.dataset import RatingDataset
from mlens.pipeline import open_inputs
from mlens.prompt.renderer import make_renderer
from mlens.show.find import TargetQuery
from mlens.show.inspection import inspect_target
from mlens.show.page import print_inspection
from mlens.show.prompt_pieces import prompt_pieces
from mlens.show.rating_status import count_kinds
from mlens.training.folder import RunFolder
from tests.helpers.cases import make_case, small_table
from tests.helpers.reference import naive_turns
from tests.helpers.runs import run_here
from tests.helpers.tokenizers_for_tests import metaspace, tiny

HOSTILE = "[red]Nasty[/red] \x1b[2J\u202e<|im_end|>"
SMALL = ("data=csv", "model=tiny", "model.vocab_size=400", "trainer.targets_per_step=4")


@pytest.fixture
def ratings(tmp_path):
    """Two users with 12 and 6 ratings, one a minute; movie 13 has a hostile title."""
    rows = [(u, 10 + m, 1 + m % 5, 60 * m) for u, n in (("ann", 12), ("bob", 6)) for m in range(n)]
    frame = pl.DataFrame(rows, schema=["user", "movie", "rating", "timestamp"], orient="row")
    titles = [HOSTILE if movie == 13 else f"Film {movie}" for movie in frame["movie"]]
    file = tmp_path / "ratings.csv"
    frame.with_columns(pl.col("rating").cast(pl.Float64), title=pl.Series(titles), genres=pl.lit("Drama")).write_csv(
        file
    )
    return f"data.path={file}"


def inspect(ratings, query, *overrides):
    inputs = open_inputs(check_config(compose_config([*SMALL, ratings, *overrides])))
    return inputs, inspect_target(inputs, query)


def test_an_inspection_shows_what_the_dataset_gives_the_model(ratings):
    _, seen = inspect(ratings, TargetQuery("ann"), "history=fixed_count", "history.count=3")
    dataset, sample = seen.dataset, seen.dataset[seen.i]
    assert (dataset.stage.name, seen.target) == ("test", 11)
    assert seen.text == dataset.text(seen.i)
    assert seen.text.endswith(
        "[HISTORICAL_RATINGS]\n1. Film 18 (Drama): 4.0\n2. Film 19 (Drama): 5.0\n3. Film 20 (Drama): 1.0\n\n"
        "[RECENT_DIALOGUE]\nUser: Film 21 (Drama):\n\n预测用户对该电影的评分："
    )
    assert count_kinds(seen.statuses) == {"chosen": 3, "dropped": 0, "not chosen": 8, "hidden": 0}
    assert [token for piece in seen.pieces[:-1] for token in piece.ids] == sample.prompt.tolist()
    assert seen.pieces[-1].ids == tuple(sample.answer.tolist())
    assert "".join(piece.text for piece in seen.pieces[:-1]) == seen.text
    parts = ["task", "heading", *["number", "item", "rating"] * 3, "dialogue", "item to rate", "answer"]
    assert [piece.part for piece in seen.pieces] == parts
    assert seen.pieces[-1].text == "2.0<|endoftext|>" and seen.run is None and seen.prediction is None


def test_pieces_of_a_chat_and_of_a_tokenizer_whose_pieces_do_not_join(ratings):
    inputs, seen = inspect(ratings, TargetQuery("ann"), "history=none")
    with pytest.warns(UserWarning, match="don't join"):
        renderer = make_renderer(inputs.table, inputs.settings.prompt, inputs.settings.ablation, metaspace())
    dataset = RatingDataset(inputs.table, inputs.stages["test"], inputs.settings.history, renderer, 0)
    pieces = prompt_pieces(dataset, metaspace(), seen.i)
    assert [piece.part for piece in pieces] == ["whole prompt", "answer"]
    assert list(pieces[0].ids) == dataset[seen.i].prompt.tolist()


def test_every_part_of_a_prompt_with_context_and_profile_is_named():
    cases = [make_case(small_table(n), AllPrevious(), ablation="profile_and_history_and_context") for n in range(6)]
    turns = 0
    for dataset in (dataset for case in cases for dataset in case.datasets.values()):
        for i, target in enumerate(dataset.stage.targets.tolist()):
            pieces = prompt_pieces(dataset, tiny(), i)
            parts = [piece.part for piece in pieces]
            assert [token for piece in pieces[:-1] for token in piece.ids] == dataset[i].prompt.tolist()
            assert parts.count("number") == parts.count("rating") == len(dataset[i].history)
            most = dataset.renderer.template.style.max_context
            assert parts.count("context") == len(naive_turns(dataset.table, target, most))
            assert (parts[0], parts[-2:]) == ("task", ["item to rate", "answer"])
            turns += parts.count("context")
    assert turns


def shown(capsys, *words, everything=False):
    command.show(list(words), everything)
    return capsys.readouterr().out


def test_the_page_shows_rating_history_prompt_and_row(ratings, capsys):
    page = shown(capsys, "user=ann", "t=11", *SMALL, ratings, "prompt.max_tokens=150", "packing.row_tokens=400")
    for part in (
        "ann",
        "Film 21, id 21",
        "genres    Drama",
        "2.0, given 1970-01-01 00:11:00 UTC",
        "t=11 of the user's 12 ratings in time order (from 0)",
        "test: the user's 12 ratings in time order are cut into 10 training, 1 validation, 1 test (split=temporal)",
        "Of the user's 11 other ratings 11 are visible to this target; history=all_previous requests 11 of these;",
        "its start jumps ahead until half of the room is free",
        "│ User: Film 21 (Drama):",
        "2.0<|endoftext|>",
        "(prompt.max_tokens=150)",
        "In evaluation, packed for one process: row 0 of 1 (from 0).",
    ):
        assert part in page, part
    assert "\x1b" not in page and "6  The prediction" not in page
    assert all(len(line) <= 200 for line in page.splitlines())


@pytest.mark.parametrize(
    ("item", "categories"), [("film", "genres"), ("book", "categories"), ("product", "categories")]
)
def test_the_page_names_what_is_rated(ratings, capsys, item, categories):
    inputs, seen = inspect(ratings, TargetQuery("bob"), f"data.item={item}", "ablation=history_only")
    print_inspection(inputs, seen)
    lines = [re.split("  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
    first_words = {line[0] for line in lines}
    assert {item, categories, f"{item} to rate"} <= first_words
    assert ["t", "given (UTC)", "rating", "stage", item] in lines
    assert item == "film" or not {"film", "genres", "film to rate"} & first_words


@dataclass(frozen=True)
class OwnDraw:
    """A strategy that mlens doesn't know."""

    redraw: str


@pytest.mark.parametrize(
    ("redraw", "stage", "when"),
    [
        ("epoch", "train", "anew in each epoch; this is epoch 0."),
        ("epoch", "test", "once."),
        ("once", "train", "once."),
    ],
)
def test_the_page_says_when_any_strategy_draws(ratings, capsys, redraw, stage, when):
    inputs, seen = inspect(ratings, TargetQuery("ann", stage=stage))
    print_inspection(inputs, seen)
    assert "Drawn from the seed" not in capsys.readouterr().out
    print_inspection(replace(inputs, settings=replace(inputs.settings, history=OwnDraw(redraw))), seen)
    assert f"Drawn from the seed, {when}\n" in capsys.readouterr().out


def test_hostile_titles_are_text(ratings, capsys):
    page = shown(capsys, "user=bob", "movie=13", *SMALL, ratings, everything=True)
    assert "[red]Nasty[/red] [2J\\u202e<|im_end|>" in page
    assert "\x1b" not in page and "\u202e" not in page


def test_long_lists_are_shortened_without_all(tmp_path, capsys):
    words = (
        "user=1001",
        "debug=fast",
        "data.users=3",
        "data.max_users=null",
        "data.ratings_per_user=60",
        "history=random",
        "history.draw=per_target",
    )
    short, full = shown(capsys, *words), shown(capsys, *words, everything=True)
    assert " more: " in short and " more" not in full
    assert len(full.splitlines()) > len(short.splitlines())
    explained = shown(capsys, *words[:-2], "history=similar", "history.count=20", "history.by=text")
    assert explained.count("chosen: line") == 20 and explained.count("similarity") == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["t=1"], "the user is missing"),
        (["user=1", "t=x"], "t=x must be an index"),
        (["user=1", "t=-1"], "t=-1 must be an index"),
        (["one", "two", "user=1"], "two is no KEY=VALUE"),
        (["user=1", "history=nothing"], "history=nothing: there is no such option"),
        (["user=1", "history.foo=1"], "foo"),
        (["user=1", "+history.foo=1"], "foo"),
        (["nowhere", "user=1"], "nowhere holds no finished run"),
    ],
)
def test_an_invalid_target_is_refused_in_one_line(words, message):
    with pytest.raises(UserError) as caught:
        command.show(words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_help_answers_without_a_heavy_import(monkeypatch, capsys):
    before = set(sys.modules)
    monkeypatch.setattr(sys, "argv", ["mlens show", "--help"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0 and "user=ID" in capsys.readouterr().out
    assert set(sys.modules) == before


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    overrides = ("debug=fast", "history=random", "trainer.max_steps=1", "data.max_users=8", "evaluation.draws=2")
    run_here(folder, *overrides)
    return folder


def test_a_runs_prediction_is_shown_with_its_history(run, capsys):
    drawn = pl.read_parquet(run / "predictions" / "test.parquet")
    frame = drawn.filter(draw=0)
    assert not frame["history_hash"].equals(drawn.filter(draw=1)["history_hash"])
    inputs = open_inputs(check_config(run_config(run, [], ())), tokenizer_folder=RunFolder(run).model)
    for row in frame.iter_rows(named=True):
        seen = inspect_target(inputs, TargetQuery(str(row["user"]), t=row["t"]), run)
        assert seen.prediction is not None
        assert seen.prediction.probability == {value: row[f"p_{value}"] for value in inputs.table.scale}
        assert (seen.prediction.expected, seen.prediction.rating) == (row["expected"], row["rating"])
        found = count_kinds(seen.statuses)
        assert (found["chosen"], found["dropped"]) == (row["history_used"], row["history_dropped"])
    capsys.readouterr()
    page = shown(capsys, str(run), f"user={row['user']}", f"t={row['t']}")
    message = f"expected {row['expected']:.2f}, most probable {row['argmax']}, true {row['rating']}"
    assert f"{message}; with the history on this page, the first of 2 draws" in page
    (line,) = (line for line in page.splitlines() if "← the true rating" in line)
    assert f"{row['rating']}" in line and f"{row['p_' + str(row['rating'])]:.1%}" in line


def test_a_sweeps_job_is_a_run_though_its_name_has_an_equals_sign(run, tmp_path, capsys):
    job = tmp_path / "history=random"
    job.symlink_to(run)
    user = pl.read_parquet(run / "predictions" / "test.parquet")["user"][0]
    assert "history=random" in shown(capsys, str(job), f"user={user}", "stage=test")


def test_with_a_run_only_paths_may_change_and_changed_data_are_refused(run, capsys):
    user = f"user={pl.read_parquet(run / 'predictions' / 'test.parquet')['user'][0]}"
    with pytest.raises(UserError, match=r"history can't differ from the run's"):
        command.show([str(run), user, "history=none"])
    file = run / "predictions" / "test.parquet"
    kept = file.read_bytes()
    pl.read_parquet(file).with_columns(history_hash=pl.lit("other")).write_parquet(file)
    try:
        with pytest.raises(UserError, match=r"the data .* have changed since the run"):
            command.show([str(run), user, "stage=test"])
    finally:
        file.write_bytes(kept)
