"""The training loop: steps, validations, checkpoints, early stopping."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial

import torch

from mlens.config import Settings
from mlens.data import draws
from mlens.engine.checkpoints import Checkpoints
from mlens.engine.ending import end_ranks_together
from mlens.engine.engine import Engine
from mlens.engine.stop import StopRequest
from mlens.errors import Stopped
from mlens.evaluation.evaluate import EvaluationResult, evaluate
from mlens.model.attention.cpu_layout import with_cpu_layout
from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import (
    Collator,
    PlannedRow,
    RowLoader,
    plan_epoch,
    steps_per_epoch,
    train_row_builder,
)
from mlens.packing.prefix_group import PrefixGroup
from mlens.packing.row import Row
from mlens.training.folder import RunFolder
from mlens.training.journal import Journal
from mlens.training.loader import load_rows
from mlens.training.progress import Progress, StepRecord, finish_step, progress_note
from mlens.training.schedule import rate_factor
from mlens.training.settings import Trainer

# The phases that a run writes into its folder.
TRAINING, EVALUATING = "training", {"val": "validating", "test": "testing"}


def total_steps(trainer: Trainer, targets: int) -> int:
    """Return the updates of a run that nothing stops early; a limit of minutes is not considered."""
    steps = trainer.max_epochs * steps_per_epoch(targets, trainer.targets_per_step)
    return steps if trainer.max_steps is None else min(steps, trainer.max_steps)


@dataclass
class Training:
    """The training of a run.

    progress: changes with every step.
    best: the evaluations of the best model so far that this process has made, by stage.
    best_seconds: how long they took.
    """

    engine: Engine
    datasets: dict[str, RatingDataset]
    collator: Collator
    settings: Settings
    folder: RunFolder
    journal: Journal
    stop: StopRequest
    progress: Progress = field(default_factory=Progress)
    best: dict[str, EvaluationResult] = field(default_factory=dict)
    best_seconds: float = 0.0
    _saved_step: int | None = None
    _saved_at: float = 0.0

    @cached_property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.engine, self.folder.checkpoints, self.settings.trainer.checkpoint.keep)

    def resume(self) -> None:
        """Load the newest intact checkpoint; without one the run starts over."""
        state = self.checkpoints.load_newest()
        if state is None:
            self.journal.log("no intact checkpoint found: the run starts over")
            self.journal.rewind(0, 0)
            return
        self.progress = Progress(**state["progress"])
        self._saved_step = self.progress.step
        self.journal.rewind(self.progress.step, state.get("records"))
        self.journal.log(f"resumed after step {self.progress.step}")

    def run(self) -> None:
        """Train to the last step, or until early stopping or the time limit.

        Leaves checkpoints of the last step and, where there are validation targets, of the best one. Raises RunFailed,
        which names step and targets, on a loss or a gradient that isn't finite; the checkpoints stay as they were.
        Raises Stopped on a signal, after it has saved a checkpoint.
        """
        trainer, progress = self.settings.trainer, self.progress
        total = total_steps(trainer, len(self.datasets["train"]))
        bar = self.journal.begin("training", total, progress.step)
        self._saved_at = time.monotonic()
        self.journal.set_phase(TRAINING)
        if self._is_validation_due() and progress.step < total:  # was stopped between a step and its validation
            self._validate()
        while not self._done(total):
            dataset = self.datasets["train"].with_epoch(progress.epoch)
            record = self._begin_step()
            for planned, row in _rows(self.engine, dataset, self.collator, trainer, progress):
                rate = self.engine.set_learning_rate(self._rate_factor(total))
                record.add(planned, self.engine.backward(row, planned.labels, planned.last), row)
                if not planned.last:
                    continue
                done = finish_step(self.engine, dataset, planned, record, rate, progress)
                self.journal.record("train", progress.step, **done)
                self.journal.advance(bar, progress.step, progress_note(done))
                self.stop_if_requested()
                if progress.step < total:
                    self._between_steps()
                if self._done(total):
                    break
                record = self._begin_step()
            else:
                progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
                if self._is_validation_due() and progress.step < total:
                    self._validate()
        if progress.validated_step != progress.step:
            # The only validation of a run is of its best model: test targets are scored with it, and share prefixes.
            self._validate(*(["test"] if progress.validations == 0 else []))
        self.journal.end(bar)

    def _begin_step(self) -> StepRecord:
        """Seed LoRA's dropout by seed, rank and step, so that a resumed run draws the same."""
        rank, progress = self.engine.ranks.rank, self.progress
        (word,) = draws.words(1, draws.DROPOUT, self.settings.seed, rank, progress.step)
        torch.manual_seed(int(word) & (1 << 63) - 1)
        return StepRecord()

    def stop_if_requested(self) -> None:
        """Save and raise Stopped where any rank got a signal to stop. A collective call: all ranks make it."""
        if self.stop.agreed(self.engine.ranks):
            if self._saved_step != self.progress.step:
                self._save()
            raise Stopped(
                f"asked to stop after step {self.progress.step}; resume=true output_dir={self.folder.path} resumes it"
            )

    def _done(self, total: int) -> bool:
        stopping = self.settings.trainer.early_stopping
        return (
            self.progress.step >= total
            or self.progress.without_gain >= stopping.patience
            or self._elapsed_fraction() >= 1
        )

    def _elapsed_fraction(self) -> float:
        """Return the elapsed fraction of trainer.max_minutes on the main process's clock; at 1 all ranks stop."""
        limit = self.settings.trainer.max_minutes
        return 0.0 if limit is None else self.engine.ranks.broadcast(self.progress.seconds) / (60 * limit)

    def _rate_factor(self, total: int) -> float:
        """Return the schedule's factor; under a time limit the total of steps is extrapolated from those done."""
        step, elapsed = self.progress.step, self._elapsed_fraction()
        estimate = round(step / elapsed) if step and elapsed else total
        return rate_factor(self.settings.trainer, step, min(total, max(estimate, step + 1)))

    def _is_validation_due(self) -> bool:
        """Whether a validation is due after this step, or at the end of this epoch, and wasn't made yet."""
        every, progress = self.settings.trainer.validate_every_steps, self.progress
        due = progress.step_in_epoch == 0 if every is None else progress.step % every == 0
        return due and progress.step > 0 and progress.validated_step != progress.step

    def _between_steps(self) -> None:
        if self._is_validation_due():
            self._validate()
        elif _is_due(self.settings.trainer.checkpoint.every_steps, self.progress.step) or self._is_checkpoint_overdue():
            self._save()

    def _is_checkpoint_overdue(self) -> bool:
        """Whether the last checkpoint is trainer.checkpoint.every_minutes old, on the main process's clock."""
        minutes = self.settings.trainer.checkpoint.every_minutes
        return minutes is not None and self.engine.ranks.broadcast(time.monotonic() - self._saved_at >= 60 * minutes)

    def _validate(self, *others: str) -> None:
        """Validate where there are validation targets, and save a checkpoint.

        others: stages that are evaluated together with validation.
        """
        progress = self.progress
        if "val" in self.datasets:
            started = time.perf_counter()
            evaluated = self.evaluate("val", *others)
            seconds = time.perf_counter() - started
            rmse = evaluated["val"].metrics["rmse"]
            best = progress.record_validation(rmse, self.settings.trainer.early_stopping)
            self.journal.record("val", progress.step, rmse=rmse, best_rmse=progress.best_rmse, seconds=progress.seconds)
            epoch = progress.epoch + (progress.step_in_epoch > 0)
            where = f"epoch {epoch}  step {progress.step}  {progress.seconds:,.0f} s"
            self.journal.log(f"{where}  validation RMSE {rmse:.4f}{' (best)' if best else ''}")
            if best:
                self.best, self.best_seconds = evaluated, seconds
        progress.validated_step = progress.step
        self._save()
        self.journal.set_phase(TRAINING)

    def evaluate(self, *stages: str) -> dict[str, EvaluationResult]:
        """Evaluate the current model on `stages` together, with a progress bar. Raises Stopped on a signal."""
        times, datasets = self.settings.evaluation.draws, [self.datasets[stage] for stage in stages]
        self.journal.set_phase(EVALUATING[stages[0]])
        bar = self.journal.begin(f"evaluating {' and '.join(stages)}", sum(map(len, datasets)) * times)
        follow = self.journal.follow(bar)

        def after_row(targets: int) -> None:
            follow(targets)
            self.stop_if_requested()

        evaluated = evaluate(self.engine, datasets, self.collator, times, after_row)
        self.journal.end(bar)
        return dict(zip(stages, evaluated, strict=True))

    def evaluate_best(self) -> dict[str, EvaluationResult]:
        """Evaluate the best model on validation and test, but for what this process has evaluated already.

        As in `run`, so that a resumed run has the same predictions: together if there was no other validation.
        """
        missing = [stage for stage in self.datasets if stage != "train" and stage not in self.best]
        started = time.perf_counter()
        for stages in [missing] if self.progress.validations <= 1 else [[stage] for stage in missing]:
            self.best |= self.evaluate(*stages) if stages else {}
        self.best_seconds += time.perf_counter() - started
        return self.best

    def load_best(self) -> None:
        """Load the parameters of the best validation, unless the model has them or there was no validation."""
        progress = self.progress
        if progress.best_rmse is not None and progress.best_step != progress.step:
            self.checkpoints.load(progress.best_step)

    def _save(self) -> None:
        progress = self.progress
        needs = None if progress.best_rmse is None else progress.best_step
        # Before the checkpoint is renamed, so that after a power cut no checkpoint lacks its records.
        records = self.journal.sync()
        state = {"progress": asdict(progress), "records": records}
        self.checkpoints.save(progress.step, state, needs)
        self._saved_step, self._saved_at = progress.step, time.monotonic()


