"""Measure how often a model scores an answer highest after the id that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import binomtest
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from mlens.model.scores import prepare_row, row_scores
from mlens.packing.packed import PackedRows
from mlens.packing.prefix_group import PrefixGroup, Shapes, Suffix
from mlens.probe.questions import CHOICES, Questions
from mlens.prompt.tokens import PlainText, bos_ids

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Recall:
    """The recall of one kind of question.

    kind: what the questions ask for, and how.
    questions: their number.
    recalled: questions whose answer was more probable after the true id than after each other id.
    low, high: the 95% Wilson interval of the share of recalled questions; 0 and 1 without questions.
    p_value: of the exact one-sided binomial test against chance; 1 without questions.
    """

    kind: str
    questions: int
    recalled: int
    low: float
    high: float
    p_value: float


def recall(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    collator: PackedRows,
    progress: Callable[[int], None] = lambda _: None,
) -> Recall:
    """Ask a model, in evaluation mode, all questions; returns how many it recalls.

    progress: called with the number of beginnings in each row

    A beginning and an answer are tokenised separately, for true and other ids alike.
    """
    if not questions.answers:
        return Recall(questions.kind, 0, 0, 0.0, 1.0, 1.0)
    scores = answer_scores(model, tokenizer, questions, collator, progress)
    recalled = int((scores[:, :1] > scores[:, 1:]).all(axis=1).sum())
    test = binomtest(recalled, len(scores), 1 / CHOICES, alternative="greater")
    interval = binomtest(recalled, len(scores), 1 / CHOICES).proportion_ci(method="wilson")
    return Recall(questions.kind, len(scores), recalled, interval.low, interval.high, test.pvalue)


@torch.no_grad()
def answer_scores(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    collator: PackedRows,
    progress: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """Return the log-probability (nats) of each question's answer after each of its beginnings: [questions, CHOICES].

    A context is the shared prefix of all beginnings that follow it, and is computed once a row.
    """
    plain = PlainText(tokenizer)
    contexts, of_question = np.unique(questions.contexts, return_inverse=True)
    prefixes = [np.concatenate([bos_ids(tokenizer), ids]) for ids in plain.encode(contexts.tolist())]
    group = of_question.repeat(CHOICES)
    flat = [beginning for choices in questions.beginnings for beginning in choices]
    beginnings, answers = plain.encode(flat), plain.encode(questions.answers)
    seen = np.array([len(prefixes[i]) for i in group], dtype=np.int64)
    suffixes = [Suffix(int(seen[i]), ids, answers[i // CHOICES]) for i, ids in enumerate(beginnings)]
    lengths = np.array([len(suffix.ids) + len(suffix.answer) - 1 for suffix in suffixes], dtype=np.int64)
    shapes = Shapes(group, seen, lengths)
    nothing = np.zeros(0, dtype=np.int64)
    scores = np.zeros(len(suffixes))
    (rows,) = collator.pack(shapes, world=1)
    for row in rows:
        groups = [PrefixGroup(prefixes[group[m[0]]], nothing, tuple(suffixes[i] for i in m)) for m in row]
        members = np.concatenate(row)
        tensors = prepare_row(collator.train_row(groups), model.device)
        scores[members] = row_scores(model, tensors, autocast=False).cpu().numpy()
        progress(len(members))
    return scores.reshape(-1, CHOICES)
