"""Packed rows against brute-force masks, and against every sample alone through the model's own attention."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, Qwen3Config

from mlens.model.attention import ROW_ATTENTION, row_attention
from mlens.packing.dataset import Sample
from mlens.packing.packed import PackedRows, filler_row
from mlens.packing.reference import ReferenceRows
from mlens.packing.row import dense_mask

VOCABULARY = 50
NO_RATINGS = np.arange(0)
# Legal answers of different lengths; each ends in the end token 1.
ANSWERS = [np.array(ids) for ids in ([7, 1], [7, 8, 1], [9, 8, 7, 1], [10, 1])]


def make_samples(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [
        Sample(i, NO_RATINGS, 0, random.integers(2, VOCABULARY, n), ANSWERS[random.integers(len(ANSWERS))])
        for i, n in enumerate(lengths)
    ]


def make_model(attention, dtype=torch.float64, checkpointing=False):
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype)
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def forward(model, row):
    layout = {} if row.layout is None else {"layout": row.layout}
    logits = model(
        input_ids=row.input_ids, position_ids=row.position_ids, logits_to_keep=row.keep, use_cache=False, **layout
    ).logits
    return logits.flatten(0, 1)


def row_scores(model, row):
    log_probabilities = forward(model, row).log_softmax(dim=-1)
    own = log_probabilities[row.slot, row.label]
    return torch.zeros(row.scores, dtype=own.dtype).index_add(0, row.owner, own)


def alone(model, prompt, answer):
    """log P(answer | prompt) by one plain forward of both."""
    ids = torch.tensor([*prompt, *answer])
    logits = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(dim=-1)
    return sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(answer.tolist()))


# masks

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def naive_train_mask(samples):
    """Each sample's tokens (prompt and answer without its end) see those of their sample up to themselves."""
    owner = [i for i, s in enumerate(samples) for _ in range(len(s.prompt) + len(s.answer) - 1)]
    n = len(owner)
    return torch.tensor([[owner[i] == owner[j] and j <= i for j in range(n)] for i in range(n)])


def naive_score_mask(samples, answers):
    """A prompt's tokens see their prompt up to themselves; an answer's token its whole prompt and its answer so far."""
    names = []
    for i, sample in enumerate(samples):
        names += [(i, None, k) for k in range(len(sample.prompt))]
        names += [(i, j, k) for j, answer in enumerate(answers) for k in range(len(answer) - 1)]

    def sees(a, b):
        if a[0] != b[0]:
            return False
        if b[1] is None:
            return a[1] is not None or b[2] <= a[2]
        return a[1] == b[1] and b[2] <= a[2]

    return torch.tensor([[sees(a, b) for b in names] for a in names])


def naive_positions(samples, answers=None):
    positions = []
    for sample in samples:
        n = len(sample.prompt)
        positions += range(n)
        for answer in [sample.answer] if answers is None else answers:
            positions += range(n, n + len(answer) - 1)
    return positions


@given(lengths)
def test_training_spans_are_those_of_separate_causal_samples(lengths):
    samples = make_samples(lengths)
    row = PackedRows().train_row(samples)
    assert torch.equal(dense_mask(row.spans), naive_train_mask(samples))
    assert row.position_ids[0].tolist() == naive_positions(samples)
    ids = [token for s in samples for token in [*s.prompt, *s.answer[:-1]]]
    assert row.input_ids[0].tolist() == ids


@given(lengths)
def test_scoring_spans_let_an_answer_see_its_prompt_and_itself(lengths):
    samples = make_samples(lengths)
    row = PackedRows().score_row(samples, ANSWERS)
    assert torch.equal(dense_mask(row.spans), naive_score_mask(samples, ANSWERS))
    assert row.position_ids[0].tolist() == naive_positions(samples, ANSWERS)
    assert row.scores == len(samples) * len(ANSWERS)


