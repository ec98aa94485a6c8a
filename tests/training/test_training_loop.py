"""The steps at which the loop validates, saves and stops, with a counting engine and scripted validations."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import pytest
import torch

import mlens.training.loop as loop
from mlens.engine.stop import StopRequest
from mlens.errors import RunFailed, Stopped
from mlens.evaluation.evaluate import EvaluationResult
from mlens.packing.epoch_plan import plan_epoch
from mlens.training.folder import RunFolder
from mlens.training.loop import Training
from mlens.training.progress import Progress, StepRecord
from mlens.training.settings import Checkpoint, EarlyStopping, Trainer
from tests.helpers.steps import parts


class CountingEngine:
    """An engine that records the learning rates and counts the rows."""

    def __init__(self, ranks, loss=1.0, all_finite=None):
        self.ranks, self.loss, self.all_finite = ranks, loss, all_finite or repeat(True)
        self.rates, self.rows = [], 0

    def set_learning_rate(self, factor):
        self.rates.append(factor)
        return factor

    def backward(self, row, labels, last):
        self.rows += 1
        return torch.tensor(self.loss(self.rows) if callable(self.loss) else self.loss)

    def finite(self):
        return next(self.all_finite)


class KeptCheckpoints(list):
    """(step, the best model's step) of each checkpoint."""

    def __init__(self, *_):
        super().__init__()

    def save(self, step, state, needs):
        assert state["progress"]["step"] == step
        self.append((step, needs))


class Notes:
    """A journal that keeps its records in memory."""

    enabled = True

    def __init__(self):
        self.records = []

    def begin(self, *_):
        return 0

    advance = end = log = set_phase = begin

    def follow(self, _):
        return lambda done: None

    def sync(self):
        return 0

    def record(self, kind, step, **values):
        self.records.append((kind, step, values))


@pytest.fixture(scope="module")
def made():
    return parts("history=fixed_count", "data.max_users=4")


@pytest.fixture
def run(made, monkeypatch):
    """run(rmses, trainer fields) -> (training, steps at which it validated)."""

    def run(rmses, loss=1.0, progress=None, without=(), all_finite=None, stop=None, **fields):
        rmses, validated = iter(rmses), []
        defaults = {"targets_per_step": 8, "loader_workers": 0, "warmup_steps": 0, "max_epochs": 1000}
        trainer = Trainer(**defaults | fields)
        datasets = {name: dataset for name, dataset in made.datasets.items() if name not in without}
        training = Training(
            CountingEngine(made.ranks, loss, all_finite),
            datasets,
            made.collator,
            replace(made.settings, trainer=trainer),
            folder=RunFolder(Path("run")),
            journal=Notes(),
            stop=stop or StopRequest(),
            progress=progress or Progress(),
        )

        def scripted(engine, datasets, collator, draws, progress):
            progress(sum(map(len, datasets)))
            names = [dataset.stage.name for dataset in datasets]
            training.evaluated.append(names)
            if "val" in names:
                validated.append(training.progress.step)
            rmse = next(rmses) if "val" in names else 0.0
            return [EvaluationResult({"rmse": rmse}, None) for _ in datasets]

        training.evaluated = []
        monkeypatch.setattr(loop, "evaluate", scripted)
        monkeypatch.setattr(loop, "Checkpoints", KeptCheckpoints)
        training.run()
        return training, validated

    return run


def stopping(patience, threshold=0.001):
    return {"early_stopping": EarlyStopping(patience, threshold), "validate_every_steps": 1}


def test_patience_counts_validations_in_a_row_without_gain(run):
    training, validated = run([1.0, 0.9, 0.95, 0.89, 0.9, 0.9, 0.9, 0.1], **stopping(3))
    assert validated == [1, 2, 3, 4, 5, 6, 7]
    assert (training.progress.best_rmse, training.progress.best_step) == (0.89, 4)


def test_a_gain_below_the_threshold_is_the_best_but_does_not_delay_the_end(run):
    training, validated = run([1.0, 0.9995, 0.999, 0.5], **stopping(2))
    assert validated == [1, 2, 3]
    assert (training.progress.best_rmse, training.progress.best_step) == (0.999, 3)


def test_a_gain_of_just_the_threshold_does_not_count(run):
    _, validated = run([1.0, 0.5, 0.0], **stopping(1, threshold=0.5))
    assert validated == [1, 2]
    _, validated = run([1.0, 0.4375, 0.4375], **stopping(1, threshold=0.5))
    assert validated == [1, 2, 3]


def test_a_validation_saves_once_and_names_the_best_models_checkpoint(run):
    training, _ = run([1.0, 1.2, 0.9, 0.9], max_steps=4, **stopping(9))
    assert training.checkpoints == [(1, 1), (2, 1), (3, 3), (4, 3)]


def test_a_validation_that_is_not_a_number_is_never_the_best(run):
    nan = float("nan")
    training, validated = run([nan, 1.0, nan, nan], **stopping(2))
    assert validated == [1, 2, 3, 4] and training.progress.best_rmse == 1.0


def test_steps_are_validated_when_due_and_once_at_the_end(run):
    training, validated = run([1.0] * 9, max_steps=5, validate_every_steps=2)
    assert validated == [2, 4, 5] and training.progress.step == 5
    _, validated = run([1.0] * 9, max_steps=4, validate_every_steps=2)
    assert validated == [2, 4]


@pytest.mark.parametrize("steps", [0, 3])
def test_a_single_validation_scores_the_test_targets_too(run, steps):
    training, _ = run([1.0], max_steps=steps)
    assert training.evaluated == [["val", "test"]] and list(training.best) == ["val", "test"]
    assert training.evaluate_best() == training.best and training.evaluated == [["val", "test"]]
    training.best = {}  # as in the process of a run that was resumed after its end
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "evaluate", lambda _, datasets, *rest: [[one.stage.name for one in datasets]] * 2)
        assert training.evaluate_best() == {"val": ["val", "test"], "test": ["val", "test"]}


