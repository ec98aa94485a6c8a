"""What the benchmarks work with: what train.py makes before it trains."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from rich.console import Console
from transformers.modeling_utils import PreTrainedModel

from mlens.compose import compose_config
from mlens.config import check_config
from mlens.engine.engine import uses_bf16_parameters
from mlens.errors import UserError, exit_on_user_error
from mlens.model.load import ParamPlacement, build_model
from mlens.packing.dataset import Example, RatingDataset
from mlens.packing.plan import Collator
from mlens.pipeline import RunInputs, open_inputs

# As in trainer=finetune.
TARGETS_PER_STEP = 512
# Twice the longest prompt of the benchmarks: shorter rows would cut long trunks off their branches.
ROW_TOKENS = 16384
# How many targets are measured to draw some of them.
POOL = 2000


@dataclass(frozen=True)
class Setting:
    """What a config leads to: the inputs of a run, a dataset for each stage, and the collator of its rows."""

    inputs: RunInputs
    datasets: dict[str, RatingDataset]
    collator: Collator

    def model(self, attention: str, weights: Path | None = None) -> PreTrainedModel | PeftModel:
        """The model with `attention`: `rows`, or one of transformers' own. Every call gives the same weights: random
        ones, or those in the folder `weights`."""
        settings = self.inputs.settings
        return build_model(
            replace(settings.model, attention=attention),
            settings.peft,
            self.inputs.tokenizer,
            longest=settings.prompt.max_tokens,
            seed=settings.seed,
            placement=ParamPlacement(
                uses_bf16_parameters(settings.model.dtype, settings.deepspeed.zero_optimization.stage),
                "cuda" if torch.cuda.is_available() else "cpu",
            ),
            weights=weights,
        )


def make_setting(data: Path, *overrides: str) -> Setting:
    """The setting that `overrides` (of train.py's command line) lead to on the ml-latest-small in the folder `data`.

    Updates are AdamW's, as the peers' are, each of TARGETS_PER_STEP targets. Raises UserError for a bad override or
    folder.
    """
    common = ["data=ml_latest_small", f"data.path={data}", "wandb.mode=disabled", "trainer.optimizer=adamw"]
    common += [f"trainer.targets_per_step={TARGETS_PER_STEP}", f"packing.row_tokens={ROW_TOKENS}"]
    return compose_setting(*common, *overrides)


def compose_setting(*overrides: str) -> Setting:
    """The setting that `overrides` lead to. Raises UserError for a bad override."""
    inputs = open_inputs(check_config(compose_config(overrides)))
    datasets = {name: inputs.dataset(name) for name in inputs.stages}
    return Setting(inputs, datasets, inputs.settings.packing)


def drawn(dataset: RatingDataset, count: int) -> np.ndarray:
    """[count] a random subset of the dataset's targets, ascending; the same in every run.

    Stratified: the prompts of POOL random targets are ordered by length and cut into equal strata, one of each is
    drawn, so that a small subset has the lengths of the whole. With each target comes its neighbour, with which it
    mostly shares a history, so that comparing results compares shared rows.
    """
    random = np.random.default_rng(0)
    pool = np.sort(random.permutation(len(dataset) // 2)[:POOL]) * 2
    pool = pool[np.argsort(dataset.prompt_lengths(pool), kind="stable")]
    strata = np.array_split(pool, min(count // 2, len(pool)))
    targets = np.sort([random.choice(stratum) for stratum in strata])
    return np.stack([targets, targets + 1], axis=1).ravel()


def samples_of(dataset: RatingDataset, targets: np.ndarray) -> list[Example]:
    return [dataset[int(i)] for i in targets]


def require(module: str):
    """Import a module that only the benchmarks need. Raises UserError where it isn't installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module} is not installed: it comes with the extra `bench` (pip install -e '.[bench]')"
        ) from error


def console() -> Console:
    """Where the tables go; not narrower than they are where the output is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=140)


def command(doc: str) -> argparse.ArgumentParser:
    """The command line that all benchmarks share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="the folder of ml-latest-small")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    return parser


def start(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, gpu: bool = False) -> None:
    """Call `main` with the command line; what the user got wrong is one line and exit code 2. Without `gpu`, all sides
    run on the CPU, also where there is a GPU that one of them would find by itself."""
    options = parser.parse_args()
    options.data = options.data.resolve()
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(options.threads)
    with exit_on_user_error():
        main(options)
