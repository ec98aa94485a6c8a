"""After the datasets have been made, neither training nor evaluation tokenises any text."""

import pytest

from mlens.data.sample import Sample
from mlens.data.sources import load_table
from mlens.data.split import Split, assign_roles
from mlens.data.stage import make_stages
from mlens.history.all_previous import AllPrevious
from mlens.history.fixed_count import FixedCount
from mlens.history.random import Random
from mlens.model.load import load_tokenizer
from mlens.model.settings import TinyModel
from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import RowLoader, plan_epoch, plan_scoring
from mlens.packing.packed import PackedRows
from mlens.packing.steps import Steps
from mlens.prompt.renderer import make_renderer
from mlens.prompt.settings import Ablation, Style
from mlens.prompt.tokens import PlainText


@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", [AllPrevious(), FixedCount(), Random(), Random(draw="per_user")])
@pytest.mark.parametrize("context", [False, True])
def test_rows_are_built_without_tokenising(strategy, context, monkeypatch):
    table = load_table(Sample(users=12, movies=40, ratings_per_user=12))
    split, style, ablation = Split("temporal"), Style("Task", "Rating:"), Ablation(True, True, context)
    tokenizer = load_tokenizer(TinyModel(vocab_size=400), table, style, ablation)
    renderer = make_renderer(table, style, ablation, tokenizer)
    assert renderer.shares_prefixes

    def refuse(*_, **__):
        raise AssertionError("a text was tokenised")

    monkeypatch.setattr(PlainText, "encode", refuse)
    monkeypatch.setattr(type(tokenizer), "__call__", refuse)
    stages = make_stages(table, assign_roles(table, split), split)
    datasets = {name: RatingDataset(table, stage, strategy, renderer, seed=0) for name, stage in stages.items()}
    collator = PackedRows()
    steps = Steps(16, 4, history_loss_weight=0.5)
    scores = 0
    for epoch in (0, 1):
        dataset = datasets["train"].with_epoch(epoch)
        loader = RowLoader(dataset, collator.train_row)
        for planned in plan_epoch(dataset, collator, steps, seed=0, epoch=epoch, rank=0, world=1):
            scores += loader[planned][1].scores
    assert scores == 2 * len(datasets["train"])
    for groups in plan_scoring(datasets["test"], collator, rank=0, world=1):
        collator.score_row([datasets["test"].prefix_group(group) for group in groups], renderer.template.answers)
