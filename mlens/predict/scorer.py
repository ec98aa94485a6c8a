"""A trained model by itself, without DeepSpeed, as what scores rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mlens.engine.ranks import Ranks
from mlens.model.load import Holding, load_trained
from mlens.model.scores import placed, row_scores
from mlens.model.trunk import Trunk, continued
from mlens.packing.row import Row
from mlens.training.exported import Exported


@dataclass
class Alone:
    """The one process of a model in evaluation. autocast: compute in bfloat16; trunk: the last one that was computed,
    which the next row often begins with."""

    model: torch.nn.Module
    ranks: Ranks
    autocast: bool
    trunk: Trunk | None = None

    def train(self, training: bool = True) -> None:
        self.model.train(training)

    @torch.no_grad()
    def score(self, row: Row) -> torch.Tensor:
        """[row.scores] float32 on the CPU: the log-probabilities that the row asks for."""
        row, trunk = continued(placed(row, self.ranks.device), self.trunk)
        scores = row_scores(self.model, row, self.autocast).cpu()[: row.scores]
        self.trunk = trunk  # whole only now
        return scores


def load_alone(exported: Exported, device: str | None = None) -> Alone:
    """The exported model on `device` (a GPU if there is one), in the precision that it was evaluated in. Raises
    UserError where it can't be loaded."""
    on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model: torch.nn.Module = load_trained(exported, exported.folder, Holding(exported.bf16_parameters, on.type))[0]
    autocast = exported.dtype == "bfloat16" and not exported.bf16_parameters
    return Alone(model.to(on), Ranks(0, 1, on), autocast)
