"""The report of finished runs: arms, pairing, contents, refused runs, and the command."""

import csv
import json
import re
import shutil
from math import fsum, sqrt
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.cli.compare import main
from mlens.comparison.crossed import crossed_table
from mlens.comparison.finished_runs import LABEL_SETTINGS, Run, find_runs, make_arms, read_run
from mlens.comparison.pairing import pair
from mlens.comparison.report import print_report, report
from mlens.comparison.results import answer, compare, scope
from mlens.comparison.sections import failures, fairness
from mlens.errors import UserError
from mlens.evaluation.metrics import point_metrics
from tests.helpers.made_up_runs import leave_out_figures, make_run, make_sweep


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """Leave figures out: tests/comparison/test_report_page.py draws them."""
    leave_out_figures(monkeypatch)


def results_of(folder):
    paired, refused = pair(make_arms(find_runs([folder])))
    return compare(paired), refused


def test_arms_are_runs_that_differ_in_their_seed_alone(tmp_path):
    arms = make_arms(find_runs([make_sweep(tmp_path, seeds=3)]))
    assert {arm.label: len(arm.runs) for arm in arms} == {"all_previous": 3, "fixed_count 10": 3, "none": 3}


def test_a_label_includes_the_settings_in_which_an_arm_differs(tmp_path):
    make_run(tmp_path / "a", "random", {"ratio": 0.5, "draw": "per_target"})
    make_run(tmp_path / "b", "random", {"ratio": 0.5, "draw": "per_user"})
    make_run(tmp_path / "c", "none", settings={"prompt.trim": "exact"})
    labels = [arm.label for arm in make_arms(find_runs([tmp_path]))]
    assert labels == [
        "random 0.5 history.draw=per_target prompt.trim=strided",
        "random 0.5 history.draw=per_user prompt.trim=strided",
        "none prompt.trim=exact",
    ]


def test_a_label_leaves_out_settings_that_the_labels_do_not_need(tmp_path):
    scratch = {"optimizer": "muon", "learning_rate": 0.02, "max_steps": 2000, "weight_decay": 0.0, "schedule": "cosine"}
    finetune = {"optimizer": "adamw", "learning_rate": 1e-5, "max_steps": 10, "weight_decay": 0.1, "schedule": "linear"}
    for name, settings in {"a": scratch, "b": finetune, "c": finetune | {"weight_decay": 0.2}}.items():
        make_run(tmp_path / name, settings={f"trainer.{key}": value for key, value in settings.items()})
    arms = make_arms(find_runs([tmp_path]))
    assert [arm.label for arm in arms] == [f"none trainer.weight_decay={value} …" for value in (0.0, 0.1, 0.2)]
    (note, *_) = fairness(tuple(arms))
    assert note.startswith("NOTE") and all(f"trainer.{key}" in note for key in scratch)


VALUES = st.sampled_from([0, 1, "1", 1.0, None, "a b", "a\nb"])
RUNS = st.lists(
    st.tuples(st.sampled_from(["none", "random"]), st.dictionaries(st.sampled_from("abcdefgh"), VALUES)),
    min_size=1,
    max_size=9,
)


@given(RUNS)
def test_labels_are_distinct_and_of_few_settings(found):
    """Each run has a seed of its own, so that those of equal settings are one arm."""
    summary = {"versions": {}, "identity": {"data": "d", "model": None}}
    nodes = [{"seed": seed, "history": {"_target_": f"m.{h}.H"}, "trainer": t} for seed, (h, t) in enumerate(found)]
    arms = make_arms([Run(Path(str(node["seed"])), summary, node) for node in nodes])
    assert len({arm.label for arm in arms}) == len(arms)
    for arm in arms:
        assert arm.label.split()[0] == arm.runs[0].config["history"]["_target_"].split(".")[1]
        assert arm.label.count("=") <= max(LABEL_SETTINGS, len(arms) - 1)


