"""The config node `trainer`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlens.checks import require_choice, require_number
from mlens.engine.settings import OptimizerSettings
from mlens.errors import UserError
from mlens.packing.steps import LOSSES, Steps


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` validations in a row that don't improve the best validation RMSE by `threshold`."""

    patience: int = 3
    threshold: float = 0.001

    def __post_init__(self) -> None:
        require_number("trainer.early_stopping.patience", self.patience, at_least=1)
        require_number("trainer.early_stopping.threshold", self.threshold, at_least=0)


@dataclass(frozen=True)
class Checkpoint:
    """When checkpoints are written, besides every validation and the end of training, and how many are kept.

    every_steps: also after this many steps; null: not.
    every_minutes: also when the last checkpoint is this old, in minutes; null: not.
    keep: how many of the newest are kept, besides that of the best model.
    """

    every_steps: int | None = None
    every_minutes: float | None = 30.0
    keep: int = 2

    def __post_init__(self) -> None:
        require_number("trainer.checkpoint.every_minutes", self.every_minutes, above=0, null=True)
        require_number("trainer.checkpoint.keep", self.keep, at_least=1)
        require_number("trainer.checkpoint.every_steps", self.every_steps, at_least=1, null=True)


@dataclass(frozen=True)
class Trainer:
    """The config node `trainer`.

    max_epochs: training ends after this many epochs at the latest.
    max_steps: training ends after this many steps at the latest; null: no limit; 0: evaluate the untrained model.
    max_minutes: training ends after this many minutes, evaluations excluded, and the schedule follows the clock; null:
        no limit.
    targets_per_step: targets of one update, over all ranks.
    users_per_step: least number of groups in a step, each of one user's neighbouring targets on one history.
    loss: `ce` (cross-entropy of the answer's tokens), `expected` (squared error of the expected rating), `ordinal`
        (Wasserstein-1 distance to the true rating), or `ce+expected`; see `mlens.model.losses.row_loss`.
    expected_loss_weight: weight of the second part of `ce+expected`; null: 1, and the only choice for other losses.
    history_loss_weight: weight in the loss of a token of a rating in a history, relative to a token of an answer. 0:
        only answers carry loss, as with any loss but `ce`; else each rating carries loss once an epoch as a line of a
        history too.
    optimizer: `adamw`, `adamw_8bit` (AdamW with states of 8 bits), or `muon` (Muon on the matrices of the layers, AdamW
        on the rest: embeddings, output layer, norms).
    learning_rate: of AdamW, or of Muon.
    adam_learning_rate: of AdamW where optimizer is `muon`; null: learning_rate.
    weight_decay: as the optimizer defines it.
    gradient_clipping: largest global norm of the gradient; 0: no clipping.
    schedule: `constant`, `linear` or `cosine`, after the warm-up.
    warmup_steps: steps of the warm-up.
    warmup_ratio: share of all steps for the warm-up, in place of warmup_steps; null: not used.
    validate_every_steps: null: once an epoch.
    loader_workers: processes that build rows ahead of time.
    early_stopping, checkpoint: see there.
    """

    max_epochs: int = 50
    max_steps: int | None = None
    max_minutes: float | None = None
    targets_per_step: int = 512
    users_per_step: int = 8
    loss: str = "ce"
    expected_loss_weight: float | None = None
    history_loss_weight: float = 0.0
    optimizer: str = "adamw"
    learning_rate: float = 1e-5
    adam_learning_rate: float | None = None
    weight_decay: float = 0.1
    gradient_clipping: float = 1.0
    schedule: str = "cosine"
    warmup_steps: int = 100
    warmup_ratio: float | None = None
    validate_every_steps: int | None = None
    loader_workers: int = 1
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    def __post_init__(self) -> None:
        least = {"max_epochs": 1, "targets_per_step": 1, "users_per_step": 1, "warmup_steps": 0, "loader_workers": 0}
        for name, bound in least.items():
            require_number(f"trainer.{name}", getattr(self, name), at_least=bound)
        require_number("trainer.max_steps", self.max_steps, at_least=0, null=True)
        require_number("trainer.validate_every_steps", self.validate_every_steps, at_least=1, null=True)
        require_number("trainer.max_minutes", self.max_minutes, above=0, null=True)
        require_choice("trainer.loss", self.loss, tuple(LOSSES))
        require_number("trainer.expected_loss_weight", self.expected_loss_weight, above=0, null=True)
        require_choice("trainer.optimizer", self.optimizer, ("adamw", "adamw_8bit", "muon"))
        require_choice("trainer.schedule", self.schedule, ("constant", "linear", "cosine"))
        require_number("trainer.learning_rate", self.learning_rate, above=0)
        require_number("trainer.adam_learning_rate", self.adam_learning_rate, above=0, null=True)
        for name in ("weight_decay", "gradient_clipping", "history_loss_weight"):
            require_number(f"trainer.{name}", getattr(self, name), at_least=0)
        require_number("trainer.warmup_ratio", self.warmup_ratio, at_least=0, at_most=1, null=True)
        if self.expected_loss_weight is not None and self.loss != "ce+expected":
            raise UserError(
                "trainer.expected_loss_weight is the weight of the second part of trainer.loss=ce+expected: with "
                f"trainer.loss={self.loss} leave it null"
            )
        if self.history_loss_weight and self.loss != "ce":
            raise UserError(
                f"with trainer.loss={self.loss} only targets carry loss: set trainer.history_loss_weight=0, or "
                "trainer.loss=ce"
            )
        if self.optimizer == "muon" and self.gradient_clipping:
            # At ZeRO stages 1 to 3 the clip would scale the orthogonalised update, at stage 0 the gradient.
            raise UserError(
                "trainer.optimizer=muon can't clip gradients, since its update has a fixed norm: set "
                "trainer.gradient_clipping=0"
            )

    def steps(self) -> Steps:
        """Return the settings that planning an epoch needs."""
        return Steps(
            self.targets_per_step,
            self.users_per_step,
            self.history_loss_weight,
            self.loss,
            1.0 if self.expected_loss_weight is None else self.expected_loss_weight,
        )

    def optimizer_settings(self) -> OptimizerSettings:
        """Return the settings that the engine needs."""
        return OptimizerSettings(
            self.optimizer,
            self.learning_rate,
            self.adam_learning_rate or self.learning_rate,
            self.weight_decay,
            self.gradient_clipping,
        )
