"""Loading and building the tokenizer and the model that the config nodes `model` and `peft` describe."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from safetensors.torch import load_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config
from transformers.integrations import HfDeepSpeedConfig
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from mlens.data.dates import distinct_days
from mlens.data.rating_table import RatingTable
from mlens.data.text_files import refuse_lfs_pointer
from mlens.errors import UserError
from mlens.model.adapters import with_adapters
from mlens.model.attention.cpu import ROW_ATTENTION
from mlens.model.attention.cuda import FLEX_ATTENTION
from mlens.model.digest import model_digest, model_folder
from mlens.model.exported_tokenizer import BROKEN, cannot_load
from mlens.model.fused import fuse, liger_is_installed
from mlens.model.quantise import quantise
from mlens.model.settings import ROWS, Lora, NoPeft, PretrainedModel, TinyModel
from mlens.prompt.frame import ChatFrame
from mlens.prompt.pieces import (
    DIALOGUE_HEADER,
    HISTORY_HEADER,
    date_pieces,
    head_texts,
    movie_pieces,
    movie_texts,
    rating_texts,
)
from mlens.prompt.settings import Ablation, Style
from mlens.prompt.tokens import bos_ids, tiny_tokenizer

# Progress bars of loading and saving would appear between the lines of the run, once for each rank.
disable_progress_bar()

if TYPE_CHECKING:
    from peft import PeftModel

ModelSettings = TinyModel | PretrainedModel


@dataclass(frozen=True)
class ParamPlacement:
    """How a model's parameters are placed before the engine exists.

    bf16: whether they are in bfloat16 instead of float32.
    device: the kind of device that the model is for, `cpu` or `cuda`.
    zero3: DeepSpeed's config, to shard them over the ranks while they are loaded; None to load all on every rank.
    """

    bf16: bool = False
    device: str = "cpu"
    zero3: dict | None = None


def load_tokenizer(
    settings: ModelSettings, table: RatingTable, style: Style, ablation: Ablation
) -> PreTrainedTokenizerBase:
    """The tokenizer of the model; a tiny model's is trained on the table's titles and the words of the prompt.

    Raises UserError where the data lack what the prompt needs, or the tokenizer can't be loaded.
    """
    if isinstance(settings, TinyModel):
        task = head_texts(table, style, ablation)[0]
        frame = [task, HISTORY_HEADER, DIALOGUE_HEADER, f":\n\n{style.question}"]
        movies = movie_pieces(movie_texts(table), style)
        dates = date_pieces(distinct_days(table)) if style.dates else []
        folder = tiny_tokenizer(movies, frame, rating_texts(table), settings.vocab_size, dates)
        return AutoTokenizer.from_pretrained(folder)
    return load_pretrained_tokenizer(settings)


def load_pretrained_tokenizer(settings: PretrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained model. Raises UserError where it can't be loaded, or has no end token."""
    where, options = _source(settings)
    _refuse_lfs_pointers(settings)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except BROKEN as error:
        raise cannot_load("tokenizer", where, error) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {where} has no end token, which every answer ends with: name it as eos_token in its "
            "tokenizer_config.json"
        )
    return tokenizer


def require_usable(
    settings: PretrainedModel, tokenizer: PreTrainedTokenizerBase, frame: ChatFrame, longest: int
) -> None:
    """Check a pretrained model's config, class and tokenizer, without its weights.

    frame: the text around each prompt (empty texts without a chat template).
    longest: the most tokens of a prompt with its answer.

    Raises UserError where the model can't be trained with these settings, or doesn't know the tokenizer's tokens.
    """
    where, options = _source(settings)
    _require_safetensors(settings)
    try:
        config = AutoConfig.from_pretrained(where, **options)
        with torch.device("meta"):  # shapes alone
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=settings.trust_remote_code)
    except BROKEN as error:
        raise cannot_load("model", where, error) from error
    _require_fit(model, where, settings, longest)
    around = tokenizer("".join(frame), add_special_tokens=False)["input_ids"]
    highest = int(max([tokenizer.eos_token_id, *bos_ids(tokenizer), *around]))
    known = model.config.get_text_config().vocab_size
    if highest >= known:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise UserError(
            f"the tokenizer of {where} has a token beyond the model's {known} embeddings: {token} ({highest}). Use the "
            "tokenizer that the model was saved with, or give it these embeddings (resize_token_embeddings) and save "
            "it again."
        )


