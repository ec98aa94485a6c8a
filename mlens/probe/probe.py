"""Ask a pretrained model, before any fine-tuning, for titles and ratings of the data set by their ids."""

from __future__ import annotations

from functools import partial

import torch
from rich.progress import Progress

from mlens.config import Settings
from mlens.data.sources import load_table
from mlens.errors import UserError
from mlens.model.check import check_model, require_passed
from mlens.model.load import ParamPlacement, build_model, load_tokenizer
from mlens.model.settings import NoPeft, PretrainedModel
from mlens.packing.packed import PackedRows
from mlens.probe.questions import CHOICES, CSV, FORMATS, context_questions, rating_questions, title_questions
from mlens.probe.recall import Recall, recall

# The context length that the model needs, in tokens: the examples, a beginning and an answer take about 300.
MAX_TOKENS = 512


def probe_model(settings: Settings, count: int, seed: int, progress: Progress) -> list[Recall]:
    """Ask the model for titles, for ratings, and for ratings after other lines of the user; returns the recall of each.

    settings: of the data, the model and the packing
    count: the largest number of questions of each kind
    seed: of the choice of questions
    progress: not started yet; gets a bar for each kind

    A kind for which the data have too few movies or ratings is returned without questions.

    Raises UserError where the model isn't pretrained, rows aren't packed, or the data have too little for any kind.
    """
    if not isinstance(settings.model, PretrainedModel):
        raise UserError("only a pretrained model can be probed: choose model=hf model.path=DIR, or a Qwen3")
    if not isinstance(settings.packing, PackedRows):
        raise UserError("the probe needs packed rows: choose packing=rows")
    table = load_table(settings.data)
    form = FORMATS.get(type(settings.data).__name__, CSV)
    kinds = [make(table, form, count, seed) for make in (title_questions, rating_questions, context_questions)]
    if not any(questions.answers for questions in kinds):
        raise UserError("the data have too few movies and ratings for any question: choose larger data")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(settings.model, table, settings.prompt, settings.ablation)
    placement = ParamPlacement(bf16=settings.model.dtype == "bfloat16", device=device.type)
    model = build_model(settings.model, NoPeft(), tokenizer, MAX_TOKENS, settings.seed, placement).eval()
    model.to(device)
    require_passed(check_model(model, model, MAX_TOKENS, False, device), type(model).__name__)
    found = []
    with progress:
        for questions in kinds:
            bar = progress.add_task(f"asking for a {questions.kind}", total=CHOICES * len(questions.answers))
            found.append(recall(model, tokenizer, questions, settings.packing, partial(progress.advance, bar)))
    return found
