"""Memory of a rank by part, as DeepSpeed allocates it at each ZeRO stage.

Stages 1, 2 and 3 partition the optimizer's states across ranks, then the gradients, then the parameters too
(Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models", 2020, section 3). What the
paper leaves out follows DeepSpeed 0.19: buckets, the parameters that stage 3 has gathered, and temporary tensors of an
update.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlens.engine.engine import uses_bf16_parameters
from mlens.engine.settings import STATE_BYTES, DeepSpeed
from mlens.plan.sketch import ModelCounts

GIB = 2**30
FLOAT = 4
# Bytes of an element in NF4: 4 bits, an 8-bit scale for each block of 64, and a float32 scale for 256 of these
# (Dettmers et al., "QLoRA", 2023, section 3: 0.127 bits for the scales).
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
# DeepSpeed's defaults (runtime/zero/config.py), in elements.
BUCKET = 500_000_000
LIVE = 1_000_000_000
PREFETCHED = 50_000_000
SUBGROUP = 1_000_000_000
# Fragmentation of glibc's heap, on a CPU: small blocks take more than their size, since they don't fit into the holes
# of freed ones, and freed small blocks aren't returned to the system. tests/plan/test_plan_measured.py compares.
HEAP = 1.25


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank.

    weights: parameters, including those that ZeRO-3 has gathered.
    gradients: gradients and DeepSpeed's buckets, during forward and backward passes.
    optimizer: optimizer states and float32 master weights.
    update: peak of an optimizer update on top of weights and optimizer.
    host: CPU memory used by offloading.
    heap: whether memory is the CPU's heap, which doesn't return what rows have taken.
    scattered: whether weights and all else are in small blocks of that heap too.
    activations: activations of a training row.
    logits: logits of a training row.
    scoring: activations and logits of an evaluation's row.
    process: the program itself, on a CPU.
    """

    weights: int
    gradients: int
    optimizer: int
    update: int
    host: int = 0
    heap: bool = False
    scattered: bool = False
    activations: int = 0
    logits: int = 0
    scoring: int = 0
    process: int = 0

    @property
    def total(self) -> int:
        """Peak bytes."""
        static, row = self.weights + self.optimizer, self.activations + self.logits
        if not self.heap:
            return static + max(self.gradients + row, self.update, self.scoring)
        large, small = static + max(self.gradients, self.update), max(row, self.scoring)
        if self.scattered:
            large, small = 0, large + small
        return self.process + large + round(HEAP * small)


def static_memory(
    model: ModelCounts, deepspeed: DeepSpeed, dtype: str, optimizer: str, ranks: int, cuda: bool
) -> Memory:
    """Return the memory of a rank without rows: weights, gradients, optimizer and update."""
    zero = deepspeed.zero_optimization
    stage, trained, everything = zero.stage, model.trained, model.parameters
    b = 2 if uses_bf16_parameters(dtype, stage) else FLOAT
    states = STATE_BYTES[optimizer]
    if optimizer == "muon":  # one state instead of two for a matrix
        states -= FLOAT * model.sizes.trained / max(1, trained)
    # torch's AdamW makes one float32 temporary an element on a GPU, for all elements at once, and two on a CPU, for one
    # parameter at a time; ZeRO flattens all of a rank's parameters into one.
    temporary = FLOAT if cuda else 2 * FLOAT
    if optimizer == "adamw_8bit":  # a GPU updates in place; a CPU dequantises the states first
        temporary = 0 if cuda else 5 * FLOAT
    if stage == 0:
        bucket = FLOAT * min(trained, BUCKET) if ranks > 1 else 0
        return Memory(
            weights=round(_weights(model, FLOAT)),
            gradients=FLOAT * trained + bucket,
            optimizer=round(states * trained),
            update=FLOAT * trained + temporary * (trained if cuda else model.largest),
            heap=not cuda,
            scattered=not cuda,
        )
    share = trained / ranks
    # A GPU allocates the full bucket; on a CPU only the pages that are written take memory.
    size = zero.reduce_bucket_size or BUCKET
    buckets = b * (size if cuda else min(size, trained)) * (2 if zero.overlap_comm else 1)
    weights, gradients, masters = _weights(model, b), b * share + buckets, (FLOAT + states) * share
    if stage == 1:
        gradients += b * trained
    # Gradients are cast to float32 for the update.
    update = (temporary + FLOAT) * share
    if stage == 3:
        live = (zero.stage3_max_live_parameters or LIVE) + (zero.stage3_prefetch_bucket_size or PREFETCHED)
        weights = b * (everything / ranks + min(everything, live))
        update = gradients + (temporary + FLOAT) * min(share, zero.sub_group_size or SUBGROUP)
    elif not cuda:
        update += b * share  # the gradients before the cast: freed, but in small blocks
    host = 0.0
    if zero.offload_optimizer.device == "cpu":  # plus a float32 gradient and a copy in the parameters' dtype
        host = masters + (FLOAT + b) * share
        gradients, masters, update = gradients - b * share, 0.0, 0.0
    if zero.offload_param.device == "cpu":
        host, weights = host + b * everything / ranks, weights - b * everything / ranks
    if not cuda:  # device memory is host memory
        masters, host = masters + host, 0.0
    return Memory(round(weights), round(gradients), round(masters), round(update), round(host), heap=not cuda)


def _weights(model: ModelCounts, size: int) -> float:
    """Return the bytes of unsharded parameters of `size` bytes each, and of those in 4 bits with the largest of them
    dequantised."""
    return size * (model.parameters - model.quantised + model.largest_quantised) + NF4 * model.quantised
