"""The progress of a run, and the record of each step."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import psutil
import torch

from mlens.engine.engine import Engine
from mlens.engine.memory import peak_memory_bytes
from mlens.errors import RunFailed
from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import PlannedRow
from mlens.packing.row import Row
from mlens.training.settings import EarlyStopping


@dataclass
class Progress:
    """The progress of a run: all that a resumed run needs besides the parameters and the optimizer's state.

    epoch: of the next update.
    step_in_epoch: of the next update.
    step: updates so far.
    targets: trained on so far.
    tokens: trained on so far, without padding.
    seconds: of training so far.
    best_rmse: of the best validation.
    best_step: that of the best validation.
    without_gain: validations since the last one that improved on the best RMSE by the threshold.
    validated_step: that of the last validation.
    validations: so far.
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
    validations: int = 0

    def record_validation(self, rmse: float, stopping: EarlyStopping) -> bool:
        """Record a validation; returns whether it is the best so far."""
        best = math.inf if self.best_rmse is None else self.best_rmse
        self.without_gain = 0 if rmse < best - stopping.threshold else self.without_gain + 1
        self.validated_step = self.step
        self.validations += 1
        if rmse < best:
            self.best_rmse, self.best_step = rmse, self.step
        return rmse < best


@dataclass
class StepRecord:
    """The work of one step on this rank so far.

    loss: sum over its rows (see `row_loss`).
    targets: of its rows.
    not_finite: targets of the first row whose loss isn't finite.
    tokens: without padding.
    padded: tokens with padding.
    longest_row: tokens.
    started: on the clock of `time.perf_counter`.
    """

    loss: float = 0.0
    targets: list[int] = field(default_factory=list)
    not_finite: list[int] = field(default_factory=list)
    tokens: int = 0
    padded: int = 0
    longest_row: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, planned: PlannedRow, loss: torch.Tensor, row: Row) -> None:
        self.loss += float(loss)
        self.targets += planned.targets
        if not math.isfinite(self.loss) and not self.not_finite:
            self.not_finite = planned.targets
        self.tokens += row.useful
        self.padded += row.input_ids.numel()
        self.longest_row = max(self.longest_row, row.input_ids.shape[1])


def finish_step(
    engine: Engine,
    dataset: RatingDataset,
    planned: PlannedRow,
    record: StepRecord,
    rate: float,
    progress: Progress,
) -> dict:
    """Sum the step over all ranks into `progress`; returns its record for metrics.jsonl.

    Raises RunFailed on a loss or a gradient that isn't finite; such a step is never saved.
    """
    ranks = engine.ranks
    not_finite = float(not engine.finite())
    counts = [record.loss, record.tokens, record.padded, not_finite]
    summed = ranks.sum(torch.tensor(counts, dtype=torch.float64, device=ranks.device))
    loss, tokens, padded, not_finite = summed.tolist()
    seconds = time.perf_counter() - record.started
    progress.step += 1
    progress.step_in_epoch = planned.step + 1
    progress.targets += planned.step_targets
    progress.tokens += int(tokens)
    progress.seconds += seconds
    if not_finite or not math.isfinite(loss):
        gathered = ranks.gather((record.not_finite, record.targets))
        rows = [target for of_row, _ in gathered for target in of_row]
        what = (
            f"loss of step {progress.step} is {loss}, in the row of"
            if rows
            else (f"gradient of step {progress.step} isn't finite, though its loss is; its targets are")
        )
        raise RunFailed(
            f"the {what} {_names(dataset, rows or [target for _, of_rank in gathered for target in of_rank])}. "
            "Lower trainer.learning_rate, with another output_dir; the checkpoints are those before this step"
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


def progress_note(step: dict) -> str:
    """Format a step's record for the progress bar."""
    return (
        f"loss {step['loss']:.3f}  {step['targets_per_second']:,.0f} targets/s  "
        f"{step['tokens_per_second']:,.0f} tokens/s  {step['useful_share']:.0%} useful  "
        f"{step['peak_memory_bytes'] / 1e9:.1f} GB"
    )


def _names(dataset: RatingDataset, targets: list[int]) -> str:
    """List the first few of these targets by raw ids."""
    table, rows = dataset.table, dataset.stage.targets[targets[:5]]
    users, movies = table.users["id"], table.movies["id"]
    names = [f"user {users[int(table.user[i])]} movie {movies[int(table.movie[i])]}" for i in rows]
    return ", ".join(names) + (f" and {len(targets) - len(names)} more" if len(targets) > len(names) else "")
