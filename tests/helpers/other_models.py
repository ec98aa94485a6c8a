"""Small random models of many architectures, saved like models of the Hugging Face Hub.

`torchrun … -m tests.helpers.other_models step MODEL FOLDER OVERRIDES` trains for two steps at stages 2 and 3, and
exports the models to FOLDER/stageN; `… load FOLDER` prints the memory that each rank takes to load a larger model at
stage 3.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mlens.engine.engine import param_placement
from mlens.model.load import build_model
from mlens.model.settings import Lora, NoPeft, PretrainedModel
from tests.helpers.steps import Parts, engine_steps, parts

WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
STATE_SPACE = {
    "layer_types": ["mamba", "attention"],
    **{"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_expand": 2, "mamba_n_groups": 1},
    **{"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 16},
}
LONGROPE = {
    **{"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 200},
    **{"short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
}
# model_type and fields of its config.
MODELS: dict[str, tuple[str, dict]] = {
    "tied": ("qwen3", {"head_dim": 8, "tie_word_embeddings": True}),
    "untied": ("qwen3", {"head_dim": 8, "tie_word_embeddings": False}),
    "moe": ("qwen3_moe", EXPERTS),
    "llama": ("llama", {"tie_word_embeddings": True}),
    "wide window": ("mistral", {"sliding_window": 256}),
    "narrow window": ("mistral", {"sliding_window": 100}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "attn_pdrop": 0.0}),
    "gpt2 with dropout": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "gemma2": ("gemma2", {"head_dim": 8}),
    "gpt_oss": ("gpt_oss", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("falcon", {"alibi": False}),
    "convolutions": ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    "state space": ("granitemoehybrid", STATE_SPACE),
    "longrope": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 200}),
    "chunks": (
        "llama4_text",
        {"attention_chunk_size": 64, "intermediate_size_mlp": 48, "moe_layers": [], "head_dim": 8},
    ),
    "both ways": ("bert", {}),
    "attention without arguments": ("nemotron", {"head_dim": 8}),
}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "dropout": 0.0}


def save_model(name: str, made: Parts, folder: Path) -> Path:
    """Save the model `name` and the tokenizer of `made`; weights are so large that every visible token matters."""
    kind, fields = MODELS[name]
    widths = WIDTHS if kind not in ("gpt2", "bloom") else {}
    ids = {"vocab_size": len(made.tokenizer), "bos_token_id": None}
    ids |= dict.fromkeys(("eos_token_id", "pad_token_id"), made.tokenizer.eos_token_id)
    config = AutoConfig.for_model(kind, **widths, **NO_DROPOUT, **fields, **ids, initializer_range=0.1)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


def with_model(folder: Path, *overrides: str, peft: Lora | NoPeft = NoPeft(), **fields) -> Parts:  # noqa: B008
    """Return the parts of a run with the model in `folder`, in float32."""
    made = parts(*overrides)
    settings = PretrainedModel(name=None, path=str(folder), dtype="float32", **fields)
    placement = param_placement(made.settings.deepspeed, "float32", made.ranks)
    return replace(made, model=build_model(settings, peft, made.tokenizer, 256, 0, placement))


def step(model: Path, folder: Path, *overrides: str) -> None:
    for stage in (2, 3):
        made = with_model(model, f"deepspeed=zero{stage}", *overrides)
        losses = engine_steps(made, engine := made.engine(), 2)
        engine.export(folder / f"stage{stage}", made.tokenizer)
        if made.ranks.main:
            print(f"stage{stage}", *losses, flush=True)


def load(folder: Path) -> None:
    """Print `rank R TOTAL SHARD PEAK`.

    TOTAL: bytes of the model.
    SHARD: bytes of this rank's shard.
    PEAK: bytes of memory (without mapped files) that loading took in this process, at most.
    """
    made = parts("deepspeed=zero3")
    placement = param_placement(made.settings.deepspeed, "bfloat16", made.ranks)
    widths = {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
    }
    for name, layers in (("small", 2), ("large", 48)):  # the small one loads the libraries
        config = AutoConfig.for_model(
            "qwen3", vocab_size=8000, num_hidden_layers=layers, tie_word_embeddings=True, **widths
        )
        made.ranks.on_main(lambda: save(config, folder / name, made))  # noqa: B023
        before, peak, done = anonymous_bytes(), [0], threading.Event()

        def watch(peak=peak, done=done) -> None:
            while not done.wait(0.002):
                peak.append(anonymous_bytes())

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        model = build_model(
            PretrainedModel(name=None, path=str(folder / name)), NoPeft(), made.tokenizer, 64, 0, placement
        )
        done.set()
        watching.join()
        sharded: list[Any] = [*model.parameters()]  # with DeepSpeed's attributes
        total, shard = sum(2 * p.ds_numel for p in sharded), sum(2 * p.ds_tensor.numel() for p in sharded)
    print("rank", made.ranks.rank, total, shard, max(peak) - before, flush=True)


def save(config, folder: Path, made: Parts) -> None:
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="50MB")
    made.tokenizer.save_pretrained(folder)


def anonymous_bytes() -> int:
    """Return the resident memory of this process without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, first, *rest = sys.argv[1:]
    if what == "step":
        step(Path(first), Path(rest[0]), *rest[1:])
    else:
        load(Path(first))
