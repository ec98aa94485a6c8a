"""Memory of a row, measured by running the model on tensors without data.

The model's code runs on fake tensors (torch's FakeTensorMode), which have shapes and take no memory; every tensor that
it allocates is counted while it is alive. So activations are counted for any architecture, with or without
checkpointing, adapters and autocast, while formulas (Korthikanti et al., "Reducing activation recomputation in large
transformer models", 2022) hold for one kind of layer. All layers are alike, so the cost of a layer is extrapolated from
two models of few layers.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig
from transformers.modeling_utils import PreTrainedModel

from mlens.model.adapters import adapter_shapes, with_adapters
from mlens.model.flops import Sizes
from mlens.model.load import in_training_form
from mlens.model.losses import row_loss
from mlens.model.quantise import quantisable_layers
from mlens.model.scores import row_scores
from mlens.model.settings import ROWS, Lora, NoPeft, PretrainedModel, TinyModel
from mlens.packing.row import Row

SKETCHED_ATTENTION = "mlens_sketched"
# Numbers of layers to extrapolate from, for a model with more: from the second on, each layer adds the same.
FEW = (2, 3)


@dataclass(frozen=True)
class RowBytes:
    """Peak bytes of a row, on top of weights, gradients and optimizer.

    activations: of the layers.
    logits: of the labels' logits and the loss.
    """

    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.activations + self.logits


def largest(rows: Sequence[RowBytes]) -> RowBytes:
    """Return the maximum over rows of each part; 0 without rows."""
    return RowBytes(max((row.activations for row in rows), default=0), max((row.logits for row in rows), default=0))


@dataclass(frozen=True)
class ModelCounts:
    """Sizes of a model.

    parameters: number of elements of all parameters.
    trained: number of elements of trained parameters.
    largest: number of elements of the largest parameter.
    sizes: the sizes that floating-point operations depend on.
    quantised: number of elements of parameters in 4 bits.
    largest_quantised: number of elements of the largest of these.
    """

    parameters: int
    trained: int
    largest: int
    sizes: Sizes
    quantised: int = 0
    largest_quantised: int = 0


@dataclass(frozen=True)
class Sketch:
    """A model in training form, without weights.

    config: the model's config.
    settings: the config node `model`.
    peft: the config node `peft`.
    bf16: whether parameters are in bfloat16.
    autocast: whether it computes in bfloat16 over float32 parameters.
    """

    config: PretrainedConfig
    settings: TinyModel | PretrainedModel
    peft: NoPeft | Lora
    bf16: bool
    autocast: bool

    def count(self) -> ModelCounts:
        """Count the model's parameters."""
        with torch.device("meta"):
            model = self._model(self.config)
            named = dict(model.named_parameters())  # tied parameters once
            embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
            layers = int(self.config.num_hidden_layers)
            dora = isinstance(self.peft, Lora) and self.peft.dora
            quantised = []
            if isinstance(self.peft, Lora) and self.peft.load_in_4bit:
                quantised = [layer.weight.numel() for layer in quantisable_layers(model).values()]
            body = trained = 0
            for parameter in named.values():
                if parameter.ndim < 2 or parameter is embedding.weight or parameter is output.weight:
                    continue
                numbers = _active(self.config, parameter)
                body += numbers
                trained += numbers if parameter.requires_grad else 0
            heads = self.config.num_attention_heads
            width = getattr(self.config, "head_dim", None) or self.config.hidden_size // heads
            return ModelCounts(
                parameters=sum(p.numel() for p in named.values()),
                trained=sum(p.numel() for p in named.values() if p.requires_grad),
                largest=max(p.numel() for p in named.values()),
                sizes=Sizes(
                    layers,
                    heads * width,
                    body,
                    trained,
                    output.weight.numel(),
                    output.weight.requires_grad,
                    sum(rank * size * (size + out) for rank, size, out in adapter_shapes(model)) if dora else 0,
                ),
                quantised=sum(quantised),
                largest_quantised=max(quantised, default=0),
            )

    def training(self, row: Row) -> RowBytes:
        """Measure a forward and a backward pass."""
        return self._over_layers(row, training=True)

    def scoring(self, row: Row) -> RowBytes:
        """Measure a forward pass without gradients."""
        return self._over_layers(row, training=False)

    def _over_layers(self, row: Row, training: bool) -> RowBytes:
        """Measure the model, or extrapolate linearly from models of few layers."""
        layers = int(self.config.num_hidden_layers)
        if layers <= FEW[1]:
            return RowBytes(*self._measure(self.config, row, training))
        few, more = (self._measure(_with_layers(self.config, n), row, training) for n in FEW)
        values = [a + (b - a) * (layers - FEW[0]) // (FEW[1] - FEW[0]) for a, b in zip(few, more, strict=True)]
        return RowBytes(*values)

    def _measure(self, config: PretrainedConfig, row: Row, training: bool) -> tuple[int, int]:
        """Return the peak bytes of activations and of logits."""
        with torch.device("meta"):  # for construction only: meta tensors don't support autocast
            model = self._model(config).train(training)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.set_grad_enabled(training):
            model.to_empty(device="cpu").tie_weights()
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(_drop_gradient)  # counted in memory.py
            with Live([*model.parameters(), *model.buffers()]) as live:
                output = OutputLayer(model, live)
                scores = row_scores(model, row, self.autocast)
                if training:
                    row_loss(scores, row).backward()
                output.leave()
            # If the peak is in a layer's backward pass, the logits are freed by then, and the rest is that layer's.
            return live.peak - output.bytes, output.bytes

    def _model(self, config: PretrainedConfig) -> Any:
        attention = self.settings.attention
        if attention == ROWS:
            attention = SKETCHED_ATTENTION
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention, dtype=dtype)
        model = in_training_form(model, self.settings.gradient_checkpointing)
        if isinstance(self.peft, Lora):
            model = with_adapters(model, self.peft, self.settings.gradient_checkpointing, seed=0)
        return model.to(dtype)  # as DeepSpeed does, adapters included


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are allocated in the context, while they are alive.

    live: bytes alive now.
    peak: maximum of `live` so far.
    """

    def __init__(self, known: list[torch.Tensor]) -> None:
        """Start at 0 bytes; the tensors in `known` aren't counted."""
        super().__init__()
        self.live = self.peak = 0
        self._bytes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor):
                self._note(made.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._bytes:
            self._bytes[storage._cdata] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.live -= self._bytes.pop(key)


class OutputLayer:
    """Measures the output layer and the loss.

    bytes: peak on top of the bytes alive when the output layer is entered, until its input's gradient is computed.
    """

    def __init__(self, model: PreTrainedModel, live: Live) -> None:
        self.bytes, self._live, self._start, self._earlier = 0, live, 0, 0
        model.get_output_embeddings().register_forward_pre_hook(self._enter)

    def _enter(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        live = self._live
        self._start, self._earlier, live.peak = live.live, live.peak, live.live
        if inputs[0].requires_grad:
            inputs[0].register_hook(lambda _: self.leave())

    def leave(self) -> None:
        if not self.bytes:
            self.bytes = self._live.peak - self._start
            self._live.peak = max(self._live.peak, self._earlier)


class _Attention(torch.autograd.Function):
    """The tensors that a fused attention allocates and saves (Dao et al., "FlashAttention", NeurIPS 2022): its result
    and one float32 a query. Nothing is computed."""

    @staticmethod
    def forward(ctx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        result, log_sum = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, result, log_sum)
        return result

    @staticmethod
    def backward(ctx, grad):
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _sketched_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
    return _Attention.apply(query, key, value).transpose(1, 2), None


AttentionInterface.register(SKETCHED_ATTENTION, _sketched_attention)


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _with_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """Return the config of the same model with this number of layers."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return config


def _active(config: PretrainedConfig, parameter: torch.Tensor) -> int:
    """Return the number of elements of a matrix that a token uses: of stacked experts, only those it is routed to."""
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if experts and parameter.ndim == 3 and parameter.shape[0] == experts:
        return parameter.numel() * int(config.num_experts_per_tok) // int(experts)
    return parameter.numel()