def test_of_several_validations_the_best_is_kept_and_test_targets_are_scored_alone(run):
    training, _ = run([1.0, 0.8], max_steps=2, validate_every_steps=1)
    assert training.best["val"].metrics == {"rmse": 0.8} and training.evaluated == [["val"], ["val"]]
    training.evaluate_best()
    assert training.evaluated[2:] == [["test"]] and list(training.best) == ["val", "test"]


def test_a_later_validation_that_is_worse_leaves_the_best(run):
    training, _ = run([0.7, 0.8], max_steps=2, validate_every_steps=1)
    assert training.best["val"].metrics == {"rmse": 0.7}


def test_epochs_are_validated_at_their_ends(run, made):
    per_epoch = -(-len(made.datasets["train"]) // 8)
    training, validated = run([1.0, 0.9, 0.8], max_epochs=3)
    assert validated == [per_epoch, 2 * per_epoch, 3 * per_epoch]
    assert training.progress.targets == 3 * len(made.datasets["train"])


def test_every_epoch_visits_every_target_once(run, made, monkeypatch):
    seen, true = Counter(), StepRecord.add

    def counted(self, planned, loss, row):
        assert row.scores == len(planned.targets)
        seen.update(planned.targets)
        true(self, planned, loss, row)

    monkeypatch.setattr(StepRecord, "add", counted)
    run([1.0, 0.9], max_epochs=2)
    assert seen == Counter(dict.fromkeys(range(len(made.datasets["train"])), 2))


def test_the_history_loss_weight_and_the_pieces_of_a_step_are_the_trainers(run, made, monkeypatch):
    planned, weights = [], set()
    true = StepRecord.add

    def noted(self, row_planned, loss, row):
        planned.append(row_planned)
        weights.update(row.weight.tolist())
        true(self, row_planned, loss, row)

    monkeypatch.setattr(StepRecord, "add", noted)
    dataset, plain = made.datasets["train"], {}
    for pieces in (1, 8):
        planned.clear()
        run([1.0], max_steps=3, users_per_step=pieces, history_loss_weight=0.25)
        steps = Trainer(targets_per_step=8, users_per_step=pieces, history_loss_weight=0.25).steps()
        plain[pieces] = list(plan_epoch(dataset, made.collator, steps, dataset.seed, 0, 0, 1))[: len(planned)]
        assert [(row.targets, row.labels) for row in planned] == [(row.targets, row.labels) for row in plain[pieces]]
    assert weights == {1.0, 0.25}
    assert plain[1][0].targets != plain[8][0].targets


def test_checkpoints_are_also_written_when_due(run):
    training, _ = run([1.0] * 9, max_steps=5, validate_every_steps=4, checkpoint=Checkpoint(2))
    assert training.checkpoints == [(2, None), (4, 4), (5, 4)]


def test_without_steps_the_model_is_validated_as_it_is(run):
    training, validated = run([1.0], max_steps=0)
    assert validated == [0] and training.engine.rows == 0
    assert training.checkpoints == [(0, 0)]


def test_without_validation_targets_it_trains_to_the_end(run):
    training, validated = run([], max_steps=3, validate_every_steps=1, without=("val",))
    assert validated == [] and training.progress.step == 3 and training.progress.best_rmse is None
    assert training.checkpoints == [(1, None), (2, None), (3, None)]


def test_the_rate_of_a_step_is_that_of_the_runs_schedule(run):
    training, _ = run([1.0] * 9, max_steps=4, schedule="linear", warmup_steps=2, validate_every_steps=4)
    steps = [values["learning_rate"] for kind, _, values in training.journal.records if kind == "train"]
    assert steps == [0.5, 1.0, 1.0, 0.5]


def test_a_resumed_loop_continues_inside_its_epoch(run, made):
    uninterrupted, _ = run([1.0] * 9, max_steps=9, validate_every_steps=9)
    half = Progress(step=5, step_in_epoch=5, targets=40, seconds=1.0, validated_step=-1)
    rest, _ = run([1.0] * 9, max_steps=9, validate_every_steps=9, progress=half)
    kept = ("epoch", "targets", "row_tokens", "learning_rate", "loss")

    def records_of(training):
        return [(step, [values[k] for k in kept]) for kind, step, values in training.journal.records if kind == "train"]

    assert records_of(rest) == records_of(uninterrupted)[5:]


@pytest.mark.parametrize("epochs_done", [0, 1])
def test_a_checkpoint_at_the_end_of_an_epoch_resumes_with_the_next(run, made, epochs_done):
    per_epoch = -(-len(made.datasets["train"]) // 8)
    inside = {"epoch": 1, "validated_step": per_epoch} if epochs_done else {"step_in_epoch": per_epoch}
    training, validated = run(
        [1.0] * 9, max_steps=per_epoch + 1, progress=Progress(step=per_epoch, seconds=1.0, **inside)
    )
    records = [(step, values["epoch"]) for kind, step, values in training.journal.records if kind == "train"]
    assert records == [(per_epoch + 1, 1)]
    # The checkpoint was saved before the validation of its epoch, which is still due.
    assert validated == ([per_epoch + 1] if epochs_done else [per_epoch, per_epoch + 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_step_and_targets(run, made, value):
    with pytest.raises(RunFailed) as caught:
        run([1.0] * 9, loss=lambda row: value if row > 5 else 1.0, max_steps=20, validate_every_steps=2)
    line = str(caught.value)
    assert "step" in line and "user" in line and "movie" in line and "learning_rate" in line and "\n" not in line


def test_a_gradient_that_is_not_finite_stops_before_anything_is_saved_of_its_step(run):
    with pytest.raises(RunFailed, match=r"gradient of step 3 isn't finite.*user .* movie"):
        run([1.0] * 9, all_finite=iter([True, True, False]), max_steps=20, validate_every_steps=1)


class AskedAfter:
    """A signal that arrives at the nth check of the loop."""

    def __init__(self, times):
        self.left = times

    def agreed(self, ranks):
        self.left -= 1
        return self.left < 0


@pytest.mark.sampled(5)
@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("times", [0, 1, 2, 3, 5, 8])
def test_a_run_stopped_anywhere_and_resumed_equals_an_uninterrupted_one(run, made, monkeypatch, every, times):
    """The loop checks after each step and in each validation, and resumes from what it saved then."""
    fields = {
        "max_steps": 6,
        "validate_every_steps": every,
        "targets_per_step": -(-len(made.datasets["train"]) // 3),
    }
    uninterrupted, _ = run([1.0] * 9, **fields)
    records, saved = [], []
    monkeypatch.setattr(KeptCheckpoints, "save", lambda self, step, state, needs: saved.append(deepcopy(state)))
    monkeypatch.setattr(Notes, "record", lambda self, kind, step, **values: records.append((kind, step)))
    try:
        run([1.0] * 9, stop=AskedAfter(times), **fields)
    except Stopped as stopped:
        progress = Progress(**saved[-1]["progress"])
        assert f"after step {progress.step}" in str(stopped)
        records = [(kind, step) for kind, step in records if step <= progress.step]
        rest, _ = run([1.0] * 9, progress=progress, **fields)
        assert rest.progress.validated_step == uninterrupted.progress.validated_step
    assert records == [(kind, step) for kind, step, _ in uninterrupted.journal.records]


def test_the_numbers_of_a_run_are_recorded_for_each_step(run):
    training, _ = run([1.0], max_steps=2)
    (_, step, values), *_ = training.journal.records
    assert step == 1 and values["targets"] == 8
    assert 0 < values["useful_share"] <= 1 and values["row_tokens"] > 0 and values["peak_memory_bytes"] > 0
    assert values["targets_per_second"] == pytest.approx(values["targets"] / values["seconds"])
