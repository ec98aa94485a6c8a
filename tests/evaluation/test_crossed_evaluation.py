"""Evaluation of a trained model under another strategy than in training."""

import json

import polars as pl
import pytest

from mlens.cli.evaluate import COMPARED, main, print_with_run
from mlens.compose import run_config
from mlens.config import check_config
from mlens.errors import UserError
from mlens.evaluation.reevaluate import reevaluate
from mlens.model.exported_tokenizer import load_exported_tokenizer
from mlens.model.load import ParamPlacement, load_trained
from tests.helpers.runs import run_here, summary_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "all"
    run_here(folder, "debug=fast", "history=all_previous", "trainer.max_steps=2")
    return folder


def test_under_the_same_strategy_the_metrics_are_those_of_the_run(run):
    file = reevaluate(run, ["history=all_previous"])
    assert file == run / "evaluations" / "history=all_previous" / "summary.json"
    found, of_run = summary_of(file.parent), summary_of(run)
    for stage in ("val", "test"):
        assert found["metrics"][stage].pop("by_history_length") == of_run["metrics"][stage].pop("by_history_length")
        assert found["metrics"][stage]["rmse"] == pytest.approx(of_run["metrics"][stage]["rmse"], abs=1e-6)
    before, after = (pl.read_parquet(f / "predictions" / "test.parquet") for f in (run, file.parent))
    assert before["history_hash"].equals(after["history_hash"])


def test_under_another_strategy_targets_are_the_same_and_histories_differ(run):
    file = reevaluate(run, ["history=fixed_count", "history.count=2"])
    found = summary_of(file.parent)
    assert found["history"] == {"_target_": "mlens.history.fixed_count.FixedCount", "count": 2, "stride": 1}
    before, after = (pl.read_parquet(f / "predictions" / "test.parquet") for f in (run, file.parent))
    assert before.select("user", "movie", "t").equals(after.select("user", "movie", "t"))
    assert after["history_used"].max() == 2 < before["history_used"].max()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["split.seed=3"], "split.seed can't differ"),
        (["seed=3"], "seed can't differ"),
        (["history=bogus"], "bogus"),
        (["history=random", "history.ratio=2"], "history.ratio"),
        (["history"], "history"),
    ],
)
def test_overrides_that_change_targets_or_are_invalid_are_refused(run, overrides, message):
    before = {path.name for path in (run / "evaluations").glob("*")}
    with pytest.raises(UserError, match=message):
        reevaluate(run, overrides)
    assert {path.name for path in (run / "evaluations").glob("*")} == before


def test_the_command_prints_its_output_path_and_refuses_to_overwrite(run, monkeypatch, capsys):
    """On two ranks: tests/test_train.py."""
    monkeypatch.setattr("sys.argv", ["evaluation", str(run), "history=none"])
    main()
    *table, last = capsys.readouterr().out.splitlines()
    assert last == str(run / "evaluations" / "history=none" / "summary.json")
    assert sum("test rmse" in line for line in table) == 1
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2
    assert "holds this evaluation already" in capsys.readouterr().err.splitlines()[-1]


def test_its_metrics_are_printed_with_those_of_the_run(tmp_path, capsys):
    figures = dict.fromkeys(COMPARED, 0.5)
    baselines = {"test": {"full_history": {"global_mean": {"rmse": 0.7}}}}
    of_run = {"metrics": {"val": figures, "test": {**figures, "rmse": 0.6, "auc": "high"}}, "baselines": baselines}
    summary = tmp_path / "other.json"
    summary.write_text(json.dumps({"metrics": {"val": figures, "test": {**figures, "rmse": 0.75, "nll": None}}}))
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(of_run))
    print_with_run(tmp_path, summary)
    printed = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith("│")}
    cells = {name: [cell.strip() for cell in row.split("│")[2:-1]] for name, row in rows.items()}
    assert list(cells) == [f"{stage} {name}" for stage in ("val", "test") for name in COMPARED]
    assert cells["val rmse"] == ["0.5000", "0.5000", "+0.0000"]
    assert cells["test rmse"] == ["0.6000", "0.7500", "+0.1500"]
    assert cells["test auc"] == ["", "0.5000", ""] and cells["test nll"] == ["0.5000", "", ""]
    assert "NOTE: the model is worse than predicting the global mean (RMSE 0.7500 against 0.7000)" in printed
    for edited in ("{", "[]"):
        file.write_text(edited)
        print_with_run(tmp_path, summary)
        assert "0.7500" in capsys.readouterr().out


def test_an_interrupted_evaluation_leaves_no_files(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlens.evaluation.reevaluate.evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reevaluate(run, ["history=random"])
    assert not (run / "evaluations" / "history=random").exists()


def test_settings_of_training_alone_are_not_applied_to_the_model(run):
    config = run_config(run, ["model.gradient_checkpointing=true", "model.compile=true"], ("model",))
    model = load_trained(
        check_config(config), run / "model", load_exported_tokenizer(run / "model"), ParamPlacement(), None
    )
    assert not model.is_gradient_checkpointing
    assert all(module._compiled_call_impl is None for module in model.modules())


def test_a_run_that_is_not_finished_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        reevaluate(tmp_path, ["history=none"])
