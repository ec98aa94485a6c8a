"""The config nodes `model` and `peft`. Doesn't import torch, because they are checked before slow imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mlens.checks import require_choice, require_number
from mlens.errors import UserError

DTYPES = ("float32", "bfloat16")
ROWS = "rows"
# Packed rows, or an attention of transformers. Any other name transformers would download as a kernel, and run.
ATTENTIONS = (ROWS, "sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")


@dataclass(frozen=True)
class BaseTraining:
    """The training of the base model of model=tiny_base, which all strategies start from.

    Every rating of an excerpt of a user's history is predicted from those before it.

    lines: the lengths of the excerpts in ratings, trained on one after another; empty for no base model.
    steps: training steps with each length.
    interleaved: the number of consecutive excerpts that exchange their ratings at random, anew each epoch.
    target_share: the share of ratings that are predicted as the target of a prompt; the others in their history lines.
    ratings_per_step: ratings of one update.
    learning_rate: of Muon, for matrices.
    adam_learning_rate: of AdamW, for embeddings, output layer and norms.
    dropout: the probability with which an element of an embedding is zeroed in training.
    weight_decay, row_tokens, seed: as in trainer, packing and the root.
    """

    lines: list[int] = field(default_factory=list)
    steps: int = 1500
    interleaved: int = 4
    target_share: float = 0.25
    ratings_per_step: int = 96
    learning_rate: float = 0.01
    adam_learning_rate: float = 0.003
    dropout: float = 0.0
    weight_decay: float = 0.03
    row_tokens: int = 8192
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.lines, default=2) < 2:
            raise UserError(f"model.base.lines must be lengths of at least 2, not {self.lines}")
        require_number("model.base.target_share", self.target_share, at_least=0, at_most=1)
        for name in ("steps", "interleaved", "ratings_per_step", "row_tokens"):
            require_number(f"model.base.{name}", getattr(self, name), at_least=1)
        for name in ("learning_rate", "adam_learning_rate"):
            require_number(f"model.base.{name}", getattr(self, name), above=0)
        require_number("model.base.weight_decay", self.weight_decay, at_least=0)
        require_number("model.base.dropout", self.dropout, at_least=0, at_most=0.9)


@dataclass(frozen=True)
class TinyModel:
    """A random Qwen3 of these sizes, with a tokenizer made of the data.

    vocab_size: tokens from byte-pair encoding; each title, bracket of genres and rating is one more.
    dtype: float32 or bfloat16.
    attention: `rows` (packed rows), or an attention of transformers (with packing=reference).
    gradient_checkpointing: recompute activations in the backward pass to save memory.
    compile: compile the layers with torch.compile (a minute at the first step, then fewer passes over memory).
    base: the training on the training ratings before the run, if any.
    """

    vocab_size: int = 4096
    hidden_size: int = 64
    layers: int = 3
    heads: int = 2
    kv_heads: int = 1
    head_size: int = 32
    intermediate_size: int = 192
    dtype: str = "float32"
    attention: str = ROWS
    gradient_checkpointing: bool = False
    compile: bool = False
    base: BaseTraining = field(default_factory=BaseTraining)

    def __post_init__(self) -> None:
        require_choice("model.dtype", self.dtype, DTYPES)
        require_choice("model.attention", self.attention, ATTENTIONS)
        for name in ("hidden_size", "layers", "heads", "kv_heads", "head_size", "intermediate_size"):
            require_number(f"model.{name}", getattr(self, name), at_least=1)
        if self.vocab_size < 300:
            raise UserError(f"model.vocab_size must be at least 300 (256 bytes and some words), not {self.vocab_size}")
        if self.heads % self.kv_heads:
            raise UserError(f"model.heads must be a multiple of model.kv_heads: {self.heads} and {self.kv_heads}")


@dataclass(frozen=True)
class PretrainedModel:
    """A causal language model from a local folder or a hub.

    name, revision: on a hub.
    path: a local folder, which takes precedence.
    dtype, attention, gradient_checkpointing, compile: as for the tiny model.
    trust_remote_code: run code that comes with the model; only for a model that you trust as you trust a program.
    """

    name: str | None
    revision: str | None = None
    path: str | None = None
    dtype: str = "bfloat16"
    attention: str = ROWS
    gradient_checkpointing: bool = True
    compile: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        require_choice("model.dtype", self.dtype, DTYPES)
        require_choice("model.attention", self.attention, ATTENTIONS)
        if self.name is None and self.path is None:
            raise UserError("model=hf needs a model: model.path=FOLDER or model.name=HUB_ID")
        if self.path is not None:
            folder = Path(self.path).expanduser()
            if not (folder / "config.json").is_file():
                raise UserError(f"model.path={self.path} holds no config.json: give the folder of a saved model")
            if not (folder / "tokenizer.json").is_file():
                raise UserError(f"model.path={self.path} holds no tokenizer.json: save the model's tokenizer there")


@dataclass(frozen=True)
class NoPeft:
    """peft=none: all parameters are trained."""


@dataclass(frozen=True)
class Lora:
    """peft=lora, dora, qlora: low-rank adapters (Hu et al., "LoRA", ICLR 2022).

    r: their rank.
    alpha: their scale is alpha / r.
    dropout: of their input.
    target_modules: the names of the adapted modules; a single `all-linear` means all linear layers except the output
        layer, experts and their router.
    dora: also train the magnitude of each row of an adapted weight, which is W' = m (W + s B A) / ||W + s B A|| (Liu et
        al., "DoRA: weight-decomposed low-rank adaptation", ICML 2024); adapters and magnitudes start at W' = W.
    load_in_4bit: keep the weights of the linear layers frozen in 4 bits (`mlens.model.quantise`).
    merge: export the model with the adapters merged into its weights, instead of only the adapters; 4-bit weights are
        dequantised.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    dora: bool = False
    load_in_4bit: bool = False
    merge: bool = False

    def __post_init__(self) -> None:
        require_number("peft.r", self.r, at_least=1)
        require_number("peft.alpha", self.alpha, at_least=1)
        require_number("peft.dropout", self.dropout, at_least=0, below=1)
