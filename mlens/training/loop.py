"""The training loop: steps, validations, checkpoints, early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial

import psutil
import torch
from torch.utils.data import DataLoader

from mlens.config import Settings
from mlens.engine.engine import Engine
from mlens.engine.memory import peak_memory_bytes
from mlens.errors import UserError
from mlens.evaluation.evaluate import Evaluated, evaluate
from mlens.packing.dataset import RatingDataset
from mlens.packing.plan import Collator, PlannedRow, RowLoader, plan_epoch, steps_per_epoch
from mlens.packing.row import Row
from mlens.training.folder import RunFolder
from mlens.training.journal import Journal
from mlens.training.schedule import rate_factor
from mlens.training.settings import EarlyStopping, Trainer


@dataclass
class Progress:
    """Where a run stands: all that a resumed run needs beside parameters and optimizer.

    step: updates done; epoch, step_in_epoch: where the next one is; best_rmse, best_step: of the best validation;
    without_gain: validations since one bettered the best by the threshold; validated_step: of the last validation.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    targets: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_rmse: float | None = None
    best_step: int = 0
    without_gain: int = 0
    validated_step: int = -1

    def validated(self, rmse: float, stopping: EarlyStopping) -> bool:
        """Take note of a validation; returns whether it is the best so far."""
        best = math.inf if self.best_rmse is None else self.best_rmse
        self.without_gain = 0 if rmse < best - stopping.threshold else self.without_gain + 1
        self.validated_step = self.step
        if rmse < best:
            self.best_rmse, self.best_step = rmse, self.step
        return rmse < best


@dataclass
class StepRecord:
    """What one step did on this rank so far; not_finite: the targets of rows whose loss isn't a finite number."""

    loss: float = 0.0
    not_finite: list[int] = field(default_factory=list)
    tokens: int = 0
    padded: int = 0
    longest_row: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, planned: PlannedRow, loss: torch.Tensor, row: Row) -> None:
        self.loss += float(loss)
        if not math.isfinite(self.loss) and not self.not_finite:
            self.not_finite = planned.targets
        self.tokens += row.useful
        self.padded += row.input_ids.numel()
        self.longest_row = max(self.longest_row, row.input_ids.shape[1])


def total_steps(trainer: Trainer, targets: int) -> int:
    """Updates of the whole run, should nothing stop it early (a limit of minutes is not known in steps)."""
    steps = trainer.max_epochs * steps_per_epoch(targets, trainer.targets_per_step)
    return steps if trainer.max_steps is None else min(steps, trainer.max_steps)


@dataclass
class Training:
    """A run's training: what it works with, where it stands, and the evaluation of the best model so far (None before
    the first validation of this process)."""

    engine: Engine
    datasets: dict[str, RatingDataset]
    collator: Collator
    settings: Settings
    folder: RunFolder
    journal: Journal
    progress: Progress = field(default_factory=Progress)
    best: Evaluated | None = None

    def resume(self) -> None:
        """Go on from `checkpoints/last`; a run that was stopped before it wrote one starts over."""
        places = (self.folder.checkpoints / tag for tag in ("last", "last.old"))
        if not self.engine.ranks.tell(any(place.is_dir() for place in places)):
            self.journal.say("no checkpoint was written yet: the run starts over")
            self.journal.rewind(0)
            return
        self.progress = Progress(**self.engine.load(self.folder.checkpoints, "last")["progress"])
        self.journal.rewind(self.progress.step)

    def run(self) -> None:
        """Train to the last step or until patience ends.

        Leaves `checkpoints/last`, and `checkpoints/best` where there are validation targets. Raises UserError on a loss
        that isn't finite, naming step and targets; the checkpoints stay as they were.
        """
        trainer, progress = self.settings.trainer, self.progress
        total = total_steps(trainer, len(self.datasets["train"]))
        bar = self.journal.begin("training", total, progress.step)
        while not self._done(total):
            dataset = self.datasets["train"].at(progress.epoch)
            record = StepRecord()
            for planned, row in _rows(self.engine, dataset, self.collator, trainer, progress):
                rate = self.engine.set_learning_rate(self._rate_factor(total))
                record.add(planned, self.engine.backward(row, planned.labels, planned.last), row)
                if not planned.last:
                    continue
                done = finish_step(self.engine, dataset, planned, record, rate, progress)
                self.journal.record("train", progress.step, **done)
                self.journal.advance(bar, progress.step, in_short(done))
                if progress.step < total:
                    self._between_steps()
                if self._done(total):
                    break
                record = StepRecord()
            else:
                progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
                if trainer.validate_every_steps is None and progress.step < total:
                    self._validate()
        if progress.validated_step != progress.step:
            self._validate()
        self.journal.end(bar)

    def _done(self, total: int) -> bool:
        stopping = self.settings.trainer.early_stopping
        return self.progress.step >= total or self.progress.without_gain >= stopping.patience or self._spent() >= 1

    def _spent(self) -> float:
        """The part of trainer.max_minutes that rank 0 has trained for: 1 or more ends the run on all ranks alike."""
        limit = self.settings.trainer.max_minutes
        return 0.0 if limit is None else self.engine.ranks.tell(self.progress.seconds) / (60 * limit)

    def _rate_factor(self, total: int) -> float:
        """Against the clock, the steps to come are guessed from those done."""
        step, spent = self.progress.step, self._spent()
        guessed = round(step / spent) if step and spent else total
        return rate_factor(self.settings.trainer, step, min(total, max(guessed, step + 1)))

    def _between_steps(self) -> None:
        trainer = self.settings.trainer
        if _is_due(trainer.validate_every_steps, self.progress.step):
            self._validate()
        elif _is_due(trainer.checkpoint.every_steps, self.progress.step):
            self._save("last")

    def _validate(self) -> None:
        """Validate where there is something to validate on, and save: `best` if it is, and `last`."""
        progress, draws = self.progress, self.settings.evaluation.draws
        progress.validated_step = progress.step
        if "val" in self.datasets:
            bar = self.journal.begin("validating", len(self.datasets["val"]) * draws)
            evaluated = evaluate(self.engine, self.datasets["val"], self.collator, draws, self.journal.follow(bar))
            self.journal.end(bar)
            rmse = evaluated.metrics["rmse"]
            best = progress.validated(rmse, self.settings.trainer.early_stopping)
            self.journal.record("val", progress.step, rmse=rmse, best_rmse=progress.best_rmse, seconds=progress.seconds)
            begun = progress.epoch + (progress.step_in_epoch > 0)
            where = f"epoch {begun}  step {progress.step}  {progress.seconds:,.0f} s"
            self.journal.say(f"{where}  validation RMSE {rmse:.4f}{' (best)' if best else ''}")
            if best:
                self.best = evaluated
                self._save("best")
        self._save("last")

    def _save(self, tag: str) -> None:
        self.engine.save(self.folder.checkpoints, tag, {"progress": asdict(self.progress)})


