"""`python -m tests.helpers.step_memory shared|padded` prints the memory of a training step of 64 targets of one user.

The result is the growth in bytes of this process's peak memory in the step, after a step of a single target.
"""

import sys

import torch

from mlens.engine.memory import peak_memory_bytes
from mlens.history.all_previous import AllPrevious
from mlens.model.attention.cpu import ROW_ATTENTION
from mlens.packing.packed import PackedRows
from tests.helpers.cases import make_case, small_table
from tests.helpers.small_model import make_model, row_scores

TARGETS = 64


def padded_loss(model, samples) -> torch.Tensor:
    """Return the loss of one batch of padded sequences; logits are computed for the answers only."""
    ids = [torch.tensor([*map(int, sample.prompt), *map(int, sample.answer)]) for sample in samples]
    longest = max(map(len, ids))
    batch = torch.stack([torch.nn.functional.pad(one, (longest - len(one), 0)) for one in ids])
    mask = torch.stack([torch.arange(longest) >= longest - len(one) for one in ids])
    answer = max(len(sample.answer) for sample in samples)
    logits = model(input_ids=batch, attention_mask=mask, logits_to_keep=answer + 1, use_cache=False).logits[:, :-1]
    labels = batch[:, -answer:].clone()
    for row, sample in zip(labels, samples, strict=True):
        row[: answer - len(sample.answer)] = -100
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def main(kind: str) -> int:
    torch.set_num_threads(1)
    dataset = make_case(small_table(seed=0, ratings=100), AllPrevious(), room=10_000).train
    longest = int(dataset.stage.user[dataset.stage.count.argmax()])
    targets = (dataset.stage.user == longest).nonzero()[0][-TARGETS:]
    model = make_model(ROW_ATTENTION if kind == "shared" else "sdpa", torch.float32, vocabulary=700)

    def step(targets) -> None:
        if kind == "shared":
            row = PackedRows().train_row([dataset.prefix_group(targets)])
            loss = -row_scores(model, row).sum() / len(row.label)
        else:
            loss = padded_loss(model, [dataset[int(i)] for i in targets])
        loss.backward()
        print(f"{kind}: {len(targets)} targets, loss {loss.item():.6f}", file=sys.stderr)

    step(targets[:1])
    before = peak_memory_bytes(torch.device("cpu"))
    step(targets)
    return peak_memory_bytes(torch.device("cpu")) - before


if __name__ == "__main__":
    print(main(sys.argv[1]))
