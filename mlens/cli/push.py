"""mlens push RUN REPO: upload the model of a finished run to the Hugging Face hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlens import __version__
from mlens.cli.runs import format_bytes, print_line
from mlens.errors import UserError, exit_on_interrupt, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mlens push",
        description="Upload the model of a finished run to the Hugging Face hub: RUN/model/ with its model card, after "
        "listing the files and asking for confirmation. Predictions, checkpoints and logs stay.",
        epilog="example: mlens push outputs/2026-01-31/12-00-00 somebody/ratings --private --dry-run",
    )
    parser.add_argument("--version", action="version", version=f"mlens {__version__}")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME on the hub; it is created if it doesn't exist")
    parser.add_argument("--private", action="store_true", help="create a private repository, and refuse a public one")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded; needs no network")
    parser.add_argument("--yes", action="store_true", help="don't ask for confirmation")
    options = parser.parse_args()
    with exit_on_interrupt(), exit_on_user_error(result_on_stdout=True):
        run(options.run, options.repo, options.private, options.dry_run, options.yes)


def run(folder: Path, repo: str, private: bool, dry_run: bool, yes: bool) -> None:
    """List the files and, after confirmation, upload them.

    Raises UserError where confirmation is needed and stdin isn't a terminal, and as `find_upload` and `push` do.
    """
    from huggingface_hub import constants

    from mlens.runs.push import check_repo, find_upload, push

    check_repo(repo)
    upload = find_upload(folder)
    width = max(map(len, upload.sizes))
    for name, size in upload.sizes.items():
        print_line(f"{name:{width}}  {format_bytes(size):>8}")
    visibility = "private" if private else "public (an existing private repository stays private)"
    print_line(
        f"{len(upload.sizes)} files, {format_bytes(sum(upload.sizes.values()))}, from {upload.folder} to "
        f"{constants.ENDPOINT}/{repo}, {visibility}"
    )
    for name in upload.skipped:
        print_line(f"not uploaded: {name}: not a file that mlens or transformers writes")
    for note in upload.notes:
        print_line(f"NOTE: {note}")
    if dry_run:
        print_line("nothing was uploaded")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(
                "nothing was uploaded: can't ask for confirmation without a terminal. Give --yes or --dry-run"
            )
        if input("Upload these files? [y/N] ").strip().lower() != "y":
            print_line("nothing was uploaded")
            return
    print_line(push(upload, repo, private))
