"""The config node `deepspeed`: what may stand in it. DeepSpeed itself ignores keys that it doesn't know."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from mlens.errors import UserError


@dataclass(frozen=True)
class Offload:
    """Where a ZeRO part is kept; pin_memory: page-locked, for faster copies."""

    device: str = "none"
    pin_memory: bool = False

    def __post_init__(self) -> None:
        if self.device not in ("none", "cpu"):
            raise UserError(f"deepspeed.zero_optimization: an offload device must be none or cpu, not {self.device}")


@dataclass(frozen=True)
class ZeroOptimization:
    """DeepSpeed's `zero_optimization`; see its documentation for each key. null leaves DeepSpeed's default."""

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
        if self.stage not in (0, 1, 2, 3):
            raise UserError(f"deepspeed.zero_optimization.stage must be 0, 1, 2 or 3, not {self.stage}")
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
        """The node as DeepSpeed takes it, without what is left to its defaults."""
        return _without_nulls(asdict(self))


def checkpoint_bytes(numbers: int, trained: int, size: int) -> int:
    """About how large a checkpoint is, at most: parameters of `size` bytes each, and for those that are trained a
    float32 copy and the optimizer's two moments."""
    return numbers * size + 12 * trained


def _without_nulls(node: dict) -> dict:
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in node.items()
        if value is not None and value != {"device": "none", "pin_memory": False}
    }


@dataclass(frozen=True)
class OptimizerSettings:
    """How parameters are updated: `adamw`, or `muon` on matrices with AdamW at `adam_learning_rate` on the rest."""

    name: str
    learning_rate: float
    adam_learning_rate: float
    weight_decay: float
    gradient_clipping: float