def test_one_run_given_twice_is_refused(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b")
    with pytest.raises(UserError, match="two runs have the same settings and seed"):
        make_arms(find_runs([tmp_path]))


def test_a_folder_without_finished_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        find_runs([tmp_path])
    make_run(tmp_path / "a")
    (tmp_path / "a" / "summary.json").unlink()
    with pytest.raises(UserError, match="no finished run but 1 unfinished"):
        find_runs([tmp_path])
    with pytest.raises(UserError, match="no such folder"):
        find_runs([tmp_path / "nowhere"])


def test_runs_are_found_at_any_depth_and_unfinished_ones_are_listed_and_left_out(tmp_path):
    make_sweep(tmp_path / "multirun" / "one")
    run = make_run(tmp_path / "outputs" / "day" / "time", "random", {"ratio": 0.3})
    make_run(run / "copies" / "a")  # lies in a run
    unfinished = make_run(tmp_path / "outputs" / "day" / "later", seed=3)
    (unfinished / "summary.json").unlink()
    folders = [tmp_path, tmp_path / "multirun"]
    names = ["multirun/one/all_0", "multirun/one/count_0", "multirun/one/none_0", "outputs/day/time"]
    assert [found.folder for found in find_runs(folders)] == [tmp_path / name for name in names]
    assert report(folders, tmp_path / "out").refused == [f"{unfinished}: the run has not finished"]
    assert f"not compared: {unfinished}" in (tmp_path / "out" / "report.md").read_text()


def test_targets_of_one_user_are_refused(tmp_path):
    make_run(tmp_path / "a", users=1, each=12)
    with pytest.raises(UserError, match="one user"):
        report([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_single_run_has_a_report_too(tmp_path):
    make_run(tmp_path / "a", "all_previous")
    assert "there is nothing to compare it with." in report([tmp_path / "a"], tmp_path).answer
    assert "Differences" not in (tmp_path / "report.html").read_text()


def test_the_heading_counts_arms_or_strategies(tmp_path):
    one = make_run(tmp_path / "a", "none")
    shown = {}
    for name, other in {
        "other settings": make_run(tmp_path / "b", "none", settings={"trainer.learning_rate": 0.02}),
        "another strategy": make_run(tmp_path / "c", "all_previous"),
    }.items():
        page = report([one, other], tmp_path / "out").html.read_text()
        shown[name] = re.findall("<h1>(.*)</h1>", page)
    assert shown == {"other settings": ["2 arms compared"], "another strategy": ["2 strategies compared"]}


def test_errors_are_those_of_the_predictions(tmp_path):
    results, refused = results_of(make_sweep(tmp_path, seeds=2))
    assert not refused
    for number, arm in enumerate(results.paired.arms):
        frames = [pl.read_parquet(run.folder / "predictions" / "test.parquet") for run in arm.runs]
        errors = [(frame["expected"] - frame["rating"]).to_numpy() for frame in frames]
        assert results.rmse[number].value == pytest.approx(np.mean([np.sqrt(np.mean(e**2)) for e in errors]))
        assert results.of_arms["mae"][number].value == pytest.approx(np.mean([np.abs(e).mean() for e in errors]))
        assert results.rmse[number].low < results.rmse[number].value < results.rmse[number].high


def naive_rmse(predicted, rating):
    return sqrt(fsum((p - r) ** 2 for p, r in zip(predicted, rating, strict=True)) / len(rating))


def test_with_several_draws_all_errors_are_means_and_a_column_has_the_averaging_gain(tmp_path, capsys):
    for seed in (0, 1):
        make_run(tmp_path / f"random_{seed}", "random", {"ratio": 0.5}, seed=seed, draws=3, dropped=1)
        make_run(tmp_path / f"none_{seed}", "none", seed=seed, error=0.81)
    written = report([tmp_path], tmp_path)
    runs, gains = {}, {}
    for run in find_runs([tmp_path]):
        frame = pl.read_parquet(run.folder / "predictions" / "test.parquet")
        drawn = frame.partition_by("draw") if "draw" in frame.columns else [frame]
        of_draws = [naive_rmse(one["expected"], one["rating"]) for one in drawn]
        averaged = [fsum(of_target) / len(drawn) for of_target in zip(*(one["expected"] for one in drawn), strict=True)]
        arm = run.name.partition("_")[0]
        runs.setdefault(arm, []).append(fsum(of_draws) / len(drawn))
        gains.setdefault(arm, []).append(runs[arm][-1] - naive_rmse(averaged, drawn[0]["rating"]))
        assert run.summary["metrics"]["test"]["rmse"] == pytest.approx(runs[arm][-1], abs=1e-12)
    rows = {row["arm"].split()[0]: row for row in csv.DictReader((tmp_path / "results.csv").open())}
    tests = {arm: [summary_of(tmp_path / f"{arm}_{seed}") for seed in (0, 1)] for arm in rows}
    for arm, row in rows.items():
        assert float(row["rmse"]) == sum(test["rmse"] for test in tests[arm]) / 2
        assert float(row["rmse"]) == pytest.approx(fsum(runs[arm]) / 2, abs=1e-12)
        assert float(row["mae"]) == sum(test["mae"] for test in tests[arm]) / 2
    assert rows["none"]["averaging_gain"] == ""
    assert "best_possible" not in rows["none"]
    averaged = sum(test["averaged"]["rmse"] for test in tests["random"]) / 2
    assert float(rows["random"]["averaging_gain"]) == float(rows["random"]["rmse"]) - averaged
    assert float(rows["random"]["averaging_gain"]) == pytest.approx(fsum(gains["random"]) / 2, abs=1e-12)
    assert min(gains["random"]) > 0.05
    # The printed page, and the statistics.
    print_report(written)
    gain, value = (f"{float(rows['random'][name]):.4f}" for name in ("averaging_gain", "rmse"))
    for text in ((tmp_path / "report.md").read_text(), written.html.read_text(), capsys.readouterr().out):
        assert "gain" in text and gain in text and value in text
    paired, _ = pair(make_arms(find_runs([tmp_path])))
    results = compare(paired)
    labels = [arm.label.split()[0] for arm in paired.arms]
    found = results.between[0, 1].differences["rmse"].value * (1 if labels == ["none", "random"] else -1)
    assert found == pytest.approx(fsum(runs["none"]) / 2 - fsum(runs["random"]) / 2, abs=1e-12)


def test_one_draw_has_no_averaging_gain(tmp_path):
    report([make_sweep(tmp_path)], tmp_path)
    assert all("averaging gain" not in (tmp_path / name).read_text() for name in ("report.md", "report.html"))


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())["metrics"]["test"]


@pytest.mark.parametrize("name", ["rmse", "mae", "level", "taste", "auc"])
def test_predictions_that_differ_from_the_summary_are_refused(tmp_path, name):
    make_run(tmp_path / "a")
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    summary["metrics"]["test"][name] += 1e-6
    (tmp_path / "a" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=f"differ: .*a: predictions/test.parquet has {name} 0.*summary.json"):
        report([tmp_path / "a"], tmp_path)


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (pl.lit(1), "must count draws from 0"),
        (pl.col("t") % 2 * 2, "must count draws from 0"),
        (pl.col("t").cast(pl.Float64) / 2, "must count draws from 0"),
        ((pl.col("t") > 20).cast(pl.Int64), "must count draws from 0"),
        (pl.lit("0"), "must be numbers"),
        (pl.lit(None, pl.Int64), "has missing or invalid values"),
    ],
)
def test_invalid_draws_are_refused(tmp_path, draw, said):
    make_run(tmp_path / "a")
    file = tmp_path / "a" / "predictions" / "test.parquet"
    pl.read_parquet(file).with_columns(draw=draw).write_parquet(file)
    with pytest.raises(UserError, match=said):
        report([tmp_path / "a"], tmp_path)


