"""python -m mlens.probe model=… data=…: does a pretrained model remember the data set?"""

from __future__ import annotations

import argparse
from functools import partial

from mlens import __version__
from mlens.errors import UserError, exit_on_interrupt, exit_on_user_error

# Tokens that a model must be made for: the examples, a beginning and an answer take some 300.
LONGEST = 512


def main(prog: str = "python -m mlens.probe") -> None:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Ask a model, as it is before any training here, for titles and ratings of the data set by their "
        "ids. A model that recalls more than one in ten has read these files: its results on them are no results on "
        "new data.",
        epilog="example: python -m mlens.probe model=qwen3_0_6b data=ml_1m --questions 1000",
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDE", help="model=… data=… and others of train.py's")
    parser.add_argument("--questions", type=int, default=500, help="how many of each kind (500)")
    parser.add_argument("--seed", type=int, default=0, help="of what is asked (0)")
    options = parser.parse_intermixed_args()
    with exit_on_interrupt(), exit_on_user_error(result_on_stdout=True):
        probe(options.overrides, options.questions, options.seed)


def probe(overrides: list[str], count: int, seed: int) -> None:
    """Ask and print the table. Raises UserError for bad overrides, and where the data hold too little to ask for."""
    if count < 1:
        raise UserError(f"--questions must be at least 1, not {count}")
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from mlens.compose import compose_config
    from mlens.config import check
    from mlens.data.load import load_table
    from mlens.model.check import check_model, require_passed
    from mlens.model.load import Holding, build_model, load_tokenizer
    from mlens.model.settings import NoPeft, PretrainedModel
    from mlens.packing.packed import PackedRows
    from mlens.probe.questions import CHOICES, CSV, FORMS, rating_questions, title_questions
    from mlens.probe.recall import recall

    settings = check(compose_config(overrides))
    if not isinstance(settings.model, PretrainedModel):
        raise UserError("a model from nothing remembers nothing: choose model=hf model.path=DIR, or a Qwen3")
    if not isinstance(settings.packing, PackedRows):
        raise UserError("the probe asks in packed rows: choose packing=rows")
    table = load_table(settings.data)
    form = FORMS.get(type(settings.data).__name__, CSV)
    asked = [make(table, form, count, seed) for make in (title_questions, rating_questions)]
    for questions in asked:
        if not questions.answers:
            raise UserError(f"the data hold too few movies or users to ask for a {questions.kind}")
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(settings.model, table, settings.prompt, settings.ablation)
    holding = Holding(bf16=settings.model.dtype == "bfloat16", device=device)
    model = build_model(settings.model, NoPeft(), tokenizer, LONGEST, settings.seed, holding).eval()
    model.to(torch.device(device))
    require_passed(check_model(model, model, LONGEST, False, torch.device(device)), type(model).__name__)
    shown = Table()
    for column in ("asked for", "questions", "recalled", "95% interval", "p"):
        shown.add_column(column, justify="left" if column == "asked for" else "right")
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for questions in asked:
            task = bar.add_task(f"asking for a {questions.kind}", total=CHOICES * len(questions.answers))
            found = recall(model, tokenizer, questions, settings.packing, partial(bar.advance, task))
            interval = f"{found.low:.1%} to {found.high:.1%}"
            share = f"{found.recalled / found.asked:.1%}"
            shown.add_row(f"{found.kind} by id", f"{found.asked:,}", share, interval, f"{found.p_value:.2g}")
    console = Console()
    console.print(shown)
    console.print(
        f"Without memory of these files {1 / CHOICES:.0%} are recalled; p is how probable so many are then. What a "
        "model knows of films by name (how good they are held to be) isn't asked: trainer.max_steps=0 history=none "
        "measures that.",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