def build_model(
    settings: ModelSettings,
    peft: NoPeft | Lora,
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    seed: int,
    placement: ParamPlacement = ParamPlacement(),
    weights: Path | None = None,
) -> PreTrainedModel | PeftModel:
    """The model in training form: no cache, the chosen attention, and the adapters of `peft`.

    longest: the most tokens of a sequence.
    seed: of the random weights of the tiny model and of adapters.
    placement: how parameters are placed (a tiny model isn't sharded until the engine exists).
    weights: the folder of a saved tiny model of the same sizes, whose weights are loaded.

    Raises UserError where the model can't be loaded or quantised, or its attention can't be used.
    """
    dtype = torch.bfloat16 if placement.bf16 else torch.float32
    rows = FLEX_ATTENTION if placement.device == "cuda" else ROW_ATTENTION
    attention = rows if settings.attention == ROWS else settings.attention
    if isinstance(settings, TinyModel):
        config = tiny_config(settings, len(tokenizer), tokenizer.eos_token_id, longest)
        model = _random_model(config, seed, attention, dtype)
        if weights is not None:
            try:
                # Strict: a tied output layer, which is stored once, doesn't count as missing.
                load_model(model, weights / "model.safetensors")
            except BROKEN as error:
                raise cannot_load("model", str(weights), error) from error
    else:
        where, options = _source(settings)
        _require_safetensors(settings)
        try:
            with _sharded(placement.zero3), _without_report():
                pair: Any = AutoModelForCausalLM.from_pretrained(
                    where,
                    dtype=dtype,
                    attn_implementation=attention,
                    use_safetensors=True,
                    output_loading_info=True,
                    **options,
                )
        except BROKEN as error:
            if error.args == (rows,):  # looked up in a table of the model's attentions
                raise _cannot_take_rows(where) from error
            raise cannot_load("model", where, error) from error
        model, loaded = pair
        _require_all_weights(where, loaded)
        _require_fit(model, where, settings, longest)
    if attention == FLEX_ATTENTION and getattr(model.config, "head_dim", 16) < 16:
        raise UserError(f"FlexAttention needs heads of at least 16: this model's have {model.config.head_dim}")
    if placement.device == "cuda" and liger_is_installed():
        fuse(model)
    model = in_training_form(model, settings.gradient_checkpointing)
    if settings.compile:
        # Layer by layer: one compilation serves them all, for rows of any length.
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.compile(dynamic=True)
    if isinstance(peft, NoPeft):
        return model
    if peft.load_in_4bit:
        quantise(model, placement.device, getattr(torch, settings.dtype))
    return with_adapters(model, peft, settings.gradient_checkpointing, seed)


def in_training_form(model: PreTrainedModel, checkpointing: bool) -> PreTrainedModel:
    """Put the model in training mode, without a cache, with gradient checkpointing if `checkpointing`."""
    # With its default cache, transformers builds a mask that ignores the positions of rows.
    model.config.use_cache = False
    model.train()  # from_pretrained leaves it in evaluation mode, without recomputation and dropout
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


class Trained(Protocol):
    """The settings of a trained model that loading it depends on."""

    @property
    def model(self) -> ModelSettings: ...
    @property
    def peft(self) -> NoPeft | Lora: ...
    @property
    def prompt(self) -> Style: ...
    @property
    def seed(self) -> int: ...


def load_trained(
    settings: Trained,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    placement: ParamPlacement,
    base_digest: str | None,
) -> PreTrainedModel | PeftModel:
    """The model that a run with these `settings` exported to `folder`, for evaluation: neither compiled nor with
    gradient checkpointing.

    tokenizer: the exported one.
    base_digest: the digest of the model that the run began with, where it is known.

    Raises UserError where the model can't be loaded, or its adapter was trained on another one.
    """
    model = replace(settings.model, gradient_checkpointing=False, compile=False)
    longest = settings.prompt.max_tokens
    adapter_alone = isinstance(settings.peft, Lora) and not settings.peft.merge
    known = isinstance(model, PretrainedModel) and base_digest is not None
    if adapter_alone and known and base_digest != model_digest(model):
        raise UserError(
            f"{folder} holds an adapter of another model than the one that its mlens.json names: put its base "
            "model there again"
        )
    if isinstance(model, TinyModel):
        if adapter_alone and model.base.lines:
            raise UserError(
                f"{folder} holds an adapter alone, and the base model that it changes isn't kept with it: train with "
                "peft.merge=true"
            )
        weights = None if adapter_alone else folder
        built = build_model(model, NoPeft(), tokenizer, longest, settings.seed, placement, weights)
    else:
        source = model if adapter_alone else replace(model, path=str(folder))
        built = build_model(source, NoPeft(), tokenizer, longest, settings.seed, placement)
    if not adapter_alone:
        return built
    if isinstance(settings.peft, Lora) and settings.peft.load_in_4bit:
        quantise(cast(PreTrainedModel, built), placement.device, getattr(torch, model.dtype))
    return _with_saved_adapter(built, folder)


