"""Attention over rows on a CPU: one dense product after another, as the row's layout lists them.

Registered with transformers' AttentionInterface, so the code of the model stays unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

from mlens.errors import UserError
from mlens.model.attention.cpu_layout import CpuLayout, Places, Product
from mlens.model.attention.prefix_cache import with_prefix_cache

ROW_ATTENTION = "mlens_rows"
# Arguments that models pass to their attention and that change nothing here: a row has no key-value cache, and its
# order is in the layout.
IGNORED = {"position_ids", "use_cache", "output_attentions", "output_router_logits"}


@torch.compiler.disable
def row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    layout: CpuLayout | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of one row: [1, tokens, heads, d].

    query: [1, heads, tokens, d].
    key, value: [1, kv heads, tokens, d].
    layout: the row's; without one the samples of the row would see one another.

    Raises ValueError without a layout, UserError where the model requires more than a scaled softmax.
    """
    if layout is None:
        raise ValueError("row attention needs the row's layout: model(..., layout=row.layout)")
    require_plain(dropout=dropout, **options)
    if torch.is_autocast_enabled("cpu"):
        # Normalised queries and keys arrive in float32 then and values don't; the kernel takes a single type.
        query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in (query, key, value))
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    config = getattr(module, "config", None)
    if config is not None and module.layer_idx == config.num_hidden_layers - 1:
        # Only the results at labels are read from the last layer, and prefixes seldom have labels.
        layout = CpuLayout(tuple(product for product in layout.products if product.read))
    return _RowAttention.apply(q, k, v, scaling, layout)[None], None


def require_plain(
    dropout: float, sliding_window: int | None = None, position_ids: torch.Tensor | None = None, **options: Any
) -> None:
    """Raise UserError where a model requires more of its attention than a scaled softmax over all that a token sees:
    soft caps, sinks, biases, dropout, or a window shorter than the row's longest sample."""
    refused = {name: value for name, value in options.items() if value is not None and name not in IGNORED}
    if dropout:
        refused["dropout"] = dropout
    # A window at least as long as every sample hides nothing. Without positions their lengths are unknown.
    if sliding_window is not None and (position_ids is None or int(position_ids.max()) >= sliding_window):
        refused["sliding_window"] = sliding_window
    if refused:
        named = [f"{name}={value}" if isinstance(value, int | float) else name for name, value in refused.items()]
        raise UserError(
            f"this model's attention requires {', '.join(named)}, which packed rows don't have: "
            "choose packing=reference model.attention=sdpa (or eager, where the model has no sdpa) instead"
        )


# The kernel of scaled_dot_product_attention on a CPU. Called directly, it also returns the log of each softmax's sum,
# which joins two products over different keys, and its gradients can be added up in place.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _RowAttention(torch.autograd.Function):
    """Attention of q [tokens, heads, d] over k and v [tokens, kv heads, d]: [tokens, heads, d].

    Two partial results o₁, o₂ over different keys, with logarithms l₁, l₂ of their softmax sums, join to
    l = log(exp l₁ + exp l₂), o = exp(l₁ - l) o₁ + exp(l₂ - l) o₂. With the joint o and l, the backward pass of each
    part gives its share of the gradients (Dao et al., "FlashAttention", NeurIPS 2022; Liu et al., "Ring Attention",
    2023).
    """

    @staticmethod
    def forward(ctx, q, k, v, scale: float, layout: CpuLayout) -> torch.Tensor:
        result = q.new_zeros((len(q) + 1, *q.shape[1:]))  # the last one receives the results of padding
        saved = []
        for product in layout.products:
            parts = list(_parts(product, q.shape[1], q.dtype, k, v))
            queries = _take(q, product.query)
            _, part_k, part_v, mask = parts[0]
            causal = product.mask is None
            o, log_sum = _flash(queries, part_k, part_v, is_causal=causal, attn_mask=mask, scale=scale)
            for _, part_k, part_v, mask in parts[1:]:
                o2, log_sum2 = _flash(queries, part_k, part_v, attn_mask=mask, scale=scale)
                joint = torch.logaddexp(log_sum, log_sum2)
                share, share2 = ((part - joint).exp()[..., None].to(o.dtype) for part in (log_sum, log_sum2))
                o, log_sum = o * share + o2 * share2, joint
            _put(result, product.query, o)
            saved += [o, log_sum]
        ctx.save_for_backward(q, k, v, *saved)
        ctx.scale, ctx.layout = scale, layout
        return result[:-1]

    @staticmethod
    def backward(ctx, grad):
        q, k, v, *saved = ctx.saved_tensors
        # The gradient of padding is zero: otherwise it would flow into the keys that padding sees.
        grad = torch.cat([grad, grad.new_zeros((1, *grad.shape[1:]))])
        grad_q, grad_k, grad_v = (x.new_zeros((len(x) + 1, *x.shape[1:])) for x in (q, k, v))
        for product, o, log_sum in zip(ctx.layout.products, saved[::2], saved[1::2], strict=True):
            queries, query_grad = _take(q, product.query), _take(grad, product.query)
            total, causal = torch.zeros((), dtype=q.dtype), product.mask is None
            for places, part_k, part_v, mask in _parts(product, q.shape[1], q.dtype, k, v):
                one_q, one_k, one_v = _flash_backward(
                    query_grad, queries, part_k, part_v, o, log_sum, 0.0, causal, attn_mask=mask, scale=ctx.scale
                )
                total = total + one_q
                _add(grad_k, places, one_k)
                _add(grad_v, places, one_v)
            _put(grad_q, product.query, total)
        return grad_q[:-1], grad_k[:-1], grad_v[:-1], None, None


