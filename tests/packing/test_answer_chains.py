"""The chains of legal answers: each answer is read as it is, and common first tokens once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.packing.answer_chains import answer_chains
from tests.helpers.reference import HALF_STARS
from tests.helpers.tokenizers_for_tests import needs_qwen3, qwen3, text_ids, tiny

END = 1
CHAINS = st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=4), min_size=1, max_size=8, unique_by=tuple)


def with_end(chains) -> list[np.ndarray]:
    return [np.array([*chain, END]) for chain in chains]


def trie_size(chains) -> int:
    """Return the number of distinct starts of the chains."""
    return len({tuple(chain[:n]) for chain in chains for n in range(1, len(chain) + 1)})


@given(CHAINS)
def test_each_answer_is_read_after_the_tokens_before_it(drawn):
    chains = answer_chains(with_end(drawn))
    for chain, slots in zip(drawn, chains.slots, strict=True):
        assert slots[0] == 0 and chains.ids[slots[1:] - 1].tolist() == chain
        for n, token in enumerate(slots[1:] - 1):
            start, stop = chains.stem[token]
            seen = [*range(start, stop), *range(chains.chain_start[token], token + 1)]
            assert chains.ids[seen].tolist() == chain[: n + 1]
            assert chains.index[token] == n
    assert {slot for slots in chains.slots for slot in slots} == {*range(chains.tokens + 1)}
    assert chains.pairs == (chains.index + 1).sum()


@given(CHAINS)
def test_no_more_tokens_are_read_than_without_sharing_and_no_fewer_than_in_a_trie(drawn):
    tokens = answer_chains(with_end(drawn)).tokens
    assert trie_size(drawn) <= tokens <= sum(map(len, drawn))
    if all(len(chain) <= 2 for chain in drawn):
        assert tokens == trie_size(drawn)


@pytest.mark.sampled(1)
@needs_qwen3
@pytest.mark.parametrize(("ratings", "tokens"), [(HALF_STARS, 22), (range(1, 6), 15)])
def test_the_ratings_of_a_scale_are_read_as_in_a_trie(ratings, tokens):
    # A rating is one token of the tiny tokenizer.
    for tokenizer, least in ((qwen3(), tokens), (tiny(), len(ratings))):
        answers = [text_ids(tokenizer, f"{rating:.1f}") for rating in ratings]
        assert answer_chains(with_end(answers)).tokens == trie_size(answers) == least
