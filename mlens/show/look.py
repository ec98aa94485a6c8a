"""All there is to see of one target, made from the objects that a run with the same config works with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlens.data.split import TRAIN
from mlens.packing.dataset import RatingDataset
from mlens.pipeline import RunInputs
from mlens.show.fates import Fate, fates_of
from mlens.show.find import Asked, find_target, why_role
from mlens.show.landing import Landing, land_in_evaluation, land_in_training
from mlens.show.pieces import Piece, prompt_pieces
from mlens.show.prediction import Prediction, read_prediction


@dataclass(frozen=True)
class Look:
    """Of target i of `dataset`: why its rating is of this stage; what became of each of its user's ratings; the prompt
    as it reads, and piece by piece; where it lands; and what the run in the folder `run` predicted (None without
    one, and in training)."""

    dataset: RatingDataset
    i: int
    why: str
    fates: list[Fate]
    text: str
    pieces: list[Piece]
    landing: Landing
    run: Path | None
    prediction: Prediction | None

    @property
    def target(self) -> int:
        """As an index into the table."""
        return int(self.dataset.stage.targets[self.i])


def look_at(inputs: RunInputs, asked: Asked, run: Path | None = None) -> Look:
    """run: the folder of the finished run whose config this is, or None.

    Raises UserError where there is no such target, or the run has no prediction for it.
    """
    settings, table, roles = inputs.settings, inputs.table, inputs.roles
    name, i = find_target(table, roles, settings.split, inputs.stages, asked, settings.evaluation.max_users)
    dataset = inputs.dataset(name)
    target = int(dataset.stage.targets[i])
    training = roles[target] == TRAIN
    if training:
        landing = land_in_training(dataset, settings.packing, settings.trainer.steps(), i)
    else:
        landing = land_in_evaluation(dataset, settings.packing, i)
    return Look(
        dataset=dataset,
        i=i,
        why=why_role(table, roles, settings.split, target),
        fates=fates_of(dataset, roles, settings.split, i),
        text=dataset.text(i),
        pieces=prompt_pieces(dataset, inputs.tokenizer, i),
        landing=landing,
        run=run,
        prediction=None if run is None or training else read_prediction(run, dataset, i),
    )