def test_draws_of_other_targets_are_not_paired(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", "random", {"ratio": 0.5}, draws=2)
    file = tmp_path / "b" / "predictions" / "test.parquet"
    pl.read_parquet(file).with_columns(t=pl.col("t") + (pl.col("draw") == 1) * 100).write_parquet(file)
    _, refused = results_of(tmp_path)
    assert len(refused) == 1 and "320 are its alone" in refused[0]


def test_the_answer_names_significant_differences_and_others(tmp_path):
    results, _ = results_of(make_sweep(tmp_path))
    said = answer(results)
    beaten = "All arms have a lower RMSE than the best baseline, user mean so far (1.1000). "
    assert said.startswith(f"{beaten}all_previous has the lowest test RMSE, 0.5")
    assert "it is better than none (corrected p < 0.05), and doesn't differ significantly from fixed_count 10" in said
    assert "fixed_count 10 ranks a user's movies better than none (AUC 0.9427 against 0.8850)." in said
    assert "All arms rank a user's movies better than the movie mean (AUC 0.8850 to 0.9427 against 0.6500)." in said
    assert "these trained models, not the strategies" in said
    with_seeds, _ = results_of(make_sweep(tmp_path / "more", seeds=3))
    assert answer(with_seeds).endswith("Over 3 seeds of training an arm, on 40 users.")


def of_levels_and_films(folder, films, **arms):
    """Make runs of arms {strategy: (error in users' levels, error in films)}, and give the movie mean this AUC."""
    for history, (level, film) in arms.items():
        run = make_run(folder / history, history, error=0.3)
        file = run / "predictions" / "test.parquet"
        frame = pl.read_parquet(file)
        random = np.random.default_rng([len(history), 1])
        of_users = np.repeat(level * random.normal(size=40), 8)
        expected = frame["rating"].to_numpy() + of_users + film * random.normal(size=320)
        frame.with_columns(expected=expected.clip(1, 5)).write_parquet(file)
        figures = point_metrics(expected.clip(1, 5), frame["rating"].to_numpy(), frame["user"].to_numpy())
        change_metrics(run, **figures)
        content = json.loads((run / "summary.json").read_text())
        content["baselines"]["test"]["full_history"]["movie_mean"]["auc"] = films
        (run / "summary.json").write_text(json.dumps(content))


def test_the_answer_and_a_note_report_a_low_rmse_with_a_worse_order(tmp_path):
    """The history tells the user's level, and the film is forgotten."""
    of_levels_and_films(tmp_path, 0.9, none=(1.2, 0.3), all_previous=(0.1, 0.8))
    written = report([tmp_path], tmp_path)
    assert "all_previous has the lowest test RMSE" in written.answer
    assert re.search(
        r"No arm ranks a user's movies better than none \(AUC 0\.\d{4}; the highest, of all_previous, is 0\.\d{4}, "
        r"95% interval [0-9. to]+\)\. none ranks a user's movies better than the movie mean \(AUC 0\.\d{4} against "
        r"0\.9000\)\.",
        written.answer,
    )
    (note,) = [line for line in written.notes if "ranks" in line]
    assert note.startswith("NOTE: all_previous has the lowest RMSE, but ranks a user's movies worse than none (AUC 0.")
    assert note.endswith("corrected p < 0.001): compare their level and taste")
    assert note.replace("<", "\\<") in (tmp_path / "report.md").read_text()


def test_a_note_names_the_seeds_whose_models_know_nothing_of_movies(tmp_path):
    make_run(tmp_path / "none", "none")
    for seed in (0, 3):
        make_run(tmp_path / str(seed), "all_previous", seed=seed)
    file = tmp_path / "3" / "predictions" / "test.parquet"
    frame = pl.read_parquet(file).with_columns(expected=6 - pl.col("rating"))
    frame.write_parquet(file)
    change_metrics(tmp_path / "3", **point_metrics(*(frame[c].to_numpy() for c in ("expected", "rating", "user"))))
    (note,) = [line for line in report([tmp_path], tmp_path).notes if "worse than chance" in line]
    assert note.endswith("so they say next to nothing about movies: all_previous with seed 3 (0.0000)")


def test_an_order_that_may_be_better_by_chance_is_not_certain(tmp_path):
    of_levels_and_films(tmp_path, 0.999, none=(0.5, 0.5), all_previous=(0.5, 0.49))
    written = report([tmp_path], tmp_path)
    results, _ = results_of(tmp_path)
    aucs = {arm.label: auc.value for arm, auc in zip(results.paired.arms, results.of_arms["auc"], strict=True)}
    verb = "is certain to rank" if aucs["all_previous"] > aucs["none"] else "ranks"
    assert f"No arm {verb} a user's movies better than none (AUC" in written.answer
    assert "No arm ranks a user's movies better than the movie mean (AUC 0.9990; the highest, of " in written.answer


def test_the_best_possible_rmse_has_a_column_where_an_arm_has_it(tmp_path):
    file = make_run(tmp_path / "none") / "summary.json"
    make_run(tmp_path / "random", "random", {"ratio": 0.5})
    best_possible = {"test": {"own_history": {"rmse": 0.25}}}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"best_possible": best_possible}))
    written = report([tmp_path], tmp_path)
    rows = csv.DictReader((tmp_path / "results.csv").open())
    assert {row["arm"].split()[0]: row["best_possible"] for row in rows} == {"none": "0.25", "random": ""}
    for text in ((tmp_path / "report.md").read_text(), written.html.read_text()):
        assert "best possible" in text and "0.2500" in text