def _parts(product: Product, heads: int, dtype: torch.dtype, k: torch.Tensor, v: torch.Tensor):
    """The parts of a product's keys: their places, keys and values [n, heads, k, d], and the mask as the kernel takes
    it."""
    if product.common is not None and product.common.stop > product.common.start:
        common = (product.common,)
        yield common, _keys(k, common, heads), _keys(v, common, heads), None
    mask = None
    if product.mask is not None:
        mask = torch.zeros(product.mask.shape, dtype=dtype).masked_fill_(~product.mask, -torch.inf)
    places = product.key or (product.query,)
    yield places, _keys(k, places, heads), _keys(v, places, heads), mask


def _keys(x: torch.Tensor, places: tuple[Places, ...], heads: int) -> torch.Tensor:
    """[n, heads, k, d]: each key head stands for a group of query heads, without a copy."""
    taken = torch.cat([_take(x, place) for place in places], dim=2) if len(places) > 1 else _take(x, places[0])
    n, kv_heads, length, d = taken.shape
    return taken[:, :, None].expand(n, kv_heads, heads // kv_heads, length, d).reshape(n, heads, length, d)


def _take(x: torch.Tensor, places: Places) -> torch.Tensor:
    """x [tokens, heads, d] at these places -> [n, heads, m, d]."""
    if isinstance(places, slice):
        return x[places].transpose(0, 1)[None]
    return x.index_select(0, places.flatten().clamp(max=len(x) - 1)).unflatten(0, places.shape).transpose(1, 2)


def _put(x: torch.Tensor, places: Places, value: torch.Tensor) -> None:
    """Write `value` [n, heads, m, d] to these places of x [tokens + 1, heads, d]."""
    if isinstance(places, slice):
        x[places] = value[0].transpose(0, 1)
    else:
        x.index_copy_(0, places.flatten(), value.transpose(1, 2).flatten(0, 1))


def _add(x: torch.Tensor, places: tuple[Places, ...], grad: torch.Tensor) -> None:
    """Add grad [n, heads, k, d], the heads of a group together, at these places of x [tokens + 1, kv heads, d]."""
    grad = grad.unflatten(1, (x.shape[1], -1)).sum(dim=2)
    first = 0
    for place in places:
        if isinstance(place, slice):
            last = first + place.stop - place.start
            x[place] += grad[0, :, first:last].transpose(0, 1)
            first = last
        else:
            # index_add_ is slow, one place at a time; no place but that of padding is repeated here.
            index = place.flatten()
            x.index_copy_(0, index, x.index_select(0, index) + grad.transpose(1, 2).flatten(0, 1))


AttentionInterface.register(ROW_ATTENTION, with_prefix_cache(row_attention))
