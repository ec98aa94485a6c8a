"""Tokenizers and prompt styles that the prompt's tests share."""

from functools import cache
from pathlib import Path

import pytest
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

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
    """A choice of conf/prompt/, with other values for some fields."""
    node = yaml.safe_load((ROOT / "conf" / "prompt" / f"{name}.yaml").read_text())
    own = {key: value for key, value in node.items() if key not in ("_target_", "defaults")}
    return style(node["defaults"][0], **(own | fields)) if "defaults" in node else Style(**(own | fields))


@cache
def qwen3():
    return AutoTokenizer.from_pretrained(QWEN3)


@cache
def tiny():
    """A tiny tokenizer of some titles and the simple prompt's words."""
    titles = [f" Movie {chr(65 + m % 26)}{m} ({1980 + m}) (Comedy, Drama, Sci-Fi):" for m in range(40)]
    frame = [f"[TASK]\n{style().task}", HISTORY_HEADER, DIALOGUE_HEADER, f":\n\n{style().question}"]
    return AutoTokenizer.from_pretrained(tiny_tokenizer(titles, frame, 700))


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


@cache
def metaspace():
    """Blanks begin words, and so does every text: a piece on its own gets a blank that the whole hasn't."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator([f"1. Movie A{m} (1980) (Comedy, Drama): 5.0" for m in range(40)], trainer)
    return wrap(tokenizer)


@cache
def growing():
    """Characters, where a blank after a sign becomes six: a whole prompt is longer than its pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(Regex(r"([.:]) "), ".~~~~~~")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["nothing"], trainer)
    return wrap(tokenizer)


def plain_ids(tokenizer, text: str) -> list[int]:
    """The ids of a text that holds none of the tokenizer's added tokens."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@cache
def plain(tokenizer) -> PlainText:
    return PlainText(tokenizer)


def whole_ids(tokenizer, text: str) -> list[int]:
    """The ids of any text, whose `<|im_end|>` and the like are characters."""
    return plain(tokenizer).encode([text])[0].tolist()
