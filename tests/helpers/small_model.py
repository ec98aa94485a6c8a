"""A small random Qwen3, and its scores of rows and in ordinary forward passes."""

from functools import cache

import torch
from transformers import AutoModelForCausalLM, Qwen3Config
from transformers.modeling_utils import PreTrainedModel

from mlens.model.attention.cpu_layout import with_cpu_layout
from mlens.packing.row import Row


def make_model(attention, dtype=torch.float64, vocabulary=50, checkpointing=False) -> PreTrainedModel:
    """Make a model with the same weights for every attention; they are so large that every visible token matters."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.2,
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


model_once = cache(make_model)


def laid_out(row: Row) -> Row:
    """Return the row with a CPU layout, unless it has a layout."""
    return with_cpu_layout(row) if row.layout is None else row


def row_scores(model, row: Row) -> torch.Tensor:
    """Return the scores [row.scores] as the engine does: sums of label log-probabilities."""
    row = laid_out(row)
    layout = {} if row.layout is None else {"layout": row.layout}
    logits = model(
        input_ids=row.input_ids, position_ids=row.position_ids, logits_to_keep=row.keep, use_cache=False, **layout
    ).logits.flatten(0, 1)
    log_probability = logits.log_softmax(dim=-1)[row.slot, row.label]
    return torch.zeros(row.scores, dtype=log_probability.dtype).index_add(0, row.owner, log_probability)


def plain_log_probabilities(model, ids) -> torch.Tensor:
    """Return [tokens - 1] the log-probability of each token but the first, from one ordinary forward pass."""
    tokens = torch.tensor([[int(token) for token in ids]])
    logits = model(input_ids=tokens, use_cache=False).logits[0, :-1]
    return logits.log_softmax(dim=-1).gather(1, tokens[0, 1:, None])[:, 0]


def plain_score(model, prompt, answer) -> torch.Tensor:
    """Return log P(answer | prompt), from one ordinary forward pass of both."""
    return plain_log_probabilities(model, [*prompt, *answer])[len(prompt) - 1 :].sum()


def parameters(model) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    named = parameters(model)
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def assert_close_gradients(one: dict, other: dict, relative: float) -> None:
    """Assert that the error of each parameter's gradient is small relative to its norm.

    A norm below 1e-3 of the total norm counts as that, since such gradients may be rounding errors.
    """
    assert one.keys() == other.keys()
    total = sum(float((gradient.double() ** 2).sum()) for gradient in other.values()) ** 0.5
    assert total > 0
    for name in one:
        distance = float(torch.linalg.norm(one[name] - other[name]))
        assert distance <= relative * max(float(torch.linalg.norm(other[name])), 1e-3 * total), name
