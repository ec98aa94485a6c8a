"""mlens: which part of a user's history should a language model see to predict the next rating?"""

import os

__version__ = "0.3.0"

# Threads wait for one another at the end of every operation, and OpenMP lets them spin for milliseconds first: with one
# other busy process on the machine, training is 3 to 26 times slower. This spin count keeps an idle machine's speed
# (benchmarks/threads.py). OpenMP reads it when torch is imported, and child processes inherit it.
SPINS = "2500"
# If the user has set one of these, it is left as it is.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")

if not any(name in os.environ for name in WAITING):
    os.environ["GOMP_SPINCOUNT"] = SPINS
