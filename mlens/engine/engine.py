"""The DeepSpeed engine, reduced to what training and evaluation need."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from mlens.engine.checkpoint_files import make_universal, tensors_only
from mlens.engine.ranks import Ranks
from mlens.engine.settings import STATE_BYTES, DeepSpeed, OptimizerSettings, checkpoint_bytes
from mlens.errors import RunFailed, UserError
from mlens.files import atomic_folder, fresh_folder
from mlens.model.adapters import without_adapters
from mlens.model.check import ModelCheck, check_model, require_passed, worst
from mlens.model.fused import label_head
from mlens.model.load import ParamPlacement
from mlens.model.losses import row_loss
from mlens.model.quantise import element_count, is_quantised
from mlens.model.scores import explain_out_of_memory, prepare_row, row_scores
from mlens.packages import require_package
from mlens.packing.row import Row
from mlens.text import first_line

REMEDY = (
    "lower packing.row_tokens (at least prompt.max_tokens), or set model.gradient_checkpointing=true, or "
    "deepspeed=zero3 or zero3_offload on a GPU; resume=true continues only with the settings of the run"
)


class Engine:
    """A model under DeepSpeed on this rank. All ranks call each method together.

    A training step is one `backward` for each row of the step; the one with `last` updates the parameters.
    """

    def __init__(self, deepspeed_engine: Any, ranks: Ranks, optimizer: str, autocast: bool) -> None:
        self.ranks = ranks
        self._engine, self._optimizer, self._autocast = deepspeed_engine, optimizer, autocast
        self._head = label_head(deepspeed_engine.module)
        # Checkpoints leave frozen parameters out then: with their scales they follow from the initial model.
        self._quantised = is_quantised(deepspeed_engine.module)
        self._base_rates = [group["lr"] for group in deepspeed_engine.optimizer.param_groups]
        self.checked: ModelCheck | None = None

    @property
    def loss(self) -> str:
        """How the training loss is computed."""
        return "logits" if self._head is None else "liger"

    @property
    def parameters(self) -> int:
        """The number of parameters of the model, under ZeRO-3 those on all ranks."""
        return sum(element_count(p) for p in self._engine.module.parameters())

    def check(self, longest: int) -> None:
        """Compare a small row with its samples alone, before training; `checked` keeps the result.

        longest: the most tokens of a prompt with its answer.

        Raises UserError, on all ranks, where they differ.
        """
        self.checked = check_on_all(self._engine, self._engine.module, longest, self._autocast, self.ranks)

    def backward(self, row: Row, labels: float, last: bool) -> torch.Tensor:
        """Accumulate the gradient of one row, and return its loss (see `row_loss`; detached).

        labels: what the step's loss is divided by, the same for all its rows on all ranks (`PlannedRow.labels`).
        last: whether to update the parameters after this row.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        with explain_out_of_memory(row, REMEDY):
            row = prepare_row(row, self.ranks.device)
            scores = row_scores(self._engine, row, self._autocast, self._head)
            loss = row_loss(scores, row)
            # DeepSpeed averages over ranks, and would divide by the accumulation count; the loss of a step is one mean.
            self._engine.backward(loss * (self.ranks.world / labels), scale_wrt_gas=False)
            self._engine.step()
        return loss.detach()

    @torch.no_grad()
    def score(self, row: Row) -> torch.Tensor:
        """The log-probabilities of the row's scores: [row.scores] float32, on the CPU."""
        with explain_out_of_memory(row, REMEDY):
            row = prepare_row(row, self.ranks.device)
            return row_scores(self._engine, row, self._autocast).cpu()[: row.scores]

    def train(self, training: bool = True) -> None:
        self._engine.train(training)

    def set_learning_rate(self, factor: float) -> float:
        """Set the rate of each parameter group to `factor` times its base rate; returns that of the first group."""
        for group, base in zip(self._engine.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        return self._base_rates[0] * factor

    def finite(self) -> bool:
        """Whether the gradients were finite, as far as this rank knows. One that isn't makes parameters infinite or NaN
        too, except for ZeRO stages 1 to 3, where DeepSpeed skips such an update."""
        if self._engine.skipped_steps:
            return False
        parts = [getattr(p, "ds_tensor", p).detach() for p in self._engine.module.parameters()]
        return bool(torch.stack([part.sum(dtype=torch.float32) for part in parts]).isfinite().all())

    @property
    def checkpoint_bytes(self) -> int:
        """An upper estimate of the size of a checkpoint."""
        states = STATE_BYTES[self._optimizer]
        written = [p for p in self._engine.module.parameters() if p.requires_grad or not self._quantised]
        sizes = [(element_count(p), p) for p in written]
        return sum(checkpoint_bytes(n, n if p.requires_grad else 0, p.element_size(), states) for n, p in sizes)

    def save(self, folder: Path, tag: str) -> None:
        """Write parameters and optimizer to `folder/tag`; each rank writes its shard. Under 4-bit weights only trained
        parameters are written."""
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=self._quantised)

    def load(self, folder: Path, tag: str, written_by: int) -> None:
        """Load parameters and optimizer from `folder/tag`.

        written_by: how many ranks wrote them.

        Raises UserError where another number of ranks wrote them and DeepSpeed can't convert them, RunFailed where the
        checkpoint holds more than tensors or isn't intact.
        """
        engine, zero = self._engine, self._engine.zero_optimization_stage() > 0
        convert = zero and written_by != self.ranks.world  # under ZeRO every rank needs the shard that it wrote
        if convert and self._optimizer != "adamw":
            raise UserError(
                f"{folder / tag} was written by {written_by} ranks: with trainer.optimizer={self._optimizer} "
                f"resume with as many, not {self.ranks.world} (DeepSpeed converts only checkpoints of adamw)"
            )
        checkpoint = folder / tag
        with tensors_only():
            if convert:
                folder, tag = self.ranks.on_main(lambda: fresh_folder(checkpoint)), "universal"
                self.ranks.on_main(lambda: make_universal(checkpoint, folder / tag))
            engine._config.load_universal_checkpoint = convert
            try:
                loaded, _ = engine.load_checkpoint(str(folder), tag=tag, load_module_strict=not self._quantised)
            except UnpicklingError as error:
                raise RunFailed(f"{checkpoint} can't be loaded: {first_line(error)}") from error
            finally:
                engine._config.load_universal_checkpoint = False
        self.ranks.barrier()
        if convert and self.ranks.main:
            shutil.rmtree(folder)
        if loaded is None:
            raise RunFailed(f"{checkpoint} can't be loaded: it is not intact")

    def export(self, folder: Path, tokenizer: PreTrainedTokenizerBase, merge: bool = False) -> None:
        """Write the model and its tokenizer in Hugging Face format. With LoRA only the adapter is written, unless
        `merge` adds it to the weights of the model."""
        model: PreTrainedModel = self._engine.module
        if self._engine.zero_optimization_stage() == 3:
            state = self._engine._zero3_consolidated_16bit_state_dict()
        else:
            state = model.state_dict()
        if self.ranks.main:
            if merge:
                model, state = without_adapters(model, state)
            with atomic_folder(folder) as fresh:
                model.save_pretrained(fresh, state_dict=state)
                tokenizer.save_pretrained(fresh)
        self.ranks.barrier()


