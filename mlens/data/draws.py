"""Random draws that depend on what is drawn for, never on who draws, when, or in which order.

Users and movies are named by the keys of their raw ids (`raw_id_keys`), never by where they stand in a table. A set of
them is drawn by giving each a word of its own and taking those with the smallest: what one gets doesn't depend on which
others there are.

Every draw comes from Philox, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), whose key and counter are the names of the draw. Only its raw 64-bit words are used: NumPy promises their
stream, and not that of `Generator.permutation`.
"""

from __future__ import annotations

import threading

import numpy as np

# What a draw is for; a seed that is used for two purposes gives independent draws.
SPLIT, TRAIN_TARGETS, HISTORY, ORDER, EVAL_USERS, DATA_USERS, STRETCHES, EXAMPLES, DROPOUT, PROBE, DEALT = range(1, 12)
MASK = (1 << 64) - 1


def words(n: int, purpose: int, seed: int, user: int = 0, epoch: int = 0, movie: int = 0) -> np.ndarray:
    """[n] uint64, uniform; a longer draw of the same name starts with the shorter one."""
    key = np.array([seed & MASK, int(user)], dtype=np.uint64)
    counter = np.array([0, purpose, epoch, int(movie)], dtype=np.uint64)
    philox = _own.philox
    philox.state = {
        "bit_generator": "Philox",
        "state": {"key": key, "counter": counter},
        "buffer": np.zeros(4, dtype=np.uint64),
        "buffer_pos": 4,  # nothing is left over from an earlier draw
        "has_uint32": 0,
        "uinteger": 0,
    }
    return philox.random_raw(n)


def each(
    purpose: int, seed: int, user: np.ndarray | int = 0, epoch: int = 0, movie: np.ndarray | int = 0
) -> np.ndarray:
    """[n] uint64: the first word of each of n names, which differ in `user` or in `movie` [n]."""
    names = np.broadcast(user, movie)
    return np.fromiter((words(1, purpose, seed, u, epoch, m)[0] for u, m in names), np.uint64, names.size)


def items(counts: np.ndarray, purpose: int, seed: int, user: np.ndarray, epoch: int = 0) -> np.ndarray:
    """[sum of counts] uint64: the first counts[i] words of user[i], one user after the other; counts, user: [n]."""
    drawn, stop = np.empty(int(counts.sum()), dtype=np.uint64), 0
    for n, u in zip(counts.tolist(), user, strict=True):
        drawn[stop : stop + n] = words(n, purpose, seed, u, epoch)
        stop += n
    return drawn


def order_of_items(user: np.ndarray, keys: np.ndarray, purpose: int, seed: int, epoch: int = 0) -> np.ndarray:
    """[n] int64: a uniform permutation of n items that stand user after user, by the k-th word of its user for each
    user's k-th item. user [n]: whose each is, as a number in `keys` [users], ascending."""
    counts = np.bincount(user, minlength=len(keys))
    some = counts > 0
    return np.argsort(items(counts[some], purpose, seed, keys[some], epoch), kind="stable")


def mixed(words: np.ndarray, word: np.uint64) -> np.ndarray:
    """[n] uint64: each of `words` [n] with `word`, as if drawn for the pair (the finaliser of SplitMix64: Steele, Lea
    and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014)."""
    z = words ^ word
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class _Own(threading.local):
    """A generator of the thread's own. A new one for every draw would ask the system for entropy that no named draw
    wants, which takes three times as long as all the rest of a user's draw."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(0)


_own = _Own()


def permutation(n: int, purpose: int, seed: int, user: int = 0, epoch: int = 0, movie: int = 0) -> np.ndarray:
    """A uniform permutation of 0..n-1: [n] int64."""
    return np.argsort(words(n, purpose, seed, user, epoch, movie), kind="stable")


def uniforms(n: int, purpose: int, seed: int, user: int = 0, epoch: int = 0, movie: int = 0) -> np.ndarray:
    """[n] float64 in [0, 1), from the upper 53 bits of each word."""
    return (words(n, purpose, seed, user, epoch, movie) >> np.uint64(11)) * 2.0**-53
