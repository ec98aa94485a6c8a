"""Random prefix groups, and a naive reference, built token by token, for what tokens of their rows see."""

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
    """Make a prefix group of random tokens. Every third token of the prefix is a rating.

    prefix: its length.
    suffixes: (number of prefix tokens that it sees, its length) each.
    """
    draw = np.random.default_rng(seed)

    def tokens(n):
        return draw.integers(2, VOCABULARY, n)

    return PrefixGroup(
        tokens(prefix),
        np.arange(2, prefix, 3),
        tuple(Suffix(seen, tokens(length), ANSWERS[draw.integers(len(ANSWERS))]) for seen, length in suffixes),
    )


def lone_groups(lengths, seed: int = 0) -> list[PrefixGroup]:
    """Make targets that share no prefix, with prompts of these lengths."""
    return [make_group(n, [(n, 0)], seed + i) for i, n in enumerate(lengths)]


@st.composite
def prefix_group_lists(draw, prefix=12, suffix=6, most=3):
    """Draw up to `most` groups of up to five suffixes each; some prefixes have more tokens than any suffix sees."""
    groups: list[PrefixGroup] = []
    for _ in range(draw(st.integers(1, most))):
        length = draw(st.integers(1, prefix))
        seen = sorted(draw(st.lists(st.integers(1, length), min_size=int(not groups), max_size=5)))
        if seen and draw(st.booleans()):
            seen[-1] = length
        lengths = [draw(st.integers(int(seen != [length]), suffix)) for _ in seen]
        groups.append(make_group(length, zip(seen, lengths, strict=True), draw(st.integers(0, 1000))))
    return groups


def prompts(groups) -> list[tuple[list[int], list[int]]]:
    """Return prompt and answer of each target, group by group."""
    return [
        ([*group.prefix[: suffix.seen].tolist(), *suffix.ids.tolist()], suffix.answer.tolist())
        for group in groups
        for suffix in group.suffixes
    ]


@dataclass(frozen=True)
class TokenParts:
    """The part of a row that each token belongs to: a prefix, a suffix, or an answer chain. All fields are [tokens].

    group: prefix group.
    suffix: number in the group, -1 in the prefix.
    chain: number of the suffix's answer chain, -1 in a prefix or suffix.
    offset: index in the part.
    prefix_seen: prefix tokens that the suffix sees.
    suffix_length: tokens of the suffix.
    stem: number of the chain that the chain continues, -1 for none.
    stem_length: its tokens.
    """

    group: np.ndarray
    suffix: np.ndarray
    chain: np.ndarray
    offset: np.ndarray
    prefix_seen: np.ndarray
    suffix_length: np.ndarray
    stem: np.ndarray
    stem_length: np.ndarray

    @property
    def position(self) -> np.ndarray:
        """The position of each token in its separate prompt: [tokens]."""
        before = np.where(self.suffix < 0, 0, self.prefix_seen + np.where(self.chain < 0, 0, self.suffix_length))
        return before + self.stem_length + self.offset

    @property
    def sees(self) -> np.ndarray:
        """Whether the first token sees the second: [tokens, tokens] bool."""
        a = TokenParts(*(column[:, None] for column in vars(self).values()))
        b = TokenParts(*(column[None, :] for column in vars(self).values()))
        before = b.offset <= a.offset
        of_prefix = (b.suffix < 0) & np.where(a.suffix < 0, before, b.offset < a.prefix_seen)
        of_suffix = (b.suffix == a.suffix) & (b.suffix >= 0) & (b.chain < 0) & ((a.chain >= 0) | before)
        of_chain = (b.suffix == a.suffix) & (b.chain == a.chain) & (b.chain >= 0) & before
        of_stem = (b.suffix == a.suffix) & (b.chain == a.stem) & (b.chain >= 0)
        return (a.group == b.group) & (of_prefix | of_suffix | of_chain | of_stem)


def token_parts(groups, answers=None) -> TokenParts:
    """Return the parts of a training row's tokens; with `answers`, of a scoring row's."""
    parts = []
    for t, group in enumerate(groups):
        parts += [(t, -1, -1, k, 0, 0, -1, 0) for k in range(len(group.prefix))]
        for b, suffix in enumerate(group.suffixes):
            length = len(suffix.ids) + (len(suffix.answer) - 1 if answers is None else 0)
            parts += [(t, b, -1, k, suffix.seen, length, -1, 0) for k in range(length)]
            for c, (chain, stem, stem_length) in enumerate(chains_of(answers or [])):
                parts += [(t, b, c, k, suffix.seen, length, stem, stem_length) for k in range(chain)]
    return TokenParts(*np.array(parts).T)


