"""Whether a model's scores are right as it is used here: one small row against its samples alone.

Packed rows replace a model's attention alone. What else in it looks from token to token (convolutions, state-space
layers, rotary factors chosen by the longest prompt) would read a row as one sequence, and nothing would say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mlens.errors import UserError
from mlens.model.attention.cpu import ROW_ATTENTION
from mlens.model.attention.cuda import FLEX_ATTENTION
from mlens.model.scores import prepare_row, row_scores
from mlens.packing.packed import PackedRows
from mlens.packing.prefix_group import PrefixGroup, Suffix
from mlens.packing.reference import ReferenceRows
from mlens.packing.row import Row
from mlens.text import first_line

# Tokens of the long prompt, of the prefix that two suffixes share, of each of these and of the short prompts, and of
# each answer, whose tokens are compared: what leaks from one sample into the next shows most in its first tokens.
LONG, PREFIX, SHORT, ANSWER = 160, 48, 1, 24
# What rounding may make of a token's log-probability where less is measured.
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.1}
# How many times farther apart rows may be than two attentions of the model are.
LEEWAY = 8.0
INSTEAD = "choose packing=reference model.attention=sdpa (or eager) instead"

Forward = Callable[..., Any]


@dataclass(frozen=True)
class ModelCheck:
    """What a check found.

    kind: `rows` (a row against its samples alone) or `causal` (a sequence against one that ends differently).
    difference: the largest one between log-probabilities of a token, nats.
    tolerance: the most that rounding makes of it, nats.
    tokens: of the row.
    """

    kind: str
    difference: float
    tolerance: float
    tokens: int

    @property
    def passed(self) -> bool:
        """Whether rounding explains the difference (it never explains NaN)."""
        return self.difference <= self.tolerance


def check_model(forward: Forward, model: Any, longest: int, autocast: bool, device: torch.device) -> ModelCheck:
    """Compare a few random samples in one row with each of them alone, through an attention of transformers; for a
    model without packed rows, compare a sequence with one that ends in another token.

    forward: calls the model (under DeepSpeed, its engine).
    model: the transformers model itself, without adapters around it.
    longest: the most tokens of a prompt with its answer.
    autocast: whether to compute in bfloat16.

    Every rank calls this alike, under ZeRO-3 too. Raises UserError where a row can't be computed.
    """
    compute = torch.bfloat16 if autocast else model.dtype
    chunk = getattr(model.config, "attention_chunk_size", None)
    packed_rows = model.config._attn_implementation in (ROW_ATTENTION, FLEX_ATTENTION)
    if packed_rows and chunk is not None and chunk < longest:
        raise UserError(
            f"{type(model).__name__} attends in chunks of {chunk} tokens, which packed rows don't have: lower "
            f"prompt.max_tokens={longest} to that, or {INSTEAD}"
        )

    def scores(row: Row) -> np.ndarray:
        tokens = len(row.label)
        each = prepare_row(replace(row, owner=torch.arange(tokens), weight=torch.ones(tokens)), device)
        return row_scores(forward, each, autocast).cpu().numpy()

    with torch.no_grad(), _evaluating(model):
        if not packed_rows:
            with _refused(model, "an ordinary sample", "choose another model"):
                return _check_causal(scores, _samples(model, longest)[0], compute)
        groups = _samples(model, longest)
        attentions = ["sdpa", "eager"] if model._supports_sdpa else ["eager"]
        alone = [ReferenceRows().train_row([group]) for group in _separate(groups)]
        alone[-1] = _at_end(alone[-1], longest)
        with _attention(model, attentions[0]), _refused(model, "an ordinary sample", "choose another model"):
            expected = np.concatenate([scores(sample) for sample in alone])
        tolerance = ROUNDING[compute]
        if len(attentions) > 1:
            with _attention(model, attentions[1]):
                noise = np.abs(scores(alone[0]) - expected[:ANSWER]).max()
            tolerance = max(tolerance, LEEWAY * float(noise))
        row = _at_end(PackedRows().train_row(groups), longest)
        with _refused(model, "packed rows", INSTEAD):
            packed = scores(row)
    difference = float(np.abs(packed - expected).max())
    return ModelCheck("rows", difference, tolerance, row.input_ids.shape[1])


def worst(checks: Sequence[ModelCheck]) -> ModelCheck:
    """The check with the largest difference, of one on each rank."""
    return max(checks, key=lambda check: np.nan_to_num(check.difference, nan=np.inf))


def require_passed(check: ModelCheck, name: str) -> None:
    """Raises UserError where the model `name` failed its check."""
    if check.passed:
        return
    found = f"differ by up to {check.difference:.2g} nats a token, where rounding explains {check.tolerance:.2g}"
    if check.kind == "causal":
        raise UserError(
            f"{name} isn't causal: a later token changes the scores of earlier ones (they {found}). Choose a causal "
            "language model (of some architectures, one with is_decoder=true in its config.json)."
        )
    raise UserError(
        f"{name} can't use packed rows: in one row and alone, the scores of the same samples {found}. Some part of it "
        f"looks from one sample into another, or depends on the longest one; {INSTEAD}"
    )


def _check_causal(scores: Callable[[Row], np.ndarray], group: PrefixGroup, compute: torch.dtype) -> ModelCheck:
    """All but the last label of a sample, with another last token behind them."""
    row = ReferenceRows().train_row([group])
    other = row.input_ids.clone()
    other[0, -1] = other[0, 0]
    before, after = scores(row)[:-1], scores(replace(row, input_ids=other))[:-1]
    difference = float(np.abs(before - after).max())
    return ModelCheck("causal", difference, ROUNDING[compute], row.input_ids.shape[1])


def _samples(model: Any, longest: int) -> list[PrefixGroup]:
    """Of random tokens: a long sample, two suffixes on one prefix, and two short samples."""
    random = np.random.default_rng(0)
    long = max(2, min(LONG, longest - ANSWER))
    prefix = min(PREFIX, long // 2)

    def ids(n: int) -> np.ndarray:
        return random.integers(int(model.config.vocab_size), size=n).astype(np.int32)

    def group(shared: int, *lengths: tuple[int, int]) -> PrefixGroup:
        suffixes = tuple(Suffix(seen, ids(length), ids(ANSWER)) for seen, length in lengths)
        return PrefixGroup(ids(shared), np.zeros(0, dtype=np.int64), suffixes)

    shorts = (group(SHORT, (SHORT, 0)) for _ in range(2))
    return [group(long, (long, 0)), group(prefix, (prefix // 2, SHORT), (prefix, SHORT)), *shorts]


def _separate(groups: Sequence[PrefixGroup]) -> list[PrefixGroup]:
    """Each target as a separate sample."""
    return [replace(group, suffixes=(suffix,)) for group in groups for suffix in group.suffixes]


def _at_end(row: Row, longest: int) -> Row:
    """The row with its last sample, a short one, moved to the last positions that a prompt may have. So what depends on
    the longest prompt shows without computing one."""
    last = int((row.position_ids[0].flip(0) == 0).int().argmax()) + 1
    positions = row.position_ids.clone()
    positions[:, -last:] += max(0, longest - last)
    return replace(row, position_ids=positions)


@contextmanager
def _refused(model: Any, what: str, advice: str) -> Iterator[None]:
    """What a model's code raises inside, for shapes or arguments that it wasn't written for, becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise
        raise UserError(f"{type(model).__name__} can't compute {what} ({first_line(error)}): {advice}") from error


@contextmanager
def _attention(model: Any, name: str) -> Iterator[None]:
    """Inside, the model uses this attention of transformers, uncompiled."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