def _with_saved_adapter(model: Any, folder: Path) -> PeftModel:
    """Load the adapter in `folder`. Raises UserError where there is none, or where it lacks weights for this model."""
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"{folder} holds no adapter (adapter_model.safetensors)")
    try:
        with warnings.catch_warnings(action="ignore"):  # of missing weights, which are refused below
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=True)
        # Loaded again, since only this reports which weights the file lacks.
        loaded = adapted.load_adapter(folder, "default", is_trainable=True)
    except BROKEN as error:
        raise cannot_load("adapter", str(folder), error) from error
    _require_all_weights(str(folder), {**loaded._asdict(), "mismatched_keys": []})
    return adapted


def tiny_config(settings: TinyModel, vocab_size: int, eos_token_id: int, longest: int) -> Qwen3Config:
    """The tiny model's sizes as transformers takes them."""
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        head_dim=settings.head_size,
        max_position_embeddings=longest,
        tie_word_embeddings=True,
        eos_token_id=eos_token_id,
        bos_token_id=None,
        pad_token_id=eos_token_id,
    )


def _random_model(config: Qwen3Config, seed: int, attention: str, dtype: torch.dtype) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)


@contextmanager
def _sharded(config: dict | None) -> Iterator[None]:
    """Shard the parameters of models that are loaded inside over the ranks, unless `config` is None."""
    kept = None if config is None else HfDeepSpeedConfig(config)  # transformers keeps only a weak reference
    try:
        yield
    finally:
        if kept is not None:
            unset_hf_deepspeed_config()


@contextmanager
def _without_report() -> Iterator[None]:
    """Inside, transformers doesn't log its table of missing weights, which `_require_all_weights` reports in one line,
    or the layers that tensor parallelism, which mlens doesn't use, would skip."""
    # transformers has moved tensor_parallel from `integrations` to `distributed`.
    names = ("modeling_utils", "integrations.tensor_parallel", "distributed.tensor_parallel")
    loggers = [logging.getLogger(f"transformers.{name}") for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _source(settings: PretrainedModel) -> tuple[str, dict]:
    """What transformers loads the model from: a folder, or a name on a hub at the current commit of its revision."""
    options: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    folder = model_folder(settings)
    if settings.path is not None:
        return str(folder), options
    assert settings.name is not None
    # All its files have been cached.
    return settings.name, options | {"revision": folder.name, "local_files_only": True}


def _require_all_weights(where: str, loaded: Mapping[str, Any]) -> None:
    """Raise UserError where files lack some weights of a model, which would stay random, or contain others.

    loaded: the library's report, in which tied weights don't count as missing.
    """
    for kind in ("missing", "unexpected", "mismatched"):
        names = sorted(str(name) for name in loaded[f"{kind}_keys"])
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise UserError(
                f"the weights in {where} don't fit its model: {shown} ({kind}). Save the model again with "
                "save_pretrained, together with its config."
            )


def _require_fit(model: PreTrainedModel, where: str, settings: PretrainedModel, longest: int) -> None:
    """Raise UserError for a model that can't be trained with these settings."""
    name = type(model).__name__
    most = getattr(model.config, "max_position_embeddings", longest)
    if most < longest:
        raise UserError(f"prompt.max_tokens={longest} is more than {where} was made for: at most {most}")
    if settings.attention == ROWS and not getattr(model, "_supports_attention_backend", False):
        raise _cannot_take_rows(name)
    if settings.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(f"{name} has no gradient checkpointing: set model.gradient_checkpointing=false")


def _refuse_lfs_pointers(settings: PretrainedModel) -> None:
    """Raise UserError for a folder with git-lfs pointers in place of its large files."""
    if settings.path is None:
        return
    folder = Path(settings.path).expanduser()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("tokenizer*")]):
        refuse_lfs_pointer(file)


def _require_safetensors(settings: PretrainedModel) -> None:
    """Raise UserError for a folder whose weights could run code when they are loaded."""
    if settings.path is not None and not any(Path(settings.path).expanduser().glob("*.safetensors")):
        raise UserError(
            f"model.path={settings.path} holds no weights as .safetensors, and other formats can run code when they "
            "are read: save the model again with save_pretrained"
        )


def _cannot_take_rows(what: str) -> UserError:
    return UserError(f"{what} can't use packed rows: choose packing=reference model.attention=sdpa (or eager) instead")
