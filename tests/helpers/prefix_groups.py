"""Trees of targets spelled out token by token: a second opinion on what rows of them hold and see."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from mlens.model.attention.cpu_layout import CpuLayout
from mlens.packing.prefix_group import PrefixGroup, Suffix
from mlens.packing.row import Row, dense_mask
from tests.helpers.small_model import laid_out

VOCABULARY = 50
# Legal answers of different lengths; each ends in the end token 1.
ANSWERS = [np.array(ids) for ids in ([7, 1], [7, 8, 1], [9, 8, 7, 1], [10, 1])]


def make_group(prefix: int, suffixes, seed: int = 0) -> PrefixGroup:
    """A group of random tokens. prefix: its length; suffixes: (how much of the prefix it sees, own tokens) each. Every
    third token of the prefix is a rating's."""
    draw = np.random.default_rng(seed)

    def tokens(n):
        return draw.integers(2, VOCABULARY, n)

    return PrefixGroup(
        tokens(prefix),
        np.arange(2, prefix, 3),
        tuple(Suffix(seen, tokens(own), ANSWERS[draw.integers(len(ANSWERS))]) for seen, own in suffixes),
    )


def lone_groups(lengths, seed: int = 0) -> list[PrefixGroup]:
    """Targets that share nothing, with prompts of these lengths."""
    return [make_group(n, [(n, 0)], seed + i) for i, n in enumerate(lengths)]


@st.composite
def forests(draw, prefix=12, suffix=6, most=3):
    """Up to `most` groups of up to five suffixes each, some of whose prefixes go on behind the last of them."""
    groups: list[PrefixGroup] = []
    for _ in range(draw(st.integers(1, most))):
        length = draw(st.integers(1, prefix))
        seen = sorted(draw(st.lists(st.integers(1, length), min_size=int(not groups), max_size=5)))
        if seen and draw(st.booleans()):
            seen[-1] = length
        own = [draw(st.integers(int(seen != [length]), suffix)) for _ in seen]
        groups.append(make_group(length, zip(seen, own, strict=True), draw(st.integers(0, 1000))))
    return groups