@given(lengths, st.booleans(), st.sampled_from([(4, 4), (4, 2), (6, 1)]), st.integers(0, 3))
def test_row_attention_is_attention_under_the_dense_mask(lengths, scoring, heads, seed):
    samples = make_samples(lengths)
    row = PackedRows().score_row(samples, ANSWERS) if scoring else PackedRows().train_row(samples)
    generator = torch.Generator().manual_seed(seed)
    n, d = row.input_ids.shape[1], 8

    def random(h):
        return torch.randn(1, h, n, d, generator=generator, dtype=torch.float64).requires_grad_()

    q, k, v = random(heads[0]), random(heads[1]), random(heads[1])
    got, _ = row_attention(torch.nn.Identity(), q, k, v, None, scaling=0.3, layout=row.layout)
    repeat = heads[0] // heads[1]
    wide_k, wide_v = (x.repeat_interleave(repeat, dim=1) for x in (k, v))
    want = scaled_dot_product_attention(q, wide_k, wide_v, attn_mask=dense_mask(row.spans), scale=0.3).transpose(1, 2)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    weights = torch.randn(got.shape, generator=generator, dtype=torch.float64)
    for one, other in zip(*(torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (got, want)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_row_attention_without_a_layout_raises():
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="layout"):
        row_attention(torch.nn.Identity(), q, q, q, None, scaling=1.0)
    model = make_model(ROW_ATTENTION)
    with pytest.raises(ValueError, match="layout"):
        model(input_ids=torch.tensor([[3, 4]]), use_cache=False)


# the model

LENGTHS = [[1], [5, 5], [2, 3, 30, 1], [40, 1, 2, 7, 11, 17]]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These products are too small to share, and cores are too few."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def packed_model():
    return make_model(ROW_ATTENTION)


@pytest.fixture(scope="module")
def plain_model():
    return make_model("sdpa")


SAMPLES = make_samples([1, 30, 3, 17, 18, 5, 2, 40, 11], seed=4)


def gradients(model, rows):
    model.zero_grad()
    losses = []
    for row in rows:
        loss = -row_scores(model, row).sum()
        loss.backward()
        losses.append(loss.item())
    return sum(losses), {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_close_gradients(one, other, relative=1e-5):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.linalg.norm(one[name] - other[name]) <= relative * torch.linalg.norm(other[name]), name
        assert torch.linalg.norm(other[name]) > 0, name


@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_packed_samples_log_probability_is_that_of_the_sample_alone(packed_model, plain_model, lengths):
    samples = make_samples(lengths, seed=1)
    with torch.no_grad():
        packed = row_scores(packed_model, PackedRows().train_row(samples))
        reference = torch.cat([row_scores(plain_model, ReferenceRows().train_row([s])) for s in samples])
        separately = torch.stack([alone(plain_model, s.prompt, s.answer) for s in samples])
    torch.testing.assert_close(packed, separately, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(reference, separately, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_every_legal_rating_is_scored_as_by_a_plain_forward(packed_model, plain_model, lengths):
    samples = make_samples(lengths, seed=2)
    with torch.no_grad():
        packed = row_scores(packed_model, PackedRows().score_row(samples, ANSWERS))
        reference = torch.cat([row_scores(plain_model, ReferenceRows().score_row([s], ANSWERS)) for s in samples])
        separately = torch.stack([alone(plain_model, s.prompt, answer) for s in samples for answer in ANSWERS])
    torch.testing.assert_close(packed, separately, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(reference, separately, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_loss_and_gradients_are_those_of_the_separate_samples(dtype, relative):
    one, reference = (make_model(attention, dtype) for attention in (ROW_ATTENTION, "sdpa"))
    loss, packed = gradients(one, [PackedRows().train_row(SAMPLES[:5]), PackedRows().train_row(SAMPLES[5:])])
    want, separate = gradients(reference, [ReferenceRows().train_row([s]) for s in SAMPLES])
    assert loss == pytest.approx(want, rel=relative)
    assert_close_gradients(packed, separate, relative)


def test_checkpointing_changes_nothing():
    row = PackedRows().train_row(SAMPLES)
    (loss, plain), (same_loss, checkpointed) = (
        gradients(make_model(ROW_ATTENTION, checkpointing=on), [row]) for on in (False, True)
    )
    assert loss == pytest.approx(same_loss, rel=1e-12)
    assert_close_gradients(plain, checkpointed, 1e-12)


@pytest.mark.parametrize("scoring", [False, True])
@pytest.mark.parametrize("changed", range(len(SAMPLES)))
def test_no_sample_sees_another_or_any_padding(packed_model, scoring, changed):
    """Other tokens in one sample leave the scores of all others as they are, bit for bit."""
    other = list(SAMPLES)
    other[changed] = replace(other[changed], prompt=(other[changed].prompt + 1) % VOCABULARY)

    def scores(samples):
        rows = PackedRows()
        with torch.no_grad():
            row = rows.score_row(samples, ANSWERS) if scoring else rows.train_row(samples)
            return row_scores(packed_model, row).view(len(samples), -1)

    same = (scores(SAMPLES) == scores(other)).all(dim=1)
    assert same.tolist() == [i != changed for i in range(len(SAMPLES))]


def test_answers_do_not_see_one_another(packed_model):
    with torch.no_grad():
        some, other = (
            row_scores(packed_model, PackedRows().score_row(SAMPLES, answers)).view(len(SAMPLES), -1)
            for answers in (ANSWERS, [*ANSWERS[:2], np.array([30, 31, 32, 1]), ANSWERS[3]])
        )
    assert (some == other).all(dim=0).tolist() == [True, True, False, True]


@pytest.mark.parametrize("collator", [PackedRows(), ReferenceRows()])
def test_a_filler_row_has_no_scores_and_gives_every_parameter_a_zero_gradient(collator):
    model = make_model(ROW_ATTENTION if isinstance(collator, PackedRows) else "sdpa")
    for row in (collator.train_row([]), collator.score_row([], ANSWERS)):
        assert row.scores == len(row.label) == 0
        model.zero_grad()
        (forward(model, row).sum() * 0).backward()
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_filler_row_sees_itself():
    assert dense_mask(filler_row().spans).tolist() == [[True]]


def test_a_row_moves_with_all_its_tensors():
    row = PackedRows().score_row(SAMPLES, ANSWERS).to(torch.device("meta"))
    tensors = [row.input_ids, row.position_ids, row.spans, row.keep, row.slot, row.label, row.owner, row.layout.place]
    for group in row.layout.groups:
        tensors += [group.trunk, group.tail, group.tail_mask]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert row.scores == len(SAMPLES) * len(ANSWERS)