def test_an_arm_without_history_that_is_best_needs_no_note(tmp_path):
    make_run(tmp_path / "a", "none", error=0.5)
    make_run(tmp_path / "b", "all_previous", error=0.9)
    written = report([tmp_path], tmp_path)
    assert "No arm ranks a user's movies better than none (AUC" in written.answer
    assert not any("ranks" in line for line in written.notes)


def test_arms_of_history_alone_are_compared_with_the_movie_mean_alone(tmp_path):
    make_run(tmp_path / "a", "all_previous")
    make_run(tmp_path / "b", "fixed_count", {"count": 10}, error=0.7)
    results, _ = results_of(tmp_path)
    assert "better than none" not in answer(results) and "better than the movie mean (AUC" in answer(results)


def test_summaries_of_earlier_versions_are_read(tmp_path):
    """Without level and taste, and with baselines of RMSE and MAE alone."""
    make_sweep(tmp_path)
    later, _ = results_of(tmp_path)
    for file in tmp_path.glob("*/summary.json"):
        content = json.loads(file.read_text())
        for name in ("level", "taste"):
            del content["metrics"]["test"][name]
        for column in content["baselines"]["test"].values():
            for baseline in column:
                column[baseline] = {name: column[baseline][name] for name in ("rmse", "mae")}
        file.write_text(json.dumps(content))
    earlier, _ = results_of(tmp_path)
    for metric, found in later.of_arms.items():
        assert [one.value for one in earlier.of_arms[metric]] == pytest.approx([one.value for one in found])
    written = report([tmp_path], tmp_path)
    assert "better than none" in written.answer and "movie mean" not in written.answer
    assert written.table["taste"].is_not_null().all() and written.baselines["movie_mean"]["auc"] is None