def fit(
    engine: Engine,
    datasets: dict[str, RatingDataset],
    collator: Collator,
    settings: Settings,
    folder: RunFolder,
    journal: Journal,
) -> Training:
    """Train from the start, or with `resume` from where the run's folder stands; returns the finished training."""
    training = Training(engine, datasets, collator, settings, folder, journal)
    if settings.resume:
        training.resume()
    training.run()
    return training


def _rows(
    engine: Engine, dataset: RatingDataset, collator: Collator, trainer: Trainer, progress: Progress
) -> Iterator[tuple[PlannedRow, Row]]:
    """This rank's rows from where `progress` stands to the end of the epoch, built ahead by worker processes."""
    ranks = engine.ranks
    planned = plan_epoch(
        dataset,
        collator,
        trainer.steps(),
        dataset.seed,
        progress.epoch,
        ranks.rank,
        ranks.world,
        progress.step_in_epoch,
    )
    return iter(
        DataLoader(
            RowLoader(dataset, partial(collator.train_row, history_loss_weight=trainer.history_loss_weight)),
            sampler=planned,
            batch_size=None,
            num_workers=trainer.loader_workers,
            pin_memory=ranks.device.type == "cuda",
            prefetch_factor=4 if trainer.loader_workers else None,
        )
    )


def finish_step(
    engine: Engine,
    dataset: RatingDataset,
    planned: PlannedRow,
    record: StepRecord,
    rate: float,
    progress: Progress,
) -> dict:
    """Count the step over all ranks; returns its record. Raises UserError on a loss that isn't finite."""
    ranks = engine.ranks
    counts = torch.tensor([record.loss, record.tokens, record.padded], dtype=torch.float64, device=ranks.device)
    loss, tokens, padded = ranks.sum(counts).tolist()
    seconds = time.perf_counter() - record.started
    progress.step += 1
    progress.step_in_epoch = planned.step + 1
    progress.targets += planned.step_targets
    progress.tokens += int(tokens)
    progress.seconds += seconds
    if not math.isfinite(loss):
        targets = [target for rank in ranks.gather(record.not_finite) for target in rank]
        raise UserError(
            f"the loss of step {progress.step} is {loss}, in the row of {_names(dataset, targets)}: "
            "lower trainer.learning_rate; the checkpoints are those before it"
        )
    return {
        "epoch": progress.epoch,
        "loss": loss / planned.labels,
        "learning_rate": rate,
        "targets": planned.step_targets,
        "targets_per_second": planned.step_targets / seconds,
        "tokens_per_second": tokens / seconds,
        "useful_share": tokens / padded,
        "row_tokens": record.longest_row,
        "peak_memory_bytes": peak_memory_bytes(ranks.device),
        "seconds": seconds,
        "process_seconds": time.time() - psutil.Process().create_time(),
    }


def in_short(step: dict) -> str:
    """A step's record beside its progress bar."""
    return (
        f"loss {step['loss']:.3f}  {step['targets_per_second']:,.0f} targets/s  "
        f"{step['tokens_per_second']:,.0f} tokens/s  {step['useful_share']:.0%} useful  "
        f"{step['peak_memory_bytes'] / 1e9:.1f} GB"
    )


def _names(dataset: RatingDataset, targets: list[int]) -> str:
    """The first few of these targets, by raw ids."""
    table, rows = dataset.table, dataset.stage.targets[targets[:5]]
    users, movies = table.users["id"], table.movies["id"]
    names = [f"user {users[int(table.user[i])]} movie {movies[int(table.movie[i])]}" for i in rows]
    return ", ".join(names) + (f" and {len(targets) - len(names)} more" if len(targets) > len(names) else "")


def _is_due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
