"""The config node `deepspeed`. Its keys are checked here, since DeepSpeed ignores keys that it doesn't know."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from mlens.checks import require_choice
from mlens.errors import UserError


@dataclass(frozen=True)
class Offload:
    """Where a part of ZeRO's state is kept.

    device: `none` (the GPU) or `cpu`.
    pin_memory: whether the memory is page-locked, for faster copies.
    """

    device: str = "none"
    pin_memory: bool = False

    def __post_init__(self) -> None:
        require_choice("deepspeed.zero_optimization: an offload device", self.device, ("none", "cpu"))


@dataclass(frozen=True)
class ZeroOptimization:
    """DeepSpeed's `zero_optimization`; its documentation explains each key. null leaves DeepSpeed's default."""

    stage: int = 2
    overlap_comm: bool | None = None
    contiguous_gradients: bool | None = None
    reduce_scatter: bool | None = None
    reduce_bucket_size: int | None = None
    allgather_partitions: bool | None = None
    allgather_bucket_size: int | None = None
    round_robin_gradients: bool | None = None
    sub_group_size: int | None = None
    stage3_prefetch_bucket_size: int | None = None
    stage3_param_persistence_threshold: int | None = None
    stage3_max_live_parameters: int | None = None
    stage3_max_reuse_distance: int | None = None
    stage3_gather_16bit_weights_on_model_save: bool | None = None
    offload_optimizer: Offload = field(default_factory=Offload)
    offload_param: Offload = field(default_factory=Offload)

    def __post_init__(self) -> None:
        require_choice("deepspeed.zero_optimization.stage", self.stage, (0, 1, 2, 3))
        if self.offload_optimizer.device != "none" and self.stage < 1:
            raise UserError("deepspeed.zero_optimization.offload_optimizer needs stage 1, 2 or 3")
        if self.offload_param.device != "none" and self.stage != 3:
            raise UserError("deepspeed.zero_optimization.offload_param needs stage 3")


@dataclass(frozen=True)
class DeepSpeed:
    """The node that goes to `deepspeed.initialize`. Batch sizes, precision, optimizer and clipping are added from the
    trainer and the model, so that each is set in one place."""

    zero_optimization: ZeroOptimization = field(default_factory=ZeroOptimization)

    def as_config(self) -> dict:
        """The node as DeepSpeed takes it, without the keys that keep DeepSpeed's defaults."""
        return _without_nulls(asdict(self))


# Bytes of an optimizer's states for a parameter. In 8 bits each block of 256 has a float32 scale (Dettmers et al.,
# "8-bit optimizers via block-wise quantization", ICLR 2022). Muon has one state of a matrix, two of other parameters.
STATE_BYTES = {"adamw": 8.0, "muon": 8.0, "adamw_8bit": 2 * (1 + 4 / 256)}


def checkpoint_bytes(numbers: int, trained: int, size: int, states: float) -> int:
    """An upper estimate of the size of a checkpoint, in bytes.

    numbers: how many parameters it holds.
    trained: how many of them are trained; each adds a float32 copy and the optimizer's two moments.
    size: bytes of a parameter.
    states: bytes of the moments of a parameter (`STATE_BYTES`).
    """
    return numbers * size + round((4 + states) * trained)


def _without_nulls(node: dict) -> dict:
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in node.items()
        if value is not None and value != {"device": "none", "pin_memory": False}
    }


@dataclass(frozen=True)
class OptimizerSettings:
    """How parameters are updated.

    name: `adamw`, `adamw_8bit` (its states in 8 bits), or `muon` for the matrices of the layers, with AdamW for all
        other parameters (embeddings, output layer, norms).
    learning_rate: of AdamW, or of Muon.
    adam_learning_rate: of AdamW where `name` is `muon`.
    weight_decay: of all parameters.
    gradient_clipping: limit of the global norm; 0 for none.
    """

    name: str
    learning_rate: float
    adam_learning_rate: float
    weight_decay: float
    gradient_clipping: float