def chains_of(answers) -> list[tuple[int, int, int]]:
    """Return (length, number of its stem or -1, the stem's length) of each answer chain.

    Answers that begin with the same token have the longest common start as a stem, before what follows it in each.
    """
    chains: list[tuple[int, int, int]] = []
    read = [answer.tolist()[:-1] for answer in answers]
    for token in dict.fromkeys(ids[0] for ids in read):
        members = [ids for ids in read if ids[0] == token]
        possible = range(1, min(map(len, members)) + 1)
        length = max(n for n in possible if len({tuple(ids[:n]) for ids in members}) == 1)
        stem = len(chains)
        chains.append((length, -1, 0))
        chains += [(len(ids) - length, stem, length) for ids in members]
    return chains


def label_contexts(row: Row) -> list[tuple[int, list[int], int]]:
    """Return (score, ids of the tokens that the prediction sees, label) of each label, by the spans.

    Asserts that the positions of these tokens are 0, 1, … without a gap.
    """
    assert row.spans is not None
    seen = dense_mask(row.spans)
    found = []
    for slot, label, owner in zip(row.slot.tolist(), row.label.tolist(), row.owner.tolist(), strict=True):
        indices = torch.nonzero(seen[row.keep[slot]])[:, 0]
        order = row.position_ids[0, indices].argsort()
        assert row.position_ids[0, indices[order]].tolist() == list(range(len(indices)))
        found.append((owner, row.input_ids[0, indices[order]].tolist(), label))
    return found


def check_row(row: Row, groups, answers=None) -> None:
    """Assert that a row's spans and positions are those of its tokens' parts, and that each label is predicted from its
    prompt and the previous answer tokens."""
    parts = token_parts(groups, answers)
    assert row.spans is not None
    assert np.array_equal(dense_mask(row.spans).numpy(), parts.sees)
    assert row.position_ids[0].tolist() == parts.position.tolist()
    samples = prompts(groups)
    if answers is None:
        expected = [
            (i, [*prompt, *answer[:k]], answer[k])
            for i, (prompt, answer) in enumerate(samples)
            for k in range(len(answer))
        ]
    else:
        expected = [
            (i * len(answers) + j, [*prompt, *answer.tolist()[:k]], int(answer[k]))
            for i, (prompt, _) in enumerate(samples)
            for j, answer in enumerate(answers)
            for k in range(len(answer))
        ]
    found = label_contexts(row)
    assert found[: len(expected)] == expected
    lines = [
        (len(samples), group.prefix[:at].tolist(), int(group.prefix[at])) for group in groups for at in group.lines
    ]
    assert found[len(expected) :] in ([], lines)
    check_layout(row)


def check_layout(row: Row) -> None:
    """Assert that a CPU layout is equivalent to the row's spans.

    Each token is a query once, and attends to each token that it sees once. Padding queries attend to some token; no
    token attends to padding. A product is read if the logits of one of its tokens are kept.
    """
    assert row.spans is not None
    tokens, layout = len(row.spans), laid_out(row).layout
    pairs = layout_pairs(layout, tokens)
    assert not pairs[:tokens, tokens].any()
    assert np.array_equal(pairs[:tokens, :tokens], dense_mask(row.spans).numpy().astype(int))
    kept = {*row.keep.tolist()}
    assert [product.read for product in layout.products] == [
        not kept.isdisjoint(token_indices(product.query).ravel().tolist()) for product in layout.products
    ]


def layout_pairs(layout: CpuLayout, tokens: int) -> np.ndarray:
    """Return how often each token attends to each other one: [tokens + 1, tokens + 1], padding last."""
    pairs, queried = np.zeros((tokens + 1, tokens + 1), dtype=int), np.zeros(tokens + 1, dtype=int)
    for product in layout.products:
        queries = token_indices(product.query)
        keys = np.concatenate([token_indices(part) for part in product.key], axis=1) if product.key else queries
        for n, query in enumerate(queries):
            queried[query] += 1
            query_keys = keys[n]
            assert len({*query_keys} - {tokens}) == (query_keys != tokens).sum()
            for i, token in enumerate(query):
                seen = query_keys[: i + 1] if product.mask is None else query_keys[product.mask[n, 0, i].numpy()]
                assert len(seen)
                np.add.at(pairs[token], seen, 1)
                if product.common is not None:
                    pairs[token, product.common] += 1
    assert (queried[:tokens] == 1).all()
    return pairs


def token_indices(tokens) -> np.ndarray:
    """Return the indices [n, m] of a slice or tensor of tokens."""
    return np.arange(tokens.start, tokens.stop)[None] if isinstance(tokens, slice) else tokens.numpy()
