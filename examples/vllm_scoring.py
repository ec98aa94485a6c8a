"""Score prompts with vLLM: the probability of every rating, and the expected rating.

    mlens predict RUN --history ratings.csv --movies movies.csv --prompts --output to_serve.json
    python examples/vllm_scoring.py RUN/model to_serve.json --output scored.json

A rating is several tokens (`4`, `.`, `5`, end), so the first generated token can't distinguish 4.0 from 4.5. Each
legal rating is appended to the prompt instead, and `prompt_logprobs` gives the log-probability of its tokens. Their
sums, normalised over the legal ratings, are the probabilities.

The script needs vLLM, and not mlens.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The columns of the prompts themselves; the others are ids and titles.
PROMPT = ("prompt", "prompt_token_ids", "text_is_enough")


def main() -> None:
    parser = argparse.ArgumentParser(description="Score the prompts of mlens predict --prompts with vLLM.")
    parser.add_argument("model", type=Path, metavar="MODEL", help="the folder model/ of a run")
    parser.add_argument("prompts", type=Path, metavar="PROMPTS", help="the JSON file of mlens predict --prompts")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON (without it, print the expected ratings)")
    parser.add_argument(
        "--dtype",
        default="auto",
        help="vLLM's precision: float32 is closer to a model trained in float32 (default: auto, mostly bfloat16)",
    )
    options = parser.parse_args()
    if (options.model / "adapter_config.json").is_file():
        sys.exit(f"error: {options.model} holds an adapter: train with peft.merge=true")
    try:
        scale = json.loads((options.model / "mlens.json").read_text(encoding="utf-8"))["scale"]
        prompts = json.loads(options.prompts.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    try:
        from vllm import LLM
    except ImportError as error:
        sys.exit(f"error: vLLM isn't installed ({error}): https://docs.vllm.ai says how to install it")
    records = score(LLM(model=str(options.model), dtype=options.dtype), scale, prompts)
    if options.output is None:
        for record in records:
            print(f"{record['expected']:.3f}  {record['title']}")
    else:
        options.output.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
        print(options.output)


def score(llm: Any, scale: Sequence[float], prompts: Sequence[dict]) -> list[dict]:
    """Return the records of `prompts` without their prompts, with `expected` and `p_RATING` for every legal rating.

    llm: a `vllm.LLM` of the model
    scale: the legal ratings
    prompts: the records of mlens predict --prompts
    """
    from vllm import SamplingParams

    tokenizer = llm.get_tokenizer()
    answers = [[*tokenizer.encode(str(rating), add_special_tokens=False), tokenizer.eos_token_id] for rating in scale]
    inputs = [{"prompt_token_ids": prompt["prompt_token_ids"] + answer} for prompt in prompts for answer in answers]
    outputs = llm.generate(inputs, SamplingParams(max_tokens=1, prompt_logprobs=0))
    scored = []
    for number, prompt in enumerate(prompts):
        of_prompt = outputs[number * len(scale) : (number + 1) * len(scale)]
        p = normalised([log_probability(output, answer) for output, answer in zip(of_prompt, answers, strict=True)])
        record = {name: value for name, value in prompt.items() if name not in PROMPT}
        record["expected"] = sum(rating * share for rating, share in zip(scale, p, strict=True))
        scored.append(record | {f"p_{rating}": share for rating, share in zip(scale, p, strict=True)})
    return scored


def log_probability(output: Any, answer: Sequence[int]) -> float:
    """Return the log-probability of the tokens of `answer`, which end the prompt of a vLLM output."""
    positions = output.prompt_logprobs[-len(answer) :]
    return sum(position[token].logprob for position, token in zip(positions, answer, strict=True))


def normalised(log_probabilities: Sequence[float]) -> list[float]:
    """Return probabilities that sum to 1."""
    highest = max(log_probabilities)
    masses = [math.exp(value - highest) for value in log_probabilities]
    return [mass / sum(masses) for mass in masses]


if __name__ == "__main__":
    main()
