"""model/README.md: the model card, as Hugging Face defines it, written after the final evaluation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from mlens.config import Settings
from mlens.data.items import Item, item_of
from mlens.data.terms import Terms
from mlens.history.similarity import FILE as SIMILARITY
from mlens.identity import NOT_RESULT
from mlens.model.settings import Lora, PretrainedModel

METRICS = (
    *("rmse", "mae", "level", "taste", "auc", "ndcg_10"),
    *("user_rmse", "accuracy", "nll", "calibration_error", "illegal_mass"),
)
# The test metrics of the metadata, each with its name there.
INDEXED = {"rmse": "RMSE", "mae": "MAE", "taste": "Taste (RMSE within users)", "auc": "AUC within users"}
TASK = "text-generation"
# The licence of a model isn't one of the hub's list: it follows from the data, and from the base model.
LICENCE = "terms-of-the-training-data"
# Overrides whose values are paths on one machine, which say nothing about the model.
PLACES = tuple(name for name in NOT_RESULT if name.endswith(("path", "dir")))
HEADINGS = {"full_history": "shown the whole history", "own_history": "shown this model's history"}
LIMITS = """\
- It knows how people in these data rate, on this scale. It knows {plural} by their titles and {categories} alone.
- The probabilities are the model's, without recalibration; `calibration_error` says how reliable they are.
- It was selected on validation among the checkpoints of this run, and evaluated on test once.
- It was trained on prompts of the format above alone.
"""


def model_card(settings: Settings, terms: Terms, strategy: str, ranks: int, summary: dict) -> str:
    """Return the model card, as Markdown with YAML metadata.

    settings: of the run that trained the model
    terms: of the data's use
    strategy: the option of conf/history/
    ranks: how many trained the model
    summary: the content of summary.json
    """
    item = item_of(settings.data)
    title = f"Ratings of {item.plural} by history={strategy}"
    parts = {
        "Results": _results(summary, item),
        "Predict": _usage(settings),
        "Prompt and history": _inputs(settings),
        "Data": _data(settings, terms, summary, item),
        "Training": _training(settings, ranks, summary),
        "Limits": LIMITS.format(**vars(item)),
    }
    body = "\n".join(f"## {heading}\n\n{text}" for heading, text in parts.items())
    about = (
        f"A language model that predicts the rating which a user gives a {item.name}, from the {item.name}'s title and "
        f"{item.categories} and from a part of the user's earlier ratings, made with mlens.\n"
    )
    return f"---\n{_metadata(settings, terms, title, summary).to_yaml()}\n---\n\n# {title}\n\n{about}\n{body}"


def _metadata(settings: Settings, terms: Terms, title: str, summary: dict) -> ModelCardData:
    adapter, model = _is_adapter(settings), settings.model
    more: dict[str, Any] = {}
    if isinstance(model, PretrainedModel) and model.name is not None:
        more = {"base_model": model.name, "base_model_relation": "adapter" if adapter else "finetune"}
    return ModelCardData(
        license="other",
        license_name=LICENCE,
        license_link=terms.page,
        library_name="peft" if adapter else "transformers",
        datasets=None if terms.dataset is None else [terms.dataset],
        pipeline_tag=TASK,
        tags=["mlens", "recommendation", "rating-prediction", *(["lora"] if adapter else [])],
        model_name=title,
        eval_results=_index(terms, summary["metrics"]["test"]),
        **more,
    )


def _index(terms: Terms, metrics: dict) -> list[EvalResult]:
    """Return the test metrics that have a value, as entries of `model-index`."""
    return [
        EvalResult(
            task_type=TASK,
            task_name="Rating prediction",
            dataset_type=terms.dataset or "user-data",
            dataset_name=terms.name,
            dataset_split="test",
            metric_type=name,
            metric_name=shown,
            metric_value=metrics[name],
        )
        for name, shown in INDEXED.items()
        if metrics[name] is not None and isfinite(metrics[name])
    ]


def _is_adapter(settings: Settings) -> bool:
    return isinstance(settings.peft, Lora) and not settings.peft.merge


def _results(summary: dict, item: Item) -> str:
    metrics, baselines = summary["metrics"], summary["baselines"]
    stages = list(metrics)

    def row(name: str, values: Sequence[float | None]) -> str:
        cells = ["" if value is None or value != value else f"{value:.4f}" for value in values]
        return f"| {name} | {' | '.join(cells)} |"

    lines = [f"| | {' | '.join(stages)} |", "|---|" + "---:|" * len(stages)]
    lines += [row(f"`{name}`", [metrics[stage][name] for stage in stages]) for name in METRICS]
    lines.append(f"| targets | {' | '.join(str(metrics[stage]['targets']) for stage in stages)} |")
    text = (
        "RMSE and MAE are of the expected rating. Level and taste are the parts of RMSE between and within users "
        f"(RMSE² = level² + taste²). AUC and NDCG@10 rank each user's held-out {item.plural}.\n"
    )
    averaged = {stage: of["averaged"]["rmse"] for stage, of in metrics.items() if "averaged" in of}
    if averaged:
        values = ", ".join(f"{stage} {value:.4f}" for stage, value in averaged.items())
        text += (
            "Metrics are means over several draws of histories. mlens predict averages the predictions over the same "
            f"number of draws, at that many times the cost; RMSE of the averaged predictions: {values}.\n"
        )
    text += "\n"
    text += "\n".join(lines) + "\n\nSimple baselines on the same targets, fitted on the training ratings (RMSE):\n\n"
    columns = [(stage, column) for stage in stages for column in HEADINGS]
    heads = " | ".join(f"{stage}, {HEADINGS[column]}" for stage, column in columns)
    lines = [f"| | {heads} |", "|---|" + "---:|" * len(columns)]
    names = list(baselines[stages[0]]["full_history"])
    lines += [row(f"`{name}`", [baselines[stage][column][name]["rmse"] for stage, column in columns]) for name in names]
    return text + "\n".join(lines) + "\n"


def _usage(settings: Settings) -> str:
    days = ("2026-01-30", "2026-01-31")
    earlier, later = (f', "timestamp": "{day}"' if settings.prompt.dates else "" for day in days)
    text = (
        "With mlens installed and this folder as `DIR`:\n\n"
        + _fenced("mlens predict DIR --history history.csv --movies movies.csv")
        + "\n"
        + _fenced(
            "from mlens.predict import Predictor\n\n"
            'Predictor.from_run("DIR").predict(\n'
            f'    [{{"title": "Heat (1995)", "genres": "Action, Crime, Thriller", "rating": 4.5{earlier}}}],\n'
            f'    [{{"title": "Ronin (1998)", "genres": "Action, Crime, Thriller"{later}}}],\n'
            ")",
            "python",
        )
    )
    if _is_adapter(settings):
        return text + "\nThe folder holds an adapter; `mlens.json` says where its base model is loaded from.\n"
    return text + (
        '\n`AutoModelForCausalLM.from_pretrained("DIR")` loads it without mlens. `--prompts --output FILE` writes the '
        "prompts that it reads, as text and as token ids. After a prompt it writes a rating such as `4.5` and the end "
        "token.\n"
    )


def _inputs(settings: Settings) -> str:
    nodes = {name: asdict(getattr(settings, name)) for name in ("history", "ablation", "prompt")}
    nodes["history"] = {"strategy": type(settings.history).__name__, **nodes["history"]}
    return _as_yaml(nodes)


def _data(settings: Settings, terms: Terms, summary: dict, item: Item) -> str:
    counts = summary["counts"]
    counted = f"{counts['ratings']:,} ratings of {counts['movies']:,} {item.plural} by {counts['users']:,} users"
    text = f"{terms.name}: {counted}. "
    text += f"Licence: {terms.licence}. "
    text += "The data's licence bounds what may be done with a model that was trained on them.\n"
    if getattr(settings.history, "by", None) == "ratings":
        text += f"`{SIMILARITY}` holds training ratings, without the ids of users: the licence applies to it too.\n"
    text += "".join(f"\n{note}.\n" for note in summary["data_notes"])
    if summary["made_up_data"]:
        text += "\nThe data are made up: this model shows how the program works, not how people rate.\n"
    return text if terms.citation is None else f"{text}\nPublished results cite: {terms.citation}.\n"


def _training(settings: Settings, ranks: int, summary: dict) -> str:
    progress, model = summary["training"], settings.model
    start = "random weights" if not isinstance(model, PretrainedModel) else model.name or "a local model"
    facts = {
        "start": start + (f" at revision {model.revision}" if getattr(model, "revision", None) else ""),
        "parameters": summary["counts"]["parameters"],
        "steps": progress["step"],
        "best_step": progress["best_step"],
        "fingerprint": summary["fingerprint"],
        "versions": summary["versions"],
    }
    text = _fenced(command(summary["overrides"], ranks)) + "\nPATH stands for a path on your machine.\n\n"
    return text + _as_yaml(facts)


def command(overrides: Sequence[str], ranks: int) -> str:
    """Return the command that started a run, with PATH for the paths of its machine.

    >>> command(["data=csv", "data.path=/home/me/x.csv", "history=random", "prompt.question=How much?"], ranks=2)
    "torchrun --nproc_per_node=2 train.py data=csv data.path=PATH history=random 'prompt.question=How much?'"
    """
    shown = []
    for override in overrides:
        key, _, _ = override.partition("=")
        shown.append(f"{key}=PATH" if key.lstrip("+") in PLACES else shlex.quote(override))
    start = "python" if ranks == 1 else f"torchrun --nproc_per_node={ranks}"
    return " ".join([start, "train.py", *shown])


def _as_yaml(content: dict) -> str:
    return _fenced(yaml.safe_dump(content, allow_unicode=True, sort_keys=False).rstrip(), "yaml")


def _fenced(text: str, language: str = "") -> str:
    """Return `text` as a code block, fenced by more backticks than it holds in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"
