"""The inputs of the benchmarks: what train.py makes before it trains."""

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
from mlens.packing.epoch_plan import Collator
from mlens.pipeline import RunInputs, open_inputs

# As in trainer=finetune.
TARGETS_PER_STEP = 512
# Twice the longest prompt of the benchmarks: shorter rows would cut the groups of long prefixes.
ROW_TOKENS = 16384
# The number of targets whose lengths are measured for stratified sampling.
POOL = 2000


@dataclass(frozen=True)
class Setting:
    """The inputs of a run, a dataset for each stage, and the collator of its rows."""

    inputs: RunInputs
    datasets: dict[str, RatingDataset]
    collator: Collator

    def model(self, attention: str, weights: Path | None = None) -> PreTrainedModel | PeftModel:
        """Build the model. Every call returns the same weights.

        attention: `rows`, or an attention of transformers.
        weights: the folder of the weights; random ones if None.
        """
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
    """Make the setting of these overrides (as on train.py's command line) for the ml-latest-small in the folder `data`.

    The optimizer is AdamW, as the peers' is, with TARGETS_PER_STEP targets an update.

    Raises UserError for a bad override or folder.
    """
    common = ["data=ml_latest_small", f"data.path={data}", "wandb.mode=disabled", "trainer.optimizer=adamw"]
    common += [f"trainer.targets_per_step={TARGETS_PER_STEP}", f"packing.row_tokens={ROW_TOKENS}"]
    return compose_setting(*common, *overrides)


def compose_setting(*overrides: str) -> Setting:
    """Make the setting of these overrides. Raises UserError for a bad override."""
    inputs = open_inputs(check_config(compose_config(overrides)))
    datasets = {name: inputs.dataset(name) for name in inputs.stages}
    return Setting(inputs, datasets, inputs.settings.packing)


def drawn(dataset: RatingDataset, count: int) -> np.ndarray:
    """Draw a stratified random subset of the dataset's targets, the same in every run: [count], ascending.

    The prompts of POOL random targets are sorted by length and cut into equal strata, and one target of each stratum is
    drawn, so that a small subset represents the lengths of all targets. The next target is added to each, because the
    two mostly share a prefix, so that results with shared prefixes are compared.
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
    """Return a console for the tables, wide enough for them where the output isn't a terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=140)


def command(doc: str) -> argparse.ArgumentParser:
    """Make the parser of the arguments that the benchmarks share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="the folder of ml-latest-small")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the overrides that choose the model."""
    parser.add_argument("--model", nargs="+", default=["model=tiny"], help="overrides of the model (model=tiny)")


def start(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, gpu: bool = False) -> None:
    """Call `main` with the parsed command line; a user error exits with one line and code 2.

    gpu: whether to use a GPU. If not, it is hidden from all sides, so that they all run on the CPU.
    """
    options = parser.parse_args()
    options.data = options.data.resolve()
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(options.threads)
    with exit_on_user_error():
        main(options)
