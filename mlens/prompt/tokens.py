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


def tiny_tokenizer(
    movies: Sequence[str], repeated: Sequence[str], ratings: Sequence[str], vocab_size: int, dates: Sequence[str] = ()
) -> Path:
    """Train a byte-level BPE tokenizer on the texts of the data, unless it is cached; returns its folder.

    Each title, each bracket of genres and each rating of the data is one token, and so are the year, the month and the
    day of a date; others are bytes and what BPE merged. Everything else is split as Qwen's tokenizer does, so prompts
    have the same borders.

    movies: the movies' texts in a history, ` Title (1995) (Comedy):`, with a comma at the end if there are dates.
    repeated: the texts that every prompt contains. Each is counted once a movie, so that it becomes few tokens.
    ratings: the legal ratings, `4.5`.
    vocab_size: the number of tokens from BPE, bytes included; the titles, brackets, ratings and dates come on top.
    dates: the days of the ratings, ` 1998-03-13:`; empty for prompts without dates.
    """
    key = content_key("tiny tokenizer", 3, list(movies), list(repeated), list(ratings), vocab_size, list(dates))

    def write(folder: Path) -> None:
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = _split(QWEN_SPLIT)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([*movies, *(list(repeated) * len(movies))], trainer)
        tokenizer = _with_words(tokenizer, _words(bool(dates)), [*movies, *ratings, *dates])
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END).save_pretrained(folder)

    return cached_folder("tokenizers", key, write)


def _split(pattern: str) -> pre_tokenizers.Sequence:
    """Split text into the matches of a pattern and what lies between them, and write both as bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _words(dates: bool) -> str:
    """Return the pattern of what is kept together, so that it can be one token.

    A title to its year, where the genres' bracket or the end of the film follows; the genres' bracket; a rating. A film
    ends in a colon or, in prompts with dates, a comma. There the year, the month and the day of a date are kept
    together too.
    """
    end = "[:,]" if dates else ":"
    title = rf" [^\r\n]*?\(\d{{4}}\)(?={end}| \([^()\r\n]*\){end})"
    genres = rf" \([^()\r\n]*\)(?={end})"
    date = r" \d{4}(?=-\d\d-\d\d:)|-\d\d(?=-\d\d:|:)"
    rating = r"\d\.\d"
    return "|".join([title, genres, date, rating] if dates else [title, genres, rating])


def _with_words(tokenizer: Tokenizer, pattern: str, texts: Sequence[str]) -> Tokenizer:
    """Return the tokenizer with a token for each match of `pattern` in these texts."""
    words = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for text in texts:
        for word, _ in words.pre_tokenize_str(text):
            vocabulary.setdefault(as_bytes.pre_tokenize_str(word)[0][0], len(vocabulary))
    state["model"]["ignore_merges"] = True  # a word of the vocabulary is its token, whether merges lead to it or not
    made = Tokenizer.from_str(json.dumps(state))
    made.pre_tokenizer = _split(f"{pattern}|{QWEN_SPLIT}")
    return made
