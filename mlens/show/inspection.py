"""The inspection of one target, made from the inputs of a run with the same config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlens.data.split import TRAIN
from mlens.packing.dataset import RatingDataset
from mlens.pipeline import RunInputs
from mlens.show.find import TargetQuery, explain_role, find_target
from mlens.show.prediction import Prediction, read_prediction
from mlens.show.prompt_pieces import Piece, prompt_pieces
from mlens.show.rating_status import RatingStatus, rating_statuses
from mlens.show.row_placement import RowPlacement, place_in_evaluation, place_in_training


@dataclass(frozen=True)
class Inspection:
    """The inspection of one target.

    dataset: that of the target's stage.
    i: index of the target in `dataset`.
    role_reason: why the split assigned the rating to this stage.
    statuses: of all ratings of its user.
    text: the prompt.
    pieces: the prompt and the answer, piece by piece.
    placement: where the target's tokens lie in its row.
    run: folder of a finished run, or None.
    prediction: that of the run; None without one, and for training targets.
    """

    dataset: RatingDataset
    i: int
    role_reason: str
    statuses: list[RatingStatus]
    text: str
    pieces: list[Piece]
    placement: RowPlacement
    run: Path | None
    prediction: Prediction | None

    @property
    def target(self) -> int:
        """The target as an index into the table."""
        return int(self.dataset.stage.targets[self.i])


def inspect_target(inputs: RunInputs, query: TargetQuery, run: Path | None = None) -> Inspection:
    """Inspect the target that `query` finds.

    run: folder of the finished run whose config this is, or None.

    Raises UserError if there is no such target, or the run has no prediction for it.
    """
    settings, table, roles = inputs.settings, inputs.table, inputs.roles
    name, i = find_target(table, roles, settings.split, inputs.stages, query, settings.evaluation.max_users)
    dataset = inputs.dataset(name)
    target = int(dataset.stage.targets[i])
    training = roles[target] == TRAIN
    if training:
        placement = place_in_training(dataset, settings.packing, settings.trainer.steps(), i)
    else:
        placement = place_in_evaluation(dataset, settings.packing, i)
    return Inspection(
        dataset=dataset,
        i=i,
        role_reason=explain_role(table, roles, settings.split, target),
        statuses=rating_statuses(dataset, roles, settings.split, i),
        text=dataset.text(i),
        pieces=prompt_pieces(dataset, inputs.tokenizer, i),
        placement=placement,
        run=run,
        prediction=None if run is None or training else read_prediction(run, dataset, i),
    )