def prompts(groups) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer of each target, in the order of its group."""
    return [
        ([*group.prefix[: suffix.seen].tolist(), *suffix.ids.tolist()], suffix.answer.tolist())
        for group in groups
        for suffix in group.suffixes
    ]


@dataclass(frozen=True)
class Names:
    """What a row's tokens are called. group, suffix, chain [tokens]: the part that each stands in, which is a prefix
    (suffix -1), a suffix (chain -1), or one of a suffix's chains; place: where it stands there; seen: how much of its
    prefix its suffix sees; own: how many tokens the suffix has."""

    group: np.ndarray
    suffix: np.ndarray
    chain: np.ndarray
    place: np.ndarray
    seen: np.ndarray
    own: np.ndarray

    @property
    def position(self) -> np.ndarray:
        """[tokens] where each token would stand in its own prompt."""
        before = np.where(self.suffix < 0, 0, self.seen + np.where(self.chain < 0, 0, self.own))
        return before + self.place

    @property
    def sees(self) -> np.ndarray:
        """[tokens, tokens] bool: whether the first sees the second."""
        a = Names(*(column[:, None] for column in vars(self).values()))
        b = Names(*(column[None, :] for column in vars(self).values()))
        before = b.place <= a.place
        of_prefix = (b.suffix < 0) & np.where(a.suffix < 0, before, b.place < a.seen)
        of_suffix = (b.suffix == a.suffix) & (b.suffix >= 0) & (b.chain < 0) & ((a.chain >= 0) | before)
        of_chain = (b.suffix == a.suffix) & (b.chain == a.chain) & (b.chain >= 0) & before
        return (a.group == b.group) & (of_prefix | of_suffix | of_chain)


def names(groups, answers=None) -> Names:
    """Of a training row's tokens; with `answers`, of a scoring row's."""
    named = []
    for t, group in enumerate(groups):
        named += [(t, -1, -1, k, 0, 0) for k in range(len(group.prefix))]
        for b, suffix in enumerate(group.suffixes):
            own = len(suffix.ids) + (len(suffix.answer) - 1 if answers is None else 0)
            named += [(t, b, -1, k, suffix.seen, own) for k in range(own)]
            for c, answer in enumerate(answers or []):
                named += [(t, b, c, k, suffix.seen, own) for k in range(len(answer) - 1)]
    return Names(*np.array(named).T)


def contexts(row: Row) -> list[tuple[int, list[int], int]]:
    """(score, the ids that are seen where it is predicted, label) of each label, read off the spans; the positions of
    what is seen must be those of a whole prompt."""
    assert row.spans is not None
    seen = dense_mask(row.spans)
    told = []
    for slot, label, owner in zip(row.slot.tolist(), row.label.tolist(), row.owner.tolist(), strict=True):
        places = torch.nonzero(seen[row.keep[slot]])[:, 0]
        order = row.position_ids[0, places].argsort()
        assert row.position_ids[0, places[order]].tolist() == list(range(len(places)))
        told.append((owner, row.input_ids[0, places[order]].tolist(), label))
    return told


def check_row(row: Row, groups, answers=None) -> None:
    """A row's spans are those of its groups' names, its positions those of the separate prompts, and each label is
    predicted from its prompt and the answer so far."""
    named = names(groups, answers)
    assert row.spans is not None
    assert np.array_equal(dense_mask(row.spans).numpy(), named.sees)
    assert row.position_ids[0].tolist() == named.position.tolist()
    samples = prompts(groups)
    if answers is None:
        wanted = [
            (i, [*prompt, *answer[:k]], answer[k])
            for i, (prompt, answer) in enumerate(samples)
            for k in range(len(answer))
        ]
    else:
        wanted = [
            (i * len(answers) + j, [*prompt, *answer.tolist()[:k]], int(answer[k]))
            for i, (prompt, _) in enumerate(samples)
            for j, answer in enumerate(answers)
            for k in range(len(answer))
        ]
    own = len(wanted)
    told = contexts(row)
    assert told[:own] == wanted
    lines = [
        (len(samples), group.prefix[:at].tolist(), int(group.prefix[at])) for group in groups for at in group.lines
    ]
    assert told[own:] in ([], lines)
    check_layout(row)


def check_layout(row: Row) -> None:
    """A layout's products are what the spans say: each token looks once, at what it sees, each key once; and padding
    looks at something, but nothing looks at it. A product is read where logits of one of its tokens are kept."""
    assert row.spans is not None
    tokens, layout = len(row.spans), laid_out(row).layout
    pairs = layout_pairs(layout, tokens)
    assert not pairs[:tokens, tokens].any()
    assert np.array_equal(pairs[:tokens, :tokens], dense_mask(row.spans).numpy().astype(int))
    kept = {*row.keep.tolist()}
    assert [product.read for product in layout.products] == [
        not kept.isdisjoint(places(product.query).ravel().tolist()) for product in layout.products
    ]


def layout_pairs(layout: CpuLayout, tokens: int) -> np.ndarray:
    """[tokens + 1, tokens + 1]: how often each token looks at each other one; the last stands for padding."""
    pairs, looked = np.zeros((tokens + 1, tokens + 1), dtype=int), np.zeros(tokens + 1, dtype=int)
    for product in layout.products:
        queries = places(product.query)
        keys = np.concatenate([places(part) for part in product.key], axis=1) if product.key else queries
        for n, query in enumerate(queries):
            looked[query] += 1
            own = keys[n]
            assert len({*own} - {tokens}) == (own != tokens).sum()
            for i, token in enumerate(query):
                seen = own[: i + 1] if product.mask is None else own[product.mask[n, 0, i].numpy()]
                assert len(seen)
                np.add.at(pairs[token], seen, 1)
                if product.common is not None:
                    pairs[token, product.common] += 1
    assert (looked[:tokens] == 1).all()
    return pairs


def places(of) -> np.ndarray:
    """[n, m]"""
    return np.arange(of.start, of.stop)[None] if isinstance(of, slice) else of.numpy()
