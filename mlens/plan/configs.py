"""Model configs without weights: from the model's config.json, or as published on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from mlens.errors import UserError
from mlens.model.load import BROKEN, tiny_config
from mlens.model.settings import PretrainedModel, TinyModel
from mlens.text import first_line


def _sizes(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, tied: bool) -> dict[str, Any]:
    return {
        "vocab_size": 151_936,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "intermediate_size": intermediate,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 40_960,
    }


_EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True}
# The models of conf/model, with the values of their config.json on the hub.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-0.6B": {"model_type": "qwen3", **_sizes(1024, 28, 16, 8, 3072, tied=True)},
    "Qwen/Qwen3-1.7B": {"model_type": "qwen3", **_sizes(2048, 28, 16, 8, 6144, tied=True)},
    "Qwen/Qwen3-4B": {"model_type": "qwen3", **_sizes(2560, 36, 32, 8, 9728, tied=True)},
    "Qwen/Qwen3-8B": {"model_type": "qwen3", **_sizes(4096, 36, 32, 8, 12_288, tied=False)},
    "Qwen/Qwen3-14B": {"model_type": "qwen3", **_sizes(5120, 40, 40, 8, 17_408, tied=False)},
    "Qwen/Qwen3-30B-A3B": {"model_type": "qwen3_moe", **_sizes(2048, 48, 32, 4, 6144, tied=False), **_EXPERTS},
}


def model_config(
    settings: TinyModel | PretrainedModel, tokenizer: PreTrainedTokenizerBase, longest: int
) -> tuple[PretrainedConfig, str]:
    """Return the model's config and where it is from, in words. Raises UserError if there is none."""
    if isinstance(settings, TinyModel):
        return tiny_config(settings, len(tokenizer), tokenizer.eos_token_id, longest), "as model.* says"
    if settings.path is not None:
        where, options = str(Path(settings.path).expanduser()), {}
    else:
        assert settings.name is not None
        if settings.name in PUBLISHED:
            return AutoConfig.for_model(**PUBLISHED[settings.name]), f"as published for {settings.name}"
        where, options = settings.name, {"revision": settings.revision}
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=settings.trust_remote_code, **options)
    except BROKEN as error:
        raise UserError(
            f"can't read the model's config: {where}: {first_line(error)}. "
            "Give a folder with a config.json as model.path=FOLDER"
        ) from error
    return config, f"from {where}/config.json"