def test_without_users_who_have_movies_to_order_there_is_no_auc(tmp_path):
    for name, history in (("a", "all_previous"), ("b", "none")):
        make_run(tmp_path / name, history, each=1)
    written = report([tmp_path], tmp_path)
    assert "ranks" not in written.answer and "Differences of AUC" not in written.html.read_text()
    assert written.table["auc"].is_null().all() and set(written.table["taste"]) == {0.0}


def change_metrics(folder, **values):
    file = folder / "summary.json"
    content = json.loads(file.read_text())
    content["metrics"]["test"] |= values
    file.write_text(json.dumps(content))


def test_the_first_sentence_reports_failed_training_or_unbeaten_baselines(tmp_path):
    make_run(tmp_path / "a" / "one", "none", error=2.0)
    make_run(tmp_path / "a" / "two", "all_previous", error=1.8)
    results, _ = results_of(tmp_path / "a")
    assert answer(results).startswith("No arm beats user mean so far (1.1000). all_previous has the lowest test RMSE")
    change_metrics(tmp_path / "a" / "one", illegal_mass=0.9999)
    results, _ = results_of(tmp_path / "a")
    assert answer(results).startswith("No arm beats")  # better than the global mean
    shutil.rmtree(tmp_path / "a" / "one")
    make_run(tmp_path / "a" / "one", "none", error=2.4)
    change_metrics(tmp_path / "a" / "one", illegal_mass=0.9999)
    results, _ = results_of(tmp_path / "a")
    assert answer(results).startswith("Not learned to rate: none (see the notes). No arm beats user mean so far")
    assert failures(results)[0].startswith("NOTE: none: the model has not learned the answer format: 100.0%")
    change_metrics(tmp_path / "a" / "two", expected_std=0.0)
    written = report([tmp_path / "a"], tmp_path / "a")
    first = "No arm has learned to rate: of all_previous, the model predicts the same rating for everything"
    assert written.answer.startswith(first)
    for page in ("report.md", "report.html"):
        text = (tmp_path / "a" / page).read_text()
        assert first in text and "NOTE: none: the model has not learned the answer format" in text


