"""Random draws that depend only on what they are for, never on which process draws, when, or in which order.

Users and movies are identified by the keys of their raw ids (`raw_id_keys`), never by their index in a table. A subset
of them is drawn by giving each a random word and taking the smallest: the word of one doesn't depend on which others
exist.

Every draw comes from Philox, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), whose key and counter identify the draw. Only its raw 64-bit words are used: NumPy guarantees their stream,
but not that of `Generator.permutation`.
"""

from __future__ import annotations

import threading

import numpy as np

# Purposes of draws; the same seed gives independent draws for different purposes.
SPLIT, TRAIN_TARGETS, HISTORY, ORDER, EVAL_USERS, DATA_USERS, EXCERPTS, EXAMPLES, DROPOUT, PROBE, EXCERPT_ORDER = range(
    1, 12
)
SIMILARITY_FOLDS, PAGE_USERS = 12, 13
MASK = (1 << 64) - 1


def words(n: int, purpose: int, seed: int, user: int = 0, epoch: int = 0, movie: int = 0) -> np.ndarray:
    """Draw n uniform words: [n] uint64. A longer draw with the same other arguments starts with the shorter one."""
    key = np.array([seed & MASK, int(user)], dtype=np.uint64)
    counter = np.array([0, purpose, epoch, int(movie)], dtype=np.uint64)
    philox = _thread_generator.philox
    philox.state = {
        "bit_generator": "Philox",
        "state": {"key": key, "counter": counter},
        "buffer": np.zeros(4, dtype=np.uint64),
        "buffer_pos": 4,  # discards words left from an earlier draw
        "has_uint32": 0,
        "uinteger": 0,
    }
    return philox.random_raw(n)


def each(
    purpose: int, seed: int, user: np.ndarray | int = 0, epoch: int = 0, movie: np.ndarray | int = 0
) -> np.ndarray:
    """Draw the first word for each of n users or movies: [n] uint64; `user`, `movie`, or both are [n]."""
    names = np.broadcast(user, movie)
    return np.fromiter((words(1, purpose, seed, u, epoch, m)[0] for u, m in names), np.uint64, names.size)


def items(counts: np.ndarray, purpose: int, seed: int, user: np.ndarray, epoch: int = 0) -> np.ndarray:
    """Draw the first counts[i] words of user[i], concatenated: [sum of counts] uint64; counts, user: [n]."""
    drawn, stop = np.empty(int(counts.sum()), dtype=np.uint64), 0
    for n, u in zip(counts.tolist(), user, strict=True):
        drawn[stop : stop + n] = words(n, purpose, seed, u, epoch)
        stop += n
    return drawn


def order_of_items(user: np.ndarray, keys: np.ndarray, purpose: int, seed: int, epoch: int = 0) -> np.ndarray:
    """Draw a uniform permutation of n items: [n] int64. The k-th item of a user is sorted by the user's k-th word.

    user [n]: each item's user as an index into `keys`, ascending.
    keys [users]: the users' keys.
    """
    counts = np.bincount(user, minlength=len(keys))
    some = counts > 0
    return np.argsort(items(counts[some], purpose, seed, keys[some], epoch), kind="stable")


def mixed(words: np.ndarray, word: np.uint64) -> np.ndarray:
    """Mix each of `words` [n] with `word`, as if drawn for the pair: [n] uint64.

    This is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
    2014).
    """
    z = words ^ word
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class _ThreadGenerator(threading.local):
    """A generator per thread, reused by all draws.

    A new generator for every draw would request entropy from the system, which isn't needed and takes three times as
    long as the rest of a user's draw.
    """

    def __init__(self) -> None:
        self.philox = np.random.Philox(0)


_thread_generator = _ThreadGenerator()


def permutation(n: int, purpose: int, seed: int, user: int = 0, epoch: int = 0, movie: int = 0) -> np.ndarray:
    """Draw a uniform permutation of 0..n-1: [n] int64."""
    return np.argsort(words(n, purpose, seed, user, epoch, movie), kind="stable")


def uniforms(n: int, purpose: int, seed: int, user: int = 0, epoch: int = 0, movie: int = 0) -> np.ndarray:
    """Draw n uniform numbers in [0, 1): [n] float64."""
    return as_uniforms(words(n, purpose, seed, user, epoch, movie))


def as_uniforms(words: np.ndarray) -> np.ndarray:
    """Convert words to numbers in [0, 1), from the upper 53 bits of each: [n] float64."""
    return (words >> np.uint64(11)) * 2.0**-53
