"""Writes a random Qwen3 with the tokenizer of another model, for `model=hf`: a laptop's sizes, a large model's tokens.

    python benchmarks/random_qwen3.py TOKENIZER OUT                    the sizes of model=tiny
    python benchmarks/random_qwen3.py TOKENIZER OUT \\
        --layers 4 --hidden-size 512 --intermediate-size 1536 --heads 8 --kv-heads 2 --head-size 64
    python benchmarks/training.py --data DIR --model model=hf model.path=OUT model.dtype=float32

TOKENIZER: a folder with tokenizer.json, such as that of a Qwen3.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mlens.model.load import tiny_config
from mlens.model.settings import TinyModel

LONGEST = 16384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="the folder of a tokenizer")
    parser.add_argument("out", type=Path, help="the folder to write: config, weights and tokenizer")
    tiny = TinyModel()
    for name in ("layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "head_size"):
        default = getattr(tiny, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"({default})")
    options = vars(parser.parse_args())
    tokenizer, out = AutoTokenizer.from_pretrained(options.pop("tokenizer")), options.pop("out")
    torch.manual_seed(0)
    config = tiny_config(TinyModel(**options), len(tokenizer), tokenizer.eos_token_id, LONGEST)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{out}: a random Qwen3 of {config.num_hidden_layers} layers x {config.hidden_size}, float32")


if __name__ == "__main__":
    main()