def check_on_all(forward: Any, model: Any, longest: int, autocast: bool, ranks: Ranks) -> ModelCheck:
    """Run `check_model` on every rank. Raises UserError on all of them where one finds a difference."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = worst(ranks.gather(check_model(forward, plain, longest, autocast, ranks.device)))
    require_passed(found, type(plain).__name__)
    return found


def uses_bf16_parameters(dtype: str, stage: int) -> bool:
    """Whether bfloat16 means parameters in bfloat16 with float32 master weights. At stage 0 DeepSpeed wraps such
    parameters in another optimizer, whose first update differs; float32 parameters run under autocast there."""
    return dtype == "bfloat16" and stage > 0


def param_placement(settings: DeepSpeed, dtype: str, ranks: Ranks) -> ParamPlacement:
    """How to place the parameters of a model that an engine with these settings will train."""
    config, stage = _as_config(settings, dtype), settings.zero_optimization.stage
    return ParamPlacement(config["bf16"]["enabled"], ranks.device.type, config if stage == 3 else None)


def make_engine(model: PreTrainedModel, ranks: Ranks, optimizer: OptimizerSettings, dtype: str, **node: Any) -> Engine:
    """Create the engine with `deepspeed.initialize`.

    dtype: the precision of the config node `model`.
    node: the config node `deepspeed`.
    """
    import deepspeed

    config = _as_config(DeepSpeed(**node), dtype)
    zero = config["zero_optimization"]
    offloaded = zero.get("offload_optimizer", {}).get("device") == "cpu"
    config |= {
        "gradient_clipping": optimizer.gradient_clipping,
        "steps_per_print": 10**9,
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    made = None
    if optimizer.name == "adamw_8bit":
        made = _adamw_8bit(trained, optimizer, paged=ranks.device.type == "cuda")
        config["zero_allow_untested_optimizer"] = True
    else:
        config["optimizer"] = _optimizer_node(optimizer, offloaded)
    if optimizer.name == "muon":
        if any(len(getattr(p, "ds_shape", p.shape)) > 2 for p in trained):
            raise UserError(
                "trainer.optimizer=muon is for matrices, and this model holds its experts several to a parameter: "
                "choose trainer.optimizer=adamw"
            )
        if zero["stage"] == 3:
            zero["reduce_scatter"] = False  # Muon needs the complete gradient of a matrix
    compiling = _nothing_compiled() if ranks.device.type == "cpu" else nullcontext()
    with compiling, nullcontext() if made is None else _without_warning():
        engine, *_ = deepspeed.initialize(model=model, model_parameters=trained, optimizer=made, config=config)
    return Engine(engine, ranks, optimizer.name, autocast=dtype == "bfloat16" and not config["bf16"]["enabled"])


@contextmanager
def _without_warning() -> Iterator[None]:
    """Inside, DeepSpeed doesn't warn of an optimizer that it wasn't tested with."""
    logger = logging.getLogger("DeepSpeed")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """Inside, torch.compile returns its function as it is. DeepSpeed compiles Muon's iteration as it imports it: on a
    CPU that loads torch's compiler for two seconds, requires a C++ compiler, and takes longer than it saves."""
    compile_function = torch.compile
    torch.compile = lambda function=None, **_: function or (lambda decorated: decorated)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_function


