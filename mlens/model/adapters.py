"""Low-rank adapters: adding them to a model, and merging them into its weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_utils import PreTrainedModel

from mlens.errors import UserError
from mlens.model.quantise import dequantised, is_quantised
from mlens.model.settings import Lora

if TYPE_CHECKING:
    from peft import PeftModel

# The prefix and infixes that peft adds to the names of parameters; its adapter is named "default".
PREFIX, BASE, A, B = "base_model.model.", ".base_layer.", ".lora_A.default.", ".lora_B.default."
MAGNITUDE = ".lora_magnitude_vector.default."


def with_adapters(model: PreTrainedModel, peft: Lora, checkpointing: bool, seed: int) -> PeftModel:
    """Add new adapters, drawn from `seed`, and freeze all other parameters. Raises UserError where `peft` wants them
    merged and they can't be."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    if checkpointing:
        # Otherwise the recomputed blocks get inputs without a gradient, and the adapters get none.
        model.enable_input_require_grads()
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=peft.r,
        lora_alpha=peft.alpha,
        lora_dropout=peft.dropout,
        target_modules=_targets(model) if peft.target_modules == ["all-linear"] else peft.target_modules,
        use_dora=peft.dora,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    output = adapted.get_output_embeddings()
    layers = [module for module in adapted.modules() if isinstance(module, BaseTunerLayer)]
    linear = all(isinstance(layer.get_base_layer(), torch.nn.Linear) and layer is not output for layer in layers)
    if peft.merge and not linear:
        raise UserError(
            "peft.merge=true is for inner linear layers alone (embeddings and output may be one tensor): leave others "
            f"out of peft.target_modules={peft.target_modules}"
        )
    return adapted


def adapter_shapes(model: Any) -> Iterator[tuple[int, int, int]]:
    """Yield (rank, input size, output size) of each adapter of a linear layer."""
    weights = dict(model.named_parameters())
    for name, down in weights.items():
        if A in name:
            yield (*down.shape, weights[name.replace(A, B)].shape[0])


def _targets(model: PreTrainedModel) -> str | list[str]:
    """The value of peft's `target_modules` that stands for all linear layers but the output.

    In a mixture of experts peft's `all-linear` would adapt the experts and their router too, by adding to their full
    weights in every pass: that needs memory for all experts, and fails where ZeRO-3 shards them. So there these are the
    names of the linear layers.
    """
    if all(len(getattr(p, "ds_shape", p.shape)) <= 2 for p in model.parameters()):
        return "all-linear"
    output = model.get_output_embeddings()
    linear = {
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not output
    }
    return sorted({name.rpartition(".")[2] for name in linear})


def without_adapters(model: Any, state: dict[str, torch.Tensor]) -> tuple[PreTrainedModel, dict]:
    """The base model of a PeftModel, and its state with the adapters merged into its weights."""
    adapter = model.peft_config["default"]
    if is_quantised(model):
        state = dequantised(model, state)
    return model.get_base_model(), merged(state, adapter.lora_alpha / adapter.r)


def merged(state: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Merge the adapters of a state: W + scale B A takes the place of W, summed in float32 and stored in the type of W.

    With DoRA each row of the sum is scaled to its magnitude (Liu et al., 2024, equation 5).
    """
    plain = {}
    for name, tensor in state.items():
        if A in name or B in name or MAGNITUDE in name:
            continue
        if BASE in name and name.endswith("weight"):
            down, up = (state[name.replace(BASE, part)] for part in (A, B))
            adapted = tensor.float() + scale * up.float() @ down.float()
            magnitude = state.get(name.replace(BASE, MAGNITUDE))
            if magnitude is not None:
                adapted *= magnitude.float()[:, None] / adapted.norm(dim=1, keepdim=True)
            tensor = adapted.to(tensor.dtype)
        plain[name.removeprefix(PREFIX).replace(BASE, ".")] = tensor
    return plain