def test_shares_of_identical_histories_and_the_difference_on_untrimmed_targets(tmp_path):
    results, _ = results_of(make_sweep(tmp_path))
    labels = [arm.label for arm in results.paired.arms]
    between = results.between[labels.index("all_previous"), labels.index("fixed_count 10")]
    # Every second target of all_previous is trimmed, and histories of different strategies are never the same here.
    assert (between.untrimmed_targets, between.trimmed_targets, between.trimmed) == (160, 0, None)
    assert between.same_history == 0
    assert between.untrimmed is not None and between.untrimmed.value != between.differences["rmse"].value


def test_runs_with_other_targets_are_not_paired_and_their_differences_are_reported(tmp_path):
    make_run(tmp_path / "a", "all_previous")
    make_run(tmp_path / "b", "fixed_count", {"count": 10})
    make_run(tmp_path / "c", "none", settings={"split.seed": 43}, first_user=11)
    results, refused = results_of(tmp_path)
    assert [arm.label for arm in results.paired.arms] == ["all_previous split.seed=42", "fixed_count 10 split.seed=42"]
    (line,) = refused
    assert "80 are its alone, 80 the other's alone" in line and "split.seed: 43 against 42" in line
    written = report([tmp_path], tmp_path)
    assert line in (tmp_path / "report.md").read_text() and written.refused == refused


def test_runs_with_other_ratings_of_the_same_targets_are_not_paired(tmp_path):
    make_run(tmp_path / "a", "all_previous")
    make_run(tmp_path / "b", "none")
    file = tmp_path / "b" / "predictions" / "test.parquet"
    pl.read_parquet(file).with_columns(rating=6 - pl.col("rating")).write_parquet(file)
    _, (line,) = results_of(tmp_path)
    assert "the ratings of its targets aren't those of a" in line


