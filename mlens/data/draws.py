"""Random draws that depend on what is drawn for, never on who draws, when, or in which order.

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
