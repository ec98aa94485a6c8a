"""What a rank holds in memory, part by part, as DeepSpeed keeps it at each ZeRO stage.

Stages 1, 2 and 3 spread the optimizer's states over the ranks, then the gradients, then the parameters too (Rajbhandari
et al., "ZeRO: memory optimizations toward training trillion parameter models", 2020, section 3). What the paper leaves
out stands here as DeepSpeed 0.19 does it: buckets, parameters that stage 3 has gathered, and what an update makes.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlens.engine.engine import uses_bf16_parameters
from mlens.engine.settings import DeepSpeed
from mlens.plan.sketch import Counted

GIB = 2**30
FLOAT = 4
# DeepSpeed's defaults (runtime/zero/config.py), in numbers.
BUCKET = 500_000_000
LIVE = 1_000_000_000
PREFETCHED = 50_000_000
SUBGROUP = 1_000_000_000
# On a CPU, glibc's heap: small blocks don't fit into the holes that others left, so that they take more than their
# size; and what was freed in small blocks stays the process's. tests/plan/test_plan_measured.py compares.
HEAP = 1.25


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank. weights: with those that ZeRO-3 has gathered; gradients: with DeepSpeed's buckets, while rows
    are computed; optimizer: states and float32 masters; update: what there is beside weights and optimizer in an
    update; host: in the computer's memory, by offloading; activations, logits: of a training row; scoring: of an
    evaluation's row, both; process: of the program itself, on a CPU. heap: on a CPU, where nothing that rows take is
    given back; scattered: there, weights and all else are in small blocks too."""

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
        """At most, at once."""
        held, row = self.weights + self.optimizer, self.activations + self.logits
        if not self.heap:
            return held + max(self.gradients + row, self.update, self.scoring)
        large, small = held + max(self.gradients, self.update), max(row, self.scoring)
        if self.scattered:
            large, small = 0, large + small
        return self.process + large + round(HEAP * small)


def without_rows(model: Counted, deepspeed: DeepSpeed, dtype: str, optimizer: str, ranks: int, cuda: bool) -> Memory:
    """What is held whatever the rows are."""
    zero = deepspeed.zero_optimization
    stage, trained, everything = zero.stage, model.trained, model.parameters
    b = 2 if uses_bf16_parameters(dtype, stage) else FLOAT
    states = 2.0 * FLOAT
    if optimizer == "muon":  # which keeps one state of a matrix
        states -= FLOAT * model.sizes.trained / max(1, trained)
    # torch's AdamW makes one float32 of each number that it updates at once on a GPU, two on a CPU: there of one
    # parameter after the other, but ZeRO makes all of a rank's parameters one.
    temporary = FLOAT if cuda else 2 * FLOAT
    if stage == 0:
        bucket = FLOAT * min(trained, BUCKET) if ranks > 1 else 0
        return Memory(
            weights=FLOAT * everything,
            gradients=FLOAT * trained + bucket,
            optimizer=round(states * trained),
            update=FLOAT * trained + temporary * (trained if cuda else model.largest),
            heap=not cuda,
            scattered=not cuda,
        )
    share = trained / ranks
    # A bucket is taken whole on a GPU; on a CPU, what is written of it.
    size = zero.reduce_bucket_size or BUCKET
    buckets = b * (size if cuda else min(size, trained)) * (2 if zero.overlap_comm else 1)
    weights, gradients, masters = float(b * everything), b * share + buckets, (FLOAT + states) * share
    if stage == 1:
        gradients += b * trained
    # Before it is used, a gradient becomes float32.
    update = (temporary + FLOAT) * share
    if stage == 3:
        live = (zero.stage3_max_live_parameters or LIVE) + (zero.stage3_prefetch_bucket_size or PREFETCHED)
        weights = b * (everything / ranks + min(everything, live))
        update = gradients + (temporary + FLOAT) * min(share, zero.sub_group_size or SUBGROUP)
    elif not cuda:
        update += b * share  # the gradients that it was made of: freed, in small blocks
    host = 0.0
    if zero.offload_optimizer.device == "cpu":  # with a float32 gradient, and a copy in the parameters' type
        host = masters + (FLOAT + b) * share
        gradients, masters, update = gradients - b * share, 0.0, 0.0
    if zero.offload_param.device == "cpu":
        host, weights = host + b * everything / ranks, weights - b * everything / ranks
    if not cuda:  # one memory
        masters, host = masters + host, 0.0
    return Memory(round(weights), round(gradients), round(masters), round(update), round(host), heap=not cuda)