def test_the_table_has_a_row_for_each_arm_and_is_reproducible_except_for_timings(tmp_path):
    make_sweep(tmp_path / "sweep", seeds=2)
    report([tmp_path / "sweep"], tmp_path / "one")
    for file in (tmp_path / "sweep").glob("*/summary.json"):
        summary = json.loads(file.read_text())
        summary["seconds"] = {"training": 99.0, "evaluation": 1.0}
        file.write_text(json.dumps(summary))
    report([tmp_path / "sweep"], tmp_path / "two")
    one, two = (list(csv.DictReader((tmp_path / name / "results.csv").open())) for name in ("one", "two"))
    assert {row["arm"] for row in one} == {"all_previous", "fixed_count 10", "none"}
    assert [row["rmse"] for row in one] == sorted(row["rmse"] for row in one)
    timing = {name for name in one[0] if name.startswith("seconds_")}
    assert timing == {"seconds_training", "seconds_evaluation"} and one != two
    assert [{k: v for k, v in row.items() if k not in timing} for row in one] == [
        {k: v for k, v in row.items() if k not in timing} for row in two
    ]


def test_caveats_are_in_the_report_and_on_the_terminal(tmp_path, capsys):
    make_run(tmp_path / "a", "all_previous", targets_seen=900)
    make_run(tmp_path / "b", "none", settings={"trainer.learning_rate": 0.5})
    file = tmp_path / "a" / "predictions" / "test.parquet"
    pl.read_parquet(file).with_columns(history_dropped=pl.when(pl.col("t") > 22).then(1).otherwise(0)).write_parquet(
        file
    )
    print_report(report([tmp_path], tmp_path))
    for text in ((tmp_path / "report.md").read_text(), capsys.readouterr().out):
        assert "NOTE: the arms trained on 900 to 1,000 targets" in text
        assert "NOTE: besides the history the arms differ in trainer.learning_rate" in text
        assert "NOTE: most test prompts are cut (all_previous trainer.learning_rate=0.01 62%)" in text


