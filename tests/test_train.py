"""train.py end to end, small: what a run leaves behind, on one and two ranks, killed and resumed."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mlens.engine.engine import Engine
from mlens.engine.manifest import checkpoint_name, read_manifest, saved_steps
from mlens.errors import UserError, exit_on_user_error
from mlens.evaluation.reevaluate import reevaluate
from mlens.model.settings import Lora, TinyModel
from mlens.training.exported import read_exported
from mlens.training.journal import Journal, intact_records
from tests.helpers.runs import (
    FAST,
    ROOT,
    child_environment,
    command,
    composed,
    records_of,
    run_here,
    summary_of,
    train,
    train_command_here,
    train_here,
)
from tests.helpers.steps import answer_log_probabilities

RANDOM = (*FAST, "history=random")
# Summary keys and versions that scripts may rely on.
SUMMARY = {"fingerprint", "overrides", "metrics", "baselines", "counts", "seconds", "peak_memory_bytes", "versions"}


@pytest.fixture(scope="module")
def phases() -> list[str]:
    """What the run `finished` said that it does, in order."""
    return []


@pytest.fixture(scope="module")
def finished(tmp_path_factory, phases):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    set_phase = Journal.set_phase
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Journal, "set_phase", lambda journal, phase: (phases.append(phase), set_phase(journal, phase)))
        run_here(folder, *RANDOM)
    return folder


def files_of(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_what_the_design_names(finished):
    files = files_of(finished)
    assert {
        *(".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml", "plan.json", "summary.json"),
        *("training_logs/detailed_training_log.txt", "training_logs/metrics.jsonl"),
        *("predictions/val.parquet", "predictions/test.parquet", "model/config.json", "model/tokenizer.json"),
    } <= files
    assert {"last", "best"} < {path.name for path in (finished / "checkpoints").iterdir()}
    assert not [name for name in files if ".new" in name or ".old" in name]


def test_a_run_says_what_it_does_for_who_follows_its_folder(finished, phases):
    validation = ["training", "validating"]
    assert phases == [*validation, *validation, "training", "testing", "baselines"]
    assert (finished / "training_logs" / "phase").read_text() == "baselines"


def test_every_checkpoint_knows_which_records_were_written_before_it(finished):
    content = (finished / "training_logs" / "metrics.jsonl").read_bytes()
    steps = saved_steps(finished / "checkpoints")
    for step in steps:
        saved, _ = read_manifest(finished / "checkpoints" / checkpoint_name(step))
        assert intact_records(content, step, None) == (content[: saved.state["records"]], False)
    assert steps


def test_the_summary_holds_what_scripts_rely_on(finished):
    summary = summary_of(finished)
    assert set(summary) >= SUMMARY
    for stage in ("val", "test"):
        assert set(summary["metrics"][stage]) >= {
            *("rmse", "mae", "level", "taste", "auc", "ndcg_10", "user_rmse"),
            *("accuracy", "nll", "calibration_error", "illegal_mass"),
            *("by_history_length", "by_user_activity", "by_movie_popularity"),
        }
        assert set(summary["baselines"][stage]) == {"full_history", "own_history"}
        for column in summary["baselines"][stage].values():
            assert set(column) >= {"global_mean", "movie_mean", "user_mean_so_far", "biases", "recent_biases"}
            assert all(set(of) == {"rmse", "mae", "level", "taste", "auc", "ndcg_10"} for of in column.values())
    assert summary["overrides"][:2] == list(RANDOM)
    assert summary["counts"]["ranks"] == 1 and summary["made_up_data"]
    assert set(summary["versions"]) >= {"mlens", "torch", "transformers", "deepspeed"}
    assert summary["peak_memory_bytes"] > 0 and summary["seconds"]["training"] > 0


def test_the_summarys_metrics_are_those_of_the_predictions(finished):
    summary = summary_of(finished)
    for stage in ("val", "test"):
        frame = pl.read_parquet(finished / "predictions" / f"{stage}.parquet")
        error = frame["expected"].to_numpy() - frame["rating"].to_numpy()
        assert summary["metrics"][stage]["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
        assert summary["counts"]["targets"][stage] == len(frame)


def test_the_exported_model_is_the_best_one_and_gives_the_predictions(finished):
    records = records_of(finished, "val")
    best = min(records, key=lambda record: record["rmse"])
    summary = summary_of(finished)
    assert summary["training"]["best_step"] == best["step"]
    assert summary["metrics"]["val"]["rmse"] == pytest.approx(best["rmse"])
    model = AutoModelForCausalLM.from_pretrained(finished / "model").float()
    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    made = dataset_of(finished, "test")
    frame = pl.read_parquet(finished / "predictions" / "test.parquet")
    for i in (0, 7, 13):
        prompt = tokenizer(made.text(i))["input_ids"]
        answers = [[*tokenizer(str(rating))["input_ids"], tokenizer.eos_token_id] for rating in made.table.scale]
        with torch.no_grad():
            scores = np.exp([float(answer_log_probabilities(model, prompt, answer).sum()) for answer in answers])
        given = [frame[f"p_{rating}"][i] for rating in made.table.scale]
        assert given == pytest.approx(scores / scores.sum(), abs=1e-5)


def dataset_of(folder, stage):
    from tests.helpers import steps

    overrides = json.loads((folder / "summary.json").read_text())["overrides"][1:]
    small, steps.SMALL = steps.SMALL, FAST
    try:
        return steps.parts(*overrides, "packing.row_tokens=1024").datasets[stage]
    finally:
        steps.SMALL = small


def test_the_first_hundred_lines_of_the_log_show_lengths_and_a_history(finished):
    lines = (finished / "training_logs" / "detailed_training_log.txt").read_text().splitlines()[:100]
    assert lines[0].startswith("Prompt lengths in tokens") and "[HISTORICAL_RATINGS]" in lines


def test_every_step_is_recorded_with_row_length_and_memory(finished):
    records = records_of(finished)
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert all(record["row_tokens"] > 0 and record["peak_memory_bytes"] > 0 for record in records)
    assert [record["step"] for record in records_of(finished, "val")] == [2, 4]


def test_the_plan_is_the_runs(finished):
    plan = json.loads((finished / "plan.json").read_text())
    assert plan["steps"] == 4 and set(plan["stages"]) == {"train", "val", "test"}


def test_the_same_run_again_gives_the_same_numbers(finished, tmp_path):
    again = run_here(tmp_path / "again", *RANDOM)
    before = summary_of(finished)
    assert again["fingerprint"] == before["fingerprint"]
    assert again["metrics"] == before["metrics"] and again["baselines"] == before["baselines"]
    assert [r["loss"] for r in records_of(tmp_path / "again")] == [r["loss"] for r in records_of(finished)]


def test_a_finished_run_is_not_run_again(finished):
    before = {name: (finished / name).stat().st_mtime_ns for name in files_of(finished)}
    with pytest.raises(UserError, match="finished"):
        train_here(composed(*RANDOM, f"output_dir={finished}", "resume=true"))
    assert {name: (finished / name).stat().st_mtime_ns for name in files_of(finished)} == before


def test_zero_steps_evaluate_the_model_as_it_is(tmp_path):
    summary = run_here(tmp_path / "zero", *FAST, "trainer.max_steps=0", "history=fixed_count")
    assert summary["training"]["step"] == 0 and records_of(tmp_path / "zero") == []
    frame = pl.read_parquet(tmp_path / "zero" / "predictions" / "test.parquet")
    scale = [name for name in frame.columns if name.startswith("p_")]
    assert frame.select(scale).to_numpy().sum(axis=1) == pytest.approx(np.ones(len(frame)))


def test_without_validation_a_run_ends_with_its_last_model(tmp_path):
    summary = run_here(tmp_path / "run", *FAST, "split.val_ratio=0")
    assert set(summary["metrics"]) == {"test"} and not (tmp_path / "run" / "predictions" / "val.parquet").exists()


@pytest.mark.slow
def test_reference_rows_end_where_packed_ones_do(tmp_path):
    packed = run_here(tmp_path / "packed", *RANDOM, "trainer.optimizer=adamw", "trainer.learning_rate=1e-3")
    plain = run_here(
        *(tmp_path / "plain", *RANDOM, "trainer.optimizer=adamw", "trainer.learning_rate=1e-3"),
        *("~packing.row_tokens", "packing=reference", "model.attention=sdpa"),
    )
    losses = [[record["loss"] for record in records_of(tmp_path / name)] for name in ("packed", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert packed["metrics"]["test"]["rmse"] == pytest.approx(plain["metrics"]["test"]["rmse"], rel=1e-3)


@pytest.mark.parametrize("peft", ["lora", pytest.param("dora", marks=pytest.mark.slow)])
def test_a_run_with_adapters_exports_them_alone(tmp_path, peft):
    run_here(tmp_path / "run", *FAST, f"peft={peft}", "peft.r=2", "trainer.optimizer=adamw")
    exported = read_exported(tmp_path / "run")
    assert (exported.peft, type(exported.model)) == (Lora(), TinyModel)
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_bfloat16_run(tmp_path, stage):
    summary = run_here(tmp_path / "run", *FAST, "model.dtype=bfloat16", f"deepspeed=zero{stage}")
    assert 0 < summary["metrics"]["test"]["rmse"] < 4.5


@pytest.mark.parametrize(
    "loss",
    ["ordinal", pytest.param("expected", marks=pytest.mark.slow), pytest.param("ce+expected", marks=pytest.mark.slow)],
)
def test_a_run_lowers_each_loss_over_the_legal_ratings(loss, tmp_path):
    steps = ("trainer.max_steps=16", "trainer.validate_every_steps=16", "history=none")
    run_here(tmp_path / "run", *FAST, f"trainer.loss={loss}", *steps)
    losses = [record["loss"] for record in records_of(tmp_path / "run")]
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])


def test_a_loss_that_is_not_finite_ends_the_run_without_a_summary(tmp_path, capsys, monkeypatch):
    backward, rows = Engine.backward, []

    def broken(self, *row):
        rows.append(row)
        return backward(self, *row) * (float("nan") if len(rows) > 2 else 1.0)

    monkeypatch.setattr(Engine, "backward", broken)
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as caught, exit_on_user_error():
        train_here(composed(*FAST, "trainer.checkpoint.every_steps=1", f"output_dir={folder}"))
    assert caught.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"error: the loss of step \d+ is nan, .*user \S+ movie \S+", line)
    assert (folder / "checkpoints" / "last").is_dir() and not (folder / "summary.json").exists()
    assert all(math.isfinite(record["loss"]) for record in records_of(folder))
    monkeypatch.setattr(Engine, "backward", backward)
    assert run_here(folder, *FAST, "trainer.checkpoint.every_steps=1", "resume=true")["training"]["step"] == 4


@pytest.mark.parametrize("fails", ["the second parquet", "nothing"])
def test_the_summary_is_written_last(tmp_path, monkeypatch, fails):
    order = []
    parquet = pl.DataFrame.write_parquet

    def write(frame, file, *more):
        order.append(file)
        assert not (tmp_path / "run" / "summary.json").exists()
        if fails == "the second parquet" and len(order) == 2:
            raise OSError("disk full")
        return parquet(frame, file, *more)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", write)
    if fails == "the second parquet":
        with pytest.raises(OSError):
            run_here(tmp_path / "run", *FAST, "trainer.max_steps=0")
        assert not (tmp_path / "run" / "summary.json").exists()
    else:
        run_here(tmp_path / "run", *FAST, "trainer.max_steps=0")
        newest = max(files_of(tmp_path / "run"), key=lambda name: (tmp_path / "run" / name).stat().st_mtime_ns)
        assert newest == "summary.json"


LONG = (*RANDOM, "trainer.max_steps=12", "trainer.validate_every_steps=4", "trainer.checkpoint.every_steps=1")


def killed_run(folder, *overrides, after=6):
    """A run in a process of its own that is killed when it has made so many steps."""
    run = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides, f"output_dir={folder}"],
        env=child_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics, until = folder / "training_logs" / "metrics.jsonl", time.monotonic() + 200
    while not metrics.exists() or metrics.read_text().count('"train"') < after:
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    """What a SIGKILL would leave is what the folder holds at that moment."""
    finite, steps = Engine.finite, []

    def copied(engine):
        steps.append(engine)
        if len(steps) == 7:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed", symlinks=True)
        return finite(engine)

    monkeypatch.setattr(Engine, "finite", copied)
    whole = run_here(tmp_path / "whole", *LONG)
    monkeypatch.undo()
    assert len(records_of(tmp_path / "killed")) == 6 and not (tmp_path / "killed" / "summary.json").exists()
    with pytest.raises(UserError, match="resume=true"):
        train_here(composed(*LONG, f"output_dir={tmp_path}/killed"))
    with pytest.raises(UserError, match=r"history\.ratio"):
        train_here(composed(*LONG, "history.ratio=0.4", f"output_dir={tmp_path}/killed", "resume=true"))
    resumed = run_here(tmp_path / "killed", *LONG, "resume=true")
    for kind, fields in (("train", ("step", "loss", "epoch", "learning_rate")), ("val", ("step", "rmse", "best_rmse"))):
        told = [[[r[f] for f in fields] for r in records_of(tmp_path / name, kind)] for name in ("killed", "whole")]
        assert told[0] == told[1]
    assert resumed["metrics"] == whole["metrics"] and resumed["fingerprint"] == whole["fingerprint"]
    assert resumed["training"]["best_step"] == whole["training"]["best_step"]


def test_the_command_ends_with_the_name_of_the_summary_and_takes_local_rank(tmp_path):
    words = ("--local_rank=0", *FAST, "trainer.max_steps=1", "history=none", f"output_dir={tmp_path}/run")
    result = train_command_here(*words)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(tmp_path / "run" / "summary.json")
    assert "made up" in result.stdout and "this model" in result.stdout
    # Nothing stands before the table: what goes on is told on stderr.
    assert result.stdout.lstrip().startswith("history=none data=sample model=tiny: 1 steps")
    assert "fitting baselines to " in result.stderr and "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """(folder of a run of two ranks, what they printed): it is trained, and evaluated under history=none."""
    folder = tmp_path_factory.mktemp("two_ranks") / "two"
    words = (str(ROOT / "tests" / "helpers" / "two_ranks.py"), *RANDOM, "wandb.mode=offline", f"output_dir={folder}")
    result = command(*words, ranks=2, cwd=folder.parent, WANDB_SILENT="true")
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_two_ranks_do_the_same_run_and_rank_0_alone_writes(finished, two_ranks):
    (two, printed), one = two_ranks, finished
    assert printed.splitlines().count(str(two / "summary.json")) == 1
    assert [path.name for path in two.parent.iterdir()] == ["two"]
    assert len(list((two / "wandb").glob("offline-run-*"))) == 1
    assert not (one / "wandb").exists()
    assert summary_of(two)["counts"]["ranks"] == 2
    for kind, field in (("train", "loss"), ("val", "rmse")):
        records = [records_of(folder, kind) for folder in (two, one)]
        assert [r["step"] for r in records[0]] == [r["step"] for r in records[1]]
        assert [r[field] for r in records[0]] == pytest.approx([r[field] for r in records[1]], rel=1e-3)
    for stage in ("val", "test"):
        a, b = (pl.read_parquet(folder / "predictions" / f"{stage}.parquet") for folder in (two, one))
        same = ("user", "movie", "t", "history_used", "history_hash")
        assert a.select(same).equals(b.select(same))


def test_two_ranks_evaluate_as_one_does_and_say_once_where_they_wrote(two_ranks):
    two, printed = two_ranks
    folder = two / "evaluations" / "history=none"
    lines = printed.splitlines()
    *table, last = lines[lines.index(str(two / "summary.json")) + 1 :]
    assert last == str(folder / "summary.json") and sum("test rmse" in line for line in table) == 1
    alone = reevaluate(two, ["history=none", "packing.row_tokens=1024"]).parent
    of_two, of_one = (pl.read_parquet(path / "predictions" / "test.parquet") for path in (folder, alone))
    floats = [name for name, kind in of_two.schema.items() if kind.is_float()]
    assert of_two.drop(floats).equals(of_one.drop(floats))
    np.testing.assert_allclose(of_two.select(floats), of_one.select(floats), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_zero_3_on_two_ranks(finished, tmp_path):
    result = train(*RANDOM, "deepspeed=zero3", f"output_dir={tmp_path}/two", ranks=2)
    assert result.returncode == 0, result.stderr
    losses = [[record["loss"] for record in records_of(folder)] for folder in (tmp_path / "two", finished)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    AutoModelForCausalLM.from_pretrained(tmp_path / "two" / "model")


@pytest.mark.slow
def test_a_checkpoint_of_another_number_of_ranks_is_refused_in_one_line(tmp_path):
    killed_run(tmp_path / "run", *LONG)
    result = train(*LONG, f"output_dir={tmp_path}/run", "resume=true", ranks=2)
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "ranks" in line


@pytest.mark.slow
def test_the_deepspeed_launcher_starts_it(tmp_path):
    result = subprocess.run(
        [
            *(sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", str(ROOT / "train.py")),
            *(*RANDOM, f"output_dir={tmp_path}/run"),
        ],
        env=child_environment(DS_ACCELERATOR="cpu"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert summary_of(tmp_path / "run")["counts"]["ranks"] == 2


@pytest.mark.slow
def test_compiled_layers_train_to_the_same_losses(tmp_path):
    losses = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        done = train(*FAST, f"model.compile={str(compiled).lower()}", f"output_dir={folder}")
        assert done.returncode == 0, done.stderr
        losses.append([record["loss"] for record in records_of(folder)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_resume_auto_starts_a_run_continues_it_and_ends_at_once_where_it_is_finished(tmp_path, capsys):
    run = ["trainer.checkpoint.every_steps=1", *FAST, f"output_dir={tmp_path}/run", "resume=auto"]

    def auto(*overrides):
        rmse = train_here(composed(*run, *overrides))
        return rmse, capsys.readouterr().err

    first, told = auto()
    assert "resumed" not in told and "starts over" not in told
    summary = summary_of(tmp_path / "run")
    before = {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in files_of(tmp_path / "run")}
    again, told = auto()
    assert again == first == summary["metrics"]["val"]["rmse"] and "finished" in told
    assert {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in files_of(tmp_path / "run")} == before
    for change in ("seed=1", "trainer.max_steps=5"):
        with pytest.raises(UserError, match="holds a finished run with other settings"):
            auto(change)
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(UserError, match="seed"):
        auto("seed=1")
    third, told = auto()
    assert "resumed after step 4" in told and third == first
    assert summary_of(tmp_path / "run")["metrics"] == summary["metrics"]


def test_resume_auto_needs_a_folder_and_resume_a_known_word():
    with pytest.raises(UserError, match=r"resume=auto needs .* output_dir"):
        train_here(composed(*FAST, "resume=auto"))
    with pytest.raises(UserError, match="resume must be true, false or auto, not maybe"):
        train_here(composed(*FAST, "resume=maybe"))
