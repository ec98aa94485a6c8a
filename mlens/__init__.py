"""mlens: which part of a user's history should a language model see to predict the next rating?"""

import os

__version__ = "0.3.0"

# Every operation ends with threads that wait for one another, and OpenMP lets them spin for milliseconds first: beside
# one other busy process training is 3 to 26 times slower. So many turns keep the speed of a quiet machine
# (benchmarks/threads.py). OpenMP reads this when torch is imported, and child processes inherit it.
SPINS = "2500"
# Whoever sets one of these has chosen how threads wait.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")

if not any(name in os.environ for name in WAITING):
    os.environ["GOMP_SPINCOUNT"] = SPINS
