"""model/mlens.json: the settings of an exported model; with its tokenizer and weights all that prediction needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlens
from mlens.config import parse_node, resolve_class
from mlens.data.source_fields import check_rating_scale
from mlens.engine.engine import uses_bf16_parameters
from mlens.errors import UserError
from mlens.evaluation.settings import Evaluation
from mlens.files import write_json
from mlens.history.strategy import FittableStrategy, FittedStrategy, Strategy
from mlens.model.settings import Lora, NoPeft, PretrainedModel, TinyModel
from mlens.packing.epoch_plan import Collator
from mlens.pipeline import RunInputs
from mlens.prompt.frame import ChatFrame
from mlens.prompt.settings import Ablation, Style
from mlens.schema import (
    COUNT,
    INTEGER,
    NUMBER,
    OBJECT,
    OBJECT_OR_NONE,
    SWITCH,
    TEXT,
    TEXT_OR_NONE,
    TWO_TEXTS_OR_NONE,
    Schema,
    read_json,
)
from mlens.trust import refuse_foreign

FILE = "mlens.json"
# The version of the file's format; a newer one is refused. Version 1 had no chat_frame and no base_digest, version 2 no
# load_in_4bit.
FORM = 3
ADAPTER = "adapter_config.json"
SCHEMA: Schema = {
    **{"form": COUNT, "mlens": TEXT, "scale": [NUMBER], "dtype": TEXT, "attention": TEXT, "seed": INTEGER},
    **dict.fromkeys(("history", "ablation", "prompt", "packing", "evaluation"), OBJECT),
    **{"bf16_parameters": SWITCH, "base": OBJECT_OR_NONE},
    **{"base_digest?": TEXT_OR_NONE, "chat_frame?": TWO_TEXTS_OR_NONE},  # not in form 1
    "load_in_4bit?": SWITCH,  # not in forms 1 and 2
}


@dataclass(frozen=True)
class ExportedSettings:
    """The settings that an exported model's prompts, histories and forward passes depend on.

    folder: that of the exported model.
    scale: the legal ratings, ascending.
    history, ablation, prompt, packing, evaluation, seed: as in `Settings`.
    model: the model in the folder itself, or the base model of the adapter in it.
    peft: `Lora` where the folder holds an adapter.
    dtype: the model computes in it.
    bf16_parameters: whether the parameters are in bfloat16.
    chat_frame: what the chat template put around a prompt in training; None: no template.
    base_digest: of the model that the adapter was trained on; None: no adapter, or a file of version 1.
    """

    folder: Path
    scale: tuple[float, ...]
    history: Strategy | FittableStrategy
    ablation: Ablation
    prompt: Style
    packing: Collator
    evaluation: Evaluation
    model: TinyModel | PretrainedModel
    peft: NoPeft | Lora
    seed: int
    dtype: str
    bf16_parameters: bool
    chat_frame: ChatFrame | None
    base_digest: str | None


def write_exported(folder: Path, inputs: RunInputs) -> None:
    """Write mlens.json into the folder of the exported model or adapter that was trained with these inputs.

    A fitted history strategy writes what it needs beside it.
    """
    settings, identity = inputs.settings, inputs.identity
    assert identity is not None
    nodes, model = settings.config, settings.model
    base = digest = None
    adapter = (folder / ADAPTER).is_file()
    if adapter:
        digest = identity.model
        base = {"_target_": nodes["model"]["_target_"], **asdict(model)}
    content = {
        "form": FORM,
        "mlens": mlens.__version__,
        "scale": inputs.table.scale,
        **{name: nodes[name] for name in ("history", "ablation", "prompt", "packing")},
        "evaluation": {"seed": settings.evaluation.seed, "draws": settings.evaluation.draws},
        "dtype": model.dtype,
        "attention": model.attention,
        "bf16_parameters": uses_bf16_parameters(model.dtype, settings.deepspeed.zero_optimization.stage),
        "base": base,
        "base_digest": digest,
        "load_in_4bit": adapter and settings.peft.load_in_4bit,
        "chat_frame": identity.chat_frame,
        "seed": settings.seed,
    }
    if isinstance(inputs.strategy, FittedStrategy):
        inputs.strategy.save(folder)
    write_json(folder / FILE, content)


def read_exported(path: Path, trust: bool = False) -> ExportedSettings:
    """Read mlens.json.

    path: the folder of a run, or that of a model
    trust: allow the file to name code to run: a class from outside mlens, or code that comes with the base model

    Raises UserError where the file is missing or not valid, or names code without `trust`.
    """
    folder = next((place for place in (path / "model", path) if (place / FILE).is_file()), None)
    if folder is None:
        raise UserError(f"{path} holds no trained model: there is no {FILE} in it or in its folder model/")
    file = folder / FILE
    content = read_json(file, SCHEMA)
    try:
        return _parse(folder, content, trust)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _parse(folder: Path, content: dict, trust: bool) -> ExportedSettings:
    if content["form"] > FORM:
        raise UserError(f"has format {content['form']}, written by mlens {content['mlens']}: this version reads {FORM}")
    for key in content.keys() - {key.removesuffix("?") for key in SCHEMA}:
        raise UserError(f"{key}: unknown key")
    if "${" in json.dumps(content):
        raise UserError("refers to another value with ${…}, which is not resolved")
    frame = content.get("chat_frame")
    scale = [float(rating) for rating in content["scale"]]
    check_rating_scale(scale)
    if not trust:
        refuse_foreign({name: content[name] for name in ("history", "packing", "base")})
    adapter = (folder / ADAPTER).is_file()
    if adapter and content["base"] is None:
        raise UserError(f"names no base model for the adapter in {ADAPTER}")
    if adapter:
        model = _chosen("base", content["base"])
    else:
        model = PretrainedModel(None, path=str(folder), dtype=content["dtype"], attention=content["attention"])
    return ExportedSettings(
        folder=folder,
        scale=tuple(scale),
        history=_chosen("history", content["history"]),
        ablation=parse_node("ablation", Ablation, _without_target(content["ablation"])),
        prompt=parse_node("prompt", Style, _without_target(content["prompt"])),
        packing=_chosen("packing", content["packing"]),
        evaluation=parse_node("evaluation", Evaluation, content["evaluation"]),
        model=model,
        peft=Lora(load_in_4bit=content.get("load_in_4bit", False)) if adapter else NoPeft(),
        seed=content["seed"],
        dtype=content["dtype"],
        bf16_parameters=content["bf16_parameters"],
        chat_frame=None if frame is None else ChatFrame(*frame),
        base_digest=content.get("base_digest"),
    )


def _chosen(name: str, node: dict) -> Any:
    return parse_node(name, resolve_class(name, node.get("_target_")), _without_target(node))


def _without_target(node: dict) -> dict:
    return {key: value for key, value in node.items() if key != "_target_"}
