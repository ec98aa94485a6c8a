"""Tokenizers and prompt styles for tests."""

from functools import cache
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mlens.data.raw import HALF_STARS
from mlens.launch import register_resolvers
from mlens.prompt.pieces import DIALOGUE_HEADER, HISTORY_HEADER
from mlens.prompt.settings import Ablation, Style
from mlens.prompt.tokens import PlainText, tiny_tokenizer

ROOT = Path(__file__).parents[2]
QWEN3 = ROOT.parent / "shared" / "qwen3-tokenizer"
needs_qwen3 = pytest.mark.skipif(not QWEN3.is_dir(), reason="needs ../shared/qwen3-tokenizer")
END = "<|endoftext|>"
ABLATIONS = {
    path.stem: Ablation(**{k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "_target_"})
    for path in sorted((ROOT / "conf" / "ablation").glob("*.yaml"))
}
EVERYTHING = ABLATIONS["profile_and_history_and_context"]
HISTORY = ABLATIONS["history_only"]


def style(name="simple", **fields) -> Style:
    """Return a style of conf/prompt/ for films, with other values for some fields."""
    register_resolvers()
    node = yaml.safe_load((ROOT / "conf" / "prompt" / f"{name}.yaml").read_text())
    resolved = OmegaConf.create({"data": {}, "prompt": node}).prompt
    values = {str(key): value for key, value in resolved.items() if key not in ("_target_", "defaults")}
    return style(node["defaults"][0], **(values | fields)) if "defaults" in node else Style(**(values | fields))


@cache
def qwen3():
    return AutoTokenizer.from_pretrained(QWEN3)


@cache
def tiny():
    """Return a tiny tokenizer trained on some titles and the fixed texts of the simple prompt."""
    titles = [f" Movie {chr(65 + m % 26)}{m} ({1980 + m}) (Comedy, Drama, Sci-Fi):" for m in range(40)]
    frame = [f"[TASK]\n{style().task}", HISTORY_HEADER, DIALOGUE_HEADER, f":\n\n{style().question}"]
    return AutoTokenizer.from_pretrained(tiny_tokenizer(titles, frame, [str(rating) for rating in HALF_STARS], 700))


@cache
def tiny_dated():
    """Return a tiny tokenizer for prompts with dates, trained on the titles of `tiny` and four days."""
    titles = [f" Movie {chr(65 + m % 26)}{m} ({1980 + m}) (Comedy, Drama, Sci-Fi)," for m in range(40)]
    frame = [f"[TASK]\n{style().task}", HISTORY_HEADER, DIALOGUE_HEADER, f":\n\n{style().question}"]
    dates = [f" 1998-03-{day}:" for day in range(13, 17)]
    ratings = [str(rating) for rating in HALF_STARS]
    return AutoTokenizer.from_pretrained(tiny_tokenizer(titles, frame, ratings, 700, dates))


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


@cache
def metaspace():
    """Return a tokenizer that starts every text with a space, so that pieces can't be joined."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator([f"1. Movie A{m} (1980) (Comedy, Drama): 5.0" for m in range(40)], trainer)
    return wrap(tokenizer)


@cache
def growing():
    """Return a tokenizer of characters in which a space after `.` or `:` becomes six tokens.

    So a prompt has more tokens than its pieces.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(Regex(r"([.:]) "), ".~~~~~~")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["nothing"], trainer)
    return wrap(tokenizer)


def plain_ids(tokenizer, text: str) -> list[int]:
    """Return the ids of a text without added tokens."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@cache
def plain(tokenizer) -> PlainText:
    return PlainText(tokenizer)


def text_ids(tokenizer, text: str) -> list[int]:
    """Return the ids of any text; the strings of added tokens, such as `<|im_end|>`, are tokenised as plain text."""
    return plain(tokenizer).encode([text])[0].tolist()