def test_the_terminal_shows_the_baselines_below_the_arms(tmp_path, capsys):
    print_report(report([make_sweep(tmp_path)], tmp_path))
    rows = [re.split(" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert ["user mean so far", "1.1000", "0.3000", "1.0580", "0.5200"] in rows


@pytest.mark.parametrize(("users", "said"), [(4, True), (5, False)])
def test_a_user_with_a_large_share_of_the_targets_is_noted(tmp_path, users, said):
    make_run(tmp_path / "a", users=users, first_user=7)
    report([tmp_path / "a"], tmp_path)
    assert ("NOTE: user 7 has 25% of the test targets" in (tmp_path / "report.md").read_text()) == said


def test_two_arms_show_their_settings_and_largest_differences(tmp_path):
    make_run(tmp_path / "a", "fixed_count", {"count": 10}, error=0.3)
    make_run(tmp_path / "b", "fixed_count", {"count": 20}, error=1.2)
    report([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    assert "history.count: 10 / 20" in html and "Where the two differ most" in html


def test_sensitivity_to_ties_is_reported_if_there_are_such_runs(tmp_path):
    make_run(tmp_path / "a", "all_previous")
    make_run(tmp_path / "b", "all_previous", error=0.7, settings={"split.ties": "strict"})
    report([tmp_path], tmp_path)
    assert "Sensitivity to ties" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("method", ["temporal", "global_time"])
def test_what_the_split_does_not_protect_is_stated(tmp_path, method):
    make_run(tmp_path / "a", "all_previous", settings={"split.method": method})
    report([tmp_path], tmp_path)
    stated = "learned from training ratings that are later than a target" in (tmp_path / "report.md").read_text()
    assert stated == (method != "global_time")


def evaluated(run: Path, rmse: float, *overrides: str, **history) -> None:
    """Save an evaluation of a made-up run."""
    folder = run / "evaluations" / ",".join(overrides)
    folder.mkdir(parents=True)
    content = {"overrides": overrides, "history": history, "metrics": {"test": {"rmse": rmse}}}
    (folder / "summary.json").write_text(json.dumps(content))


def test_a_crossed_evaluation_becomes_a_matrix(tmp_path):
    make_sweep(tmp_path)
    count = {"_target_": "mlens.history.fixed_count.FixedCount", "count": 10}
    evaluated(tmp_path / "none_0", 0.98765, "history=fixed_count", **count)
    report([tmp_path], tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "Trained under one strategy, tested under another" in html and "0.9877" in html


def test_a_cell_of_the_matrix_is_a_mean_over_seeds_and_never_over_settings(tmp_path):
    make_sweep(tmp_path, seeds=2)
    arms = make_arms(find_runs([tmp_path]))
    label = next(arm.label for arm in arms if arm.label.startswith("none"))
    own = {run.seed: run.summary["metrics"]["test"]["rmse"] for arm in arms if arm.label == label for run in arm.runs}
    none = read_run(tmp_path / "none_0").config["history"]
    rows = {"_target_": "mlens.history.random.Random", "ratio": 0.5, "draw": "per_user"}
    for seed, rmse in ((0, 0.9), (1, 0.92)):
        evaluated(tmp_path / f"none_{seed}", rmse, "history=random", **rows)
    evaluated(tmp_path / "none_0", 0.7, "history=random_per_target", **{**rows, "draw": "per_target"})
    evaluated(tmp_path / "none_0", 0.6, "prompt.max_tokens=99", **none)
    evaluated(tmp_path / "none_0", 0.1, "history=none", **none)  # the run's own settings: its own figure
    table = crossed_table(arms)
    cells = dict(zip(table["columns"], next(row for row in table["rows"] if row[0] == label)[1:], strict=True))
    assert {name: value for name, value in cells.items() if value} == {
        "none": f"{sum(own.values()) / 2:.4f}",
        "random 0.5 draw=per_user": "0.9100",
        "random 0.5 draw=per_target": "0.7000 (1 of 2 seeds)",
        "none prompt.max_tokens=99": "0.6000 (1 of 2 seeds)",
    }


@pytest.mark.parametrize("folders", [["missing"], ["a", "missing"]])
def test_the_command_reports_a_missing_folder_in_one_line(tmp_path, folders, monkeypatch, capsys):
    make_run(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["comparison", *folders])
    with pytest.raises(SystemExit) as ended:
        main()
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.startswith("error: no such folder: missing")
    assert line.count("\n") == 1 and not (tmp_path / "comparison").exists()


def test_the_command_writes_into_the_sweeps_folder(tmp_path, monkeypatch, capsys):
    make_sweep(tmp_path / "sweep")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["comparison", "sweep"])
    monkeypatch.setenv("COLUMNS", "80")
    main()
    printed = capsys.readouterr().out
    assert re.search(r"\n all_previous +\d  0\.\d{4}  0\.\d+ to 0\.\d+  0\.\d{4} .*\n", printed)  # one line an arm
    assert "all_previous has the lowest test RMSE" in printed and "sweep/report.html" in printed
    assert "\nSmallest detectable difference of RMSE: 0." in printed
    assert {file.name for file in (tmp_path / "sweep").iterdir() if file.is_file()} == {
        "report.html",
        "report.md",
        "results.csv",
        "pairs.csv",
    }


def test_runs_whose_base_models_seed_is_their_seed_are_one_arm(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"own_{seed}", seed=seed, settings={"model.base": {"seed": seed}})
    (arm,) = make_arms(find_runs([tmp_path]))
    assert [run.seed for run in arm.runs] == [0, 1]
    results, _ = results_of(tmp_path)
    assert scope(results) == "Over 2 seeds of base model and training an arm, on 40 users."
    make_run(tmp_path / "other", seed=2, settings={"model.base": {"seed": 0}})
    labels = [arm.label for arm in make_arms(find_runs([tmp_path]))]
    assert labels == ["none model.base.seed=0", "none model.base.seed=1"]
