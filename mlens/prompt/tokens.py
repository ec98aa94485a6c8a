"""Tokenises data as plain text, and trains the tokenizer of the tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from mlens.data.cache import cached_folder, content_key
from mlens.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# How Qwen splits text before BPE: single digits, letters with at most one leading sign, line breaks with their blanks.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END = "<|endoftext|>"


class PlainText:
    """A copy of a tokenizer without added tokens: `<|im_end|>` or `<think>` in a title is ordinary text to it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(f"{tokenizer.name_or_path}: mlens needs a fast tokenizer (tokenizer.json)")
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        self._tokenizer = Tokenizer.from_str(json.dumps(state))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text: [tokens] int32."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]


def bos_ids(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the token that this tokenizer puts before every text, if any: [0 or 1] int32."""
    ids = [i for i in tokenizer("", add_special_tokens=True)["input_ids"] if i == tokenizer.bos_token_id][:1]
    return np.array(ids, dtype=np.int32)


def tiny_tokenizer(texts: Sequence[str], repeated: Sequence[str], vocab_size: int) -> Path:
    """Train a byte-level BPE tokenizer on the texts of the data, unless it is cached; returns its folder.

    It splits text as Qwen's tokenizer does, so prompts have the same borders.

    texts: the movies' texts.
    repeated: the texts that every prompt contains. Each is counted once a movie, so that it becomes few tokens.
    """
    key = content_key("tiny tokenizer", 1, list(texts), list(repeated), vocab_size)

    def write(folder: Path) -> None:
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([*texts, *(list(repeated) * len(texts))], trainer)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END).save_pretrained(folder)

    return cached_folder("tokenizers", key, write)
