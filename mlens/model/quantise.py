"""4-bit weights under adapters (Dettmers et al., "QLoRA: efficient finetuning of quantized LLMs", NeurIPS 2023).

The weights of all linear layers but the output are stored as bitsandbytes' NF4 in blocks of 64, whose scales are
quantised too. They are frozen, and dequantised wherever a pass needs them. Embeddings, norms and the output layer stay
as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel

from mlens.packages import require_package


def quantisable_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """The linear layers that `quantise` stores in 4 bits, by name: all but the output layer and adapters."""
    output = model.get_output_embeddings()
    output = getattr(output, "base_layer", output)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output and ".lora_" not in name
    }


def quantise(model: PreTrainedModel, device: str, dtype: torch.dtype) -> None:
    """Quantise the model's linear layers in place, and freeze them.

    device: `cpu` or `cuda`, where they are quantised and stay.
    dtype: they compute in it.

    Raises UserError where bitsandbytes isn't installed.
    """
    require_package("bitsandbytes", "qlora", "peft=qlora")
    from bitsandbytes.nn import Linear4bit, Params4bit

    kind: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}
    for name, layer in quantisable_layers(model).items():
        small = Linear4bit(
            layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=dtype, device="meta", **kind
        )
        small.weight = Params4bit(layer.weight.data, requires_grad=False, module=small, **kind).to(device)
        small.bias = layer.bias
        # Otherwise scoring on some CPUs would change the layout of the weights, and training can't read that one.
        small.support_avx512bf16_for_cpu = False
        small.register_state_dict_post_hook(_without_scales)
        model.set_submodule(name, small)
    vars(model)["is_loaded_in_4bit"] = True  # for peft


def _without_scales(layer: torch.nn.Module, state: dict, prefix: str, metadata: Any) -> None:
    """Remove from a layer's state what isn't a parameter of it, which load_state_dict wouldn't take."""
    for name in [name for name in state if name.startswith(f"{prefix}weight.")]:
        del state[name]


def is_quantised(model: torch.nn.Module) -> bool:
    """Whether some of the model's weights are in 4 bits."""
    return any(_scales(parameter) is not None for parameter in model.parameters())


def element_count(parameter: torch.Tensor) -> int:
    """The number of elements of a parameter, where it is in 4 bits or sharded over ranks too."""
    scales = _scales(parameter)
    return getattr(parameter, "ds_numel", parameter.numel()) if scales is None else scales.shape.numel()


def dequantised(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's `state` on the CPU, with weights of the original type in place of 4-bit ones."""
    from bitsandbytes.functional import dequantize_4bit

    state = {name: tensor.cpu() for name, tensor in state.items()}
    for name, parameter in model.named_parameters():
        if _scales(parameter) is not None:
            state[name] = dequantize_4bit(parameter.data, _scales(parameter)).cpu()
    return state


def _scales(parameter: Any) -> Any:
    """bitsandbytes' `quant_state` of a 4-bit parameter; None of any other."""
    return getattr(parameter, "quant_state", None)
