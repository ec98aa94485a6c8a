"""A model that is asked again says what its run measured, and what plain transformers says."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hydra.utils import instantiate
from transformers import AutoModelForCausalLM, AutoTokenizer

from mlens.config import check_config
from mlens.data.sources import load_table
from mlens.data.split import assign_roles
from mlens.data.stage import make_stage
from mlens.evaluation.score import predict
from mlens.history.all_previous import AllPrevious
from mlens.history.fixed_count import FixedCount
from mlens.history.fixed_ratio import FixedRatio
from mlens.history.none import NoHistory
from mlens.history.random import Random
from mlens.packing.dataset import RatingDataset
from mlens.predict import Predictor
from mlens.prompt.renderer import make_renderer
from tests.helpers.predicting_runs import SHORT, predicting_run
from tests.helpers.runs import composed
from tests.helpers.tokenizers_for_tests import EVERYTHING


def assert_as_measured(run, row):
    (found,) = run.predict(row).rows(named=True)
    same = [name for name in row if name.startswith("p_")] + ["expected"]
    assert [found[name] for name in same] == pytest.approx([row[name] for name in same], abs=2e-6)
    for name in ("movie", "argmax", "history_used", "history_dropped"):
        assert found[name] == row[name], name


def with_text_ids(file):
    """The sample as a CSV whose users and movies have names."""
    table = load_table(instantiate(composed(*SHORT).data))
    movies = table.movies[table.movie]
    frame = pl.DataFrame(
        {
            "user": [f"u{user}" for user in table.users["id"][table.user]],
            "movie": [f"m{movie}" for movie in movies["id"]],
            "title": movies["title"],
            "genres": movies["genres"],
            "rating": table.rating,
            "timestamp": table.timestamp,
        }
    )
    frame.write_csv(file)
    return file


def test_the_first_target_of_each_user_under_strided_windows(all_previous):
    """Later ones go on from the window of those before them, which nobody who asks has."""
    first = all_previous.test.filter(pl.col("user").is_first_distinct())
    assert len(first) == 3 and (first["history_dropped"] > 0).any()
    for row in first.iter_rows(named=True):
        assert_as_measured(all_previous, row)


CUT = [AllPrevious(), FixedCount(12), FixedRatio(0.9), Random(0.9, "per_target"), Random(0.9, "per_user")]
CASES: list[tuple] = [(strategy, {}) for strategy in [*CUT, NoHistory()]]
CASES += [(AllPrevious(), {"dates": True}), (Random(0.9, "per_target"), {"dates": True, "order": "newest_first"})]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("strategy", "fields"), CASES, ids=repr)
def test_targets_under_exact_windows_with_profile_and_context(all_previous, strategy, fields):
    """As a run with these settings would score its test targets, with the same weights."""
    run = all_previous
    exported = replace(run.predictor.prompter.exported, history=strategy, ablation=EVERYTHING)
    longest = 190 if fields else 130
    exported = replace(exported, prompt=replace(exported.prompt, trim="exact", max_tokens=longest, **fields))
    prompter = replace(run.predictor.prompter, exported=exported)
    renderer = make_renderer(run.table, exported.prompt, exported.ablation, prompter.tokenizer)
    split = check_config(composed(*SHORT)).split
    stage = make_stage(run.table, assign_roles(run.table, split), split, "test")
    # A share that was halved once stays so for the user's later targets, whom who asks doesn't know.
    kept = np.unique(stage.user, return_index=True)[1] if strategy == CUT[-1] else np.arange(6)
    stage = stage.keep(kept)
    dataset = RatingDataset(run.table, stage, strategy, renderer, exported.evaluation.seed)
    expected = predict(run.predictor.scorer, dataset, exported.packing).probability
    used = [len(dataset.history(i)) for i in range(len(dataset))]
    assert any(len(dataset.wanted(i)) > n for i, n in enumerate(used)) == (strategy != NoHistory())
    predictor = Predictor(prompter, run.predictor.scorer)
    for i, target in enumerate(stage.targets):
        user, movie = int(run.table.user[target]), int(run.table.movie[target])
        ids = {"user": run.table.users["id"][user], "movie": run.table.movies["id"][movie]}
        row = {**ids, "t": int(target - run.table.user_offsets[user])}
        (found,) = predictor.predict(run.history(row), [run.movie(row)]).rows(named=True)
        assert found["history_used"] == used[i]
        assert [found[f"p_{rating}"] for rating in exported.scale] == pytest.approx(expected[i], abs=2e-6)


@pytest.mark.slow
def test_every_target_with_random_histories_and_ids_of_text(tmp_path):
    source = ("data=csv", f"data.path={with_text_ids(tmp_path / 'ratings.csv')}")
    run = predicting_run(tmp_path / "run", *source, "history=random", "history.ratio=0.9", "evaluation.draws=2")
    assert run.test["movie"].dtype == pl.String and (run.test["history_dropped"] > 0).any()
    drawn = [run.test.filter(draw=draw).drop("draw") for draw in range(2)]
    averaged = drawn[0].with_columns(
        (drawn[0][name] + drawn[1][name]) / 2
        for name in run.test.columns
        if name.startswith("p_") or name == "expected"
    )
    scale = [float(name[2:]) for name in run.test.columns if name.startswith("p_")]
    most = averaged.select(pl.concat_list("^p_.*$").list.arg_max().alias("most"))["most"]
    averaged = averaged.with_columns(argmax=pl.Series([scale[i] for i in most]))
    for row in averaged.iter_rows(named=True):
        assert_as_measured(run, row)
    # Other ids, other draws.
    row = averaged.row(int(averaged["history_used"].arg_max()), named=True)
    history, movie = run.history(row), run.movie(row)
    other = run.predictor.predict([rating | {"user": "somebody"} for rating in history], [movie])
    assert abs(other["expected"][0] - row["expected"]) > 1e-5


def test_plain_transformers_says_the_same_after_the_text_of_the_prompt(all_previous):
    model = AutoModelForCausalLM.from_pretrained(all_previous.folder / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(all_previous.folder / "model")
    row = all_previous.test.row(-1, named=True)
    movies = [{"title": f"Movie {i} (19{i}9)", "genres": "Drama|Comedy"} for i in range(3)]
    prompter = all_previous.predictor.prompter
    prompts = prompter.prompts(prompter.request(all_previous.history(row), movies))
    predicted = all_previous.predictor.predict(all_previous.history(row), movies).sort("title")
    answers = [f"{rating}{tokenizer.eos_token}" for rating in prompter.exported.scale]
    assert prompts["text_is_enough"].all()
    for text, found in zip(prompts["prompt"], predicted.iter_rows(named=True), strict=True):
        prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        scores = []
        for answer in answers:
            ids = tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logits = model(torch.cat([prompt, ids], dim=1)).logits[0, prompt.shape[1] - 1 : -1]
            scores.append(float(logits.double().log_softmax(dim=-1).gather(1, ids[0, :, None]).sum()))
        mass = np.exp(scores)
        probability = [found[f"p_{rating}"] for rating in prompter.exported.scale]
        assert probability == pytest.approx(mass / mass.sum(), abs=2e-6)
        assert found["illegal_mass"] == pytest.approx(1 - mass.sum(), abs=2e-6)
