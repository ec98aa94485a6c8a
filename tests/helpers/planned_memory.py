"""`python -m tests.helpers.planned_memory cpu|cuda RANKS OVERRIDES` prints a rank's memory by the plan, as JSON.

Run as a separate process, because a plan measures in its process the memory that the program takes.
"""

import json
import os
import sys
from dataclasses import asdict

os.environ["DS_ACCELERATOR"] = "cpu"


def main(device: str, ranks: int, overrides: list[str]) -> dict:
    from mlens.plan.hardware import Hardware, resolve_machine
    from mlens.plan.job_plan import plan, prepare, process_bytes

    job = prepare(overrides)
    machine = resolve_machine(Hardware(device, ranks, tflops=1.0), "float32")
    memory = plan(job, machine, 0 if machine.cuda else process_bytes()).memory
    return asdict(memory) | {"total": memory.total}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])))