def fit(
    engine: Engine,
    datasets: dict[str, RatingDataset],
    collator: Collator,
    settings: Settings,
    folder: RunFolder,
    journal: Journal,
    stop: StopRequest,
) -> Training:
    """Train a new run, or resume the one in `folder`; returns the finished training."""
    with end_ranks_together(engine.ranks, stop):
        training = Training(engine, datasets, collator, settings, folder, journal, stop)
        if folder.resumed:
            training.resume()
        training.run()
    return training


def _rows(
    engine: Engine, dataset: RatingDataset, collator: Collator, trainer: Trainer, progress: Progress
) -> Iterator[tuple[PlannedRow, Row]]:
    """Yield this rank's rows from the next step to the end of the epoch."""
    ranks, steps = engine.ranks, trainer.steps()
    planned = plan_epoch(
        dataset,
        collator,
        steps,
        dataset.seed,
        progress.epoch,
        ranks.rank,
        ranks.world,
        progress.step_in_epoch,
    )
    on_gpu = ranks.device.type == "cuda"
    build_row = train_row_builder(dataset, collator, steps)
    # The CPU's layout takes longer to build than to send, so that the loader's worker builds it.
    make_row = build_row if on_gpu else partial(_row_for_cpu, build_row)
    return load_rows(RowLoader(dataset, make_row), planned, trainer.loader_workers, on_gpu)


def _row_for_cpu(build_row: Callable[[list[PrefixGroup]], Row], groups: list[PrefixGroup]) -> Row:
    return with_cpu_layout(build_row(groups))


def _is_due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