def _as_config(settings: DeepSpeed, dtype: str) -> dict:
    """DeepSpeed's config without the optimizer: enough to shard a model."""
    config = settings.as_config()
    bf16 = uses_bf16_parameters(dtype, config["zero_optimization"]["stage"])
    return config | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "bf16": {"enabled": bf16},
    }


def _adam_arguments(optimizer: OptimizerSettings) -> dict[str, Any]:
    return {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": optimizer.weight_decay, "lr": optimizer.learning_rate}


def _adamw_8bit(parameters: list, optimizer: OptimizerSettings, paged: bool) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW with states in 8 bits (parameters of fewer than 4,096 elements: in 32); with `paged` the GPU
    may move them to the computer's memory. Raises UserError where bitsandbytes isn't installed."""
    require_package("bitsandbytes", "qlora", "trainer.optimizer=adamw_8bit")
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    return (PagedAdamW8bit if paged else AdamW8bit)(parameters, **_adam_arguments(optimizer))


def _optimizer_node(optimizer: OptimizerSettings, offloaded: bool) -> dict:
    # torch's AdamW needs no compiler; for an offloaded optimizer DeepSpeed's CPU Adam is worth compiling.
    adam = _adam_arguments(optimizer)
    if not offloaded:
        adam["torch_adam"] = True
    if optimizer.name == "adamw":
        return {"type": "AdamW", "params": adam}
    rates = {"muon_lr": optimizer.learning_rate, "adam_lr": optimizer.adam_learning_rate}
    return {"type": "Muon", "params": {**adam, **rates, "momentum": 0.95}}
