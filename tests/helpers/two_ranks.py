"""`torchrun … two_ranks.py OVERRIDES output_dir=RUN` trains a run, then evaluates its model with history=none."""

import sys

from mlens.cli.evaluate import main
from mlens.engine.ranks import join_ranks
from mlens.launch import start
from tests.helpers.runs import train_module

if __name__ == "__main__":
    start(train_module().main)
    join_ranks().barrier()  # rank 0 writes the summary
    run = sys.argv[-1].removeprefix("output_dir=")
    sys.argv[1:] = [run, "history=none"]
    main()
