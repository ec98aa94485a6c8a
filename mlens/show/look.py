"""All there is to see of one target, made from the objects that a run with the same config works with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlens.data.split import TRAIN
from mlens.packing.dataset import RatingDataset
from mlens.pipeline import RunInputs
from mlens.show.find import TargetQuery, find_target, why_role
from mlens.show.prediction import Prediction, read_prediction
from mlens.show.prompt_pieces import Piece, prompt_pieces
from mlens.show.rating_status import RatingStatus, rating_statuses
from mlens.show.row_placement import RowPlacement, place_in_evaluation, place_in_training


@dataclass(frozen=True)
class Look:
    """Of target i of `dataset`: why its rating is of this stage; what became of each of its user's ratings; the prompt
    as it reads, and piece by piece; where it lies in its row; and what the run in the folder `run` predicted (None
    without one, and in training)."""

    dataset: RatingDataset
    i: int
    why: str
    statuses: list[RatingStatus]
    text: str
    pieces: list[Piece]
    placement: RowPlacement
    run: Path | None
    prediction: Prediction | None

    @property
    def target(self) -> int:
        """As an index into the table."""
        return int(self.dataset.stage.targets[self.i])


def look_at(inputs: RunInputs, query: TargetQuery, run: Path | None = None) -> Look:
    """run: the folder of the finished run whose config this is, or None.

    Raises UserError where there is no such target, or the run has no prediction for it.
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
    return Look(
        dataset=dataset,
        i=i,
        why=why_role(table, roles, settings.split, target),
        statuses=rating_statuses(dataset, roles, settings.split, i),
        text=dataset.text(i),
        pieces=prompt_pieces(dataset, inputs.tokenizer, i),
        placement=placement,
        run=run,
        prediction=None if run is None or training else read_prediction(run, dataset, i),
    )
