"""Row attention: a packed row gives what the unmodified model gives for each separate sample."""

import numpy as np
import pytest
import torch

from mlens.model.attention.cpu import row_attention
from mlens.model.attention.cpu_layout import with_cpu_layout
from mlens.packing.packed import PackedRows
from tests.helpers.steps import answer_log_probabilities, parts

# A target without history, three suffixes of one prefix, and a target of another user.
TRAIN = [np.array([0]), np.array([39, 40, 41]), np.array([100])]
SHAPES = [(), ("model.heads=4", "model.kv_heads=2"), ("model.gradient_checkpointing=true",)]


@pytest.fixture(params=SHAPES, ids=lambda shape: " ".join(shape) or "as it is")
def pair(request):
    """(parts with row attention, the same weights under the model's unmodified attention)."""
    rows = parts(*request.param)
    plain = parts("packing=reference", "model.attention=sdpa", *request.param)
    plain.model.load_state_dict(rows.model.state_dict())
    return rows, plain.model


def scores(model, row):
    row = with_cpu_layout(row)
    logits = model(
        input_ids=row.input_ids, position_ids=row.position_ids, logits_to_keep=row.keep, layout=row.layout
    ).logits[0]
    token = logits.log_softmax(-1)[row.slot, row.label]
    return torch.zeros(row.scores).index_add(0, row.owner, token)


@pytest.mark.sampled(2)
def test_a_training_rows_scores_and_gradients_are_those_of_its_samples(pair):
    rows, plain = pair
    dataset = rows.datasets["train"]
    assert all(len({*dataset.shapes(group).group}) == 1 for group in TRAIN)
    samples = [dataset[int(i)] for group in TRAIN for i in group]
    packed = scores(rows.model, PackedRows().train_row([dataset.prefix_group(group) for group in TRAIN]))
    separate = torch.stack([answer_log_probabilities(plain, s.prompt, s.answer).sum() for s in samples])
    assert torch.allclose(packed, separate, atol=2e-5)
    weight = torch.linspace(0.5, 2.0, len(samples))
    (packed * weight).sum().backward()
    (separate * weight).sum().backward()
    for (name, a), (_, b) in zip(rows.model.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5 * float(b.grad.abs().max()) + 1e-7, rtol=1e-3), name


@pytest.mark.sampled(2)
def test_a_scoring_rows_scores_are_those_of_separate_sequences(pair):
    rows, plain = pair
    dataset = rows.datasets["test"]
    samples, groups = (
        [dataset[i] for i in (0, 1, 5)],
        [dataset.prefix_group(np.array(group)) for group in ([0, 1], [5])],
    )
    answers = dataset.renderer.template.answers
    with torch.no_grad():
        packed = scores(rows.model, PackedRows().score_row(groups, answers)).view(len(samples), len(answers))
        separate = [
            [float(answer_log_probabilities(plain, s.prompt, answer).sum()) for answer in answers] for s in samples
        ]
    assert packed.tolist() == [pytest.approx(row, abs=5e-5) for row in separate]


def test_another_sample_in_the_row_changes_nothing():
    made = parts()
    first, second, third = (made.datasets["train"].prefix_group(np.array([i])) for i in (10, 50, 90))
    with torch.no_grad():
        together = scores(made.model, PackedRows().train_row([first, second]))
        exchanged = scores(made.model, PackedRows().train_row([first, third]))
    assert float(together[0]) == pytest.approx(float(exchanged[0]), abs=1e-6)
    assert float(together[1]) != float(exchanged[1])


def test_a_row_without_its_layout_is_refused():
    made = parts()
    row = PackedRows().train_row([made.datasets["train"].prefix_group(np.array([0]))])
    with pytest.raises(ValueError, match="layout"):
        made.model(input_ids=row.input_ids, position_ids=row.position_ids)
    with pytest.raises(ValueError, match="layout"):
        row_attention(None, *(torch.zeros(1, 1, 2, 4) for _ in range(3)), None, 1.0)


def test_a_filler_row_has_no_scores_and_a_gradient_of_zero():
    made = parts()
    engine = made.engine()
    row = PackedRows().train_row([])
    assert row.scores == 0
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    assert float(engine.backward(row, labels=1, last=False)) == 0
    engine.set_learning_rate(1.0)
    assert engine.score(row).tolist() == []
    assert all(torch.equal(before[name], tensor) for name, tensor in made.model.state_dict().items())
