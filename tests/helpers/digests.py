"""`python -m tests.helpers.digests FOLDER` prints digests, as JSON, of everything that a run computes before training.

The data are the files that `write_sources` wrote to FOLDER. Without torch, digests that need it (with `torch` in their
names) are left out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import locale
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from transformers import AutoTokenizer

from mlens.config import check_config
from mlens.data.behaviour_json import BehaviourJson
from mlens.data.cache import content_key
from mlens.data.movielens_csv import MovieLensCsv
from mlens.data.movielens_dat import MovieLensDat
from mlens.data.sample import Sample
from mlens.data.sources import Source, load_table
from mlens.data.split import Split, assign_roles
from mlens.data.stage import make_stages
from mlens.history.all_previous import AllPrevious
from mlens.history.fit import fit
from mlens.history.fixed_count import FixedCount
from mlens.history.fixed_ratio import FixedRatio
from mlens.history.none import NoHistory
from mlens.history.random import Random
from mlens.history.strategy import Strategy
from mlens.identity import Identity
from mlens.prompt.pieces import DIALOGUE_HEADER, HISTORY_HEADER, head_texts, movie_texts, rating_texts
from mlens.prompt.prices import make_budget
from mlens.prompt.renderer import make_renderer
from mlens.prompt.settings import Ablation
from mlens.prompt.tokens import tiny_tokenizer
from tests.helpers.runs import composed

# Letters whose case, order or code differs between locales and encodings.
TITLES = (
    "İstanbul'da IŞIK ılık (1999)",
    "Straße, Die großen Ärzte (1,5)",
    "千与千寻 (2001)",
    "Misérables, Les (1995)",
    'Quoted ""Film"" (1.234,5)',
    "Æon Flux ﬁ ǅ (2005)",
)
STRATEGIES: dict[str, Strategy] = {
    "none": NoHistory(),
    "all_previous": AllPrevious(),
    "random": Random(0.5, "per_target"),
    "random per_user": Random(0.3, "per_user"),
    "fixed_ratio": FixedRatio(0.3),
    "fixed_count": FixedCount(10),
}
SPLITS = ("temporal", "random", "user", "global_time", "leave_last")


def write_sources(folder: Path) -> None:
    """Write the same few ratings in three formats, with titles in UTF-8 and in Latin-1."""
    random = np.random.default_rng(5)
    rows = [
        (u, m, int(random.integers(1, 11)) / 2, 10**9 + 50 * m)
        for u in range(1, 9)
        for m in map(int, random.permutation(60))
    ]
    for name in ("csv", "dat"):
        (folder / name).mkdir(parents=True)
    ratings = "".join(f"{u},{m},{r},{t}\n" for u, m, r, t in rows)
    titles = [TITLES[m % len(TITLES)].replace(" (", f" {m} (") for m in range(60)]
    movies = "".join(f'{m},"{title}",Drama|Sci-Fi\n' for m, title in enumerate(titles))
    tags = "".join(f"{u},{m},İyi Straße {u},{t - 1}\n" for u, m, _, t in rows[::3])
    _write(folder / "csv" / "ratings.csv", "userId,movieId,rating,timestamp\n" + ratings)
    _write(folder / "csv" / "movies.csv", "movieId,title,genres\n" + movies)
    _write(folder / "csv" / "tags.csv", "userId,movieId,tag,timestamp\n" + tags)
    _write(folder / "dat" / "ratings.dat", "".join(f"{u}::{m}::{max(1, int(r))}::{t}\n" for u, m, r, t in rows))
    latin = "".join(f"{m}::Misérables {m} (1995)::Drama\n" for m in range(60))
    (folder / "dat" / "movies.dat").write_bytes(latin.encode("latin-1"))
    _write(folder / "dat" / "users.dat", "".join(f"{u}::F::{25}::{u}::12345\n" for u in range(1, 9)))
    users = [
        {
            "user_hash": f"ı{u}",
            "user": {"profile": {"name": f"Ömer {u}", "age": u, "likes": ["çay", "雨"]}},
            "task": {
                "task_behavior_collections": [
                    {
                        "type": "movie_rating",
                        "data": [
                            {
                                "context": [f"Söyle {m}"],
                                "continuation": str(r),
                                "continuation_prefix": f"{titles[m]} (Drama): ",
                                "timestamp": t,
                            }
                            for v, m, r, t in rows
                            if v == u
                        ],
                    }
                ]
            },
        }
        for u in range(1, 9)
    ]
    _write(folder / "users.json", json.dumps(users, ensure_ascii=False))


def _write(file: Path, text: str) -> None:
    file.write_bytes(text.encode())


def digests(folder: Path) -> dict[str, str]:
    """Return the digests by name."""
    sources: dict[str, Source] = {
        "sample": Sample(users=9, movies=60, ratings_per_user=30),
        "csv": MovieLensCsv("ml-25m", path=str(folder / "csv")),
        "dat": MovieLensDat("ml-1m", path=str(folder / "dat"), max_users=6),
        "json": BehaviourJson(path=str(folder / "users.json")),
    }
    checked = check_config(composed("debug=fast", "history=random"))
    found = {"fingerprint": Identity("data", None, None, "1").fingerprint(checked)}
    found["config"] = content_key(json.dumps(checked.config, sort_keys=True), repr(checked))
    for name, source in sources.items():
        table = load_table(source)
        found[f"{name} cache key"] = table.content_hash()
        found[f"{name} table"] = replace(table, path=None).content_hash()
        for method in SPLITS:
            found[f"{name} split {method}"] = _digest(assign_roles(table, Split(method)))
        ablation = Ablation(profile="profile" in table.users.columns, history=True, context=name in ("csv", "json"))
        words = replace(checked.prompt, max_tokens=300)
        texts = [f" {movie}:" for movie in movie_texts(table)]
        frame = [head_texts(table, words, ablation)[0], HISTORY_HEADER, DIALOGUE_HEADER, words.question]
        tokenizer_folder = tiny_tokenizer(texts, frame, rating_texts(table), 600)
        found[f"{name} tokenizer"] = _digest((tokenizer_folder / "tokenizer.json").read_bytes())
        renderer = make_renderer(table, words, ablation, AutoTokenizer.from_pretrained(tokenizer_folder))
        split = Split("temporal", max_train_targets_per_user=20)
        stages = make_stages(table, assign_roles(table, split), split, max_eval_users=4, eval_seed=1)
        for strategy_name, strategy in STRATEGIES.items():
            for stage_name, stage in stages.items():
                histories = fit(strategy, table, stage, make_budget(renderer, stage), words.trim, 7, 2)
                targets = SimpleNamespace(table=table, stage=stage, renderer=renderer, histories=histories)
                for part, digest in _target_digests(targets):
                    found[f"{name} {strategy_name} {stage_name} {part}"] = digest
            if strategy_name in ("random", "all_previous") and importlib.util.find_spec("torch") is not None:
                found[f"{name} {strategy_name} torch rows"] = _rows_digest(table, stages["train"], strategy, renderer)
    return found


def _target_digests(data: SimpleNamespace) -> Iterator[tuple[str, str]]:
    """Yield name and digest of a stage's targets, histories, prompts and tokens."""
    stage = data.stage
    histories, texts, tokens = [], [], []
    for i, target in enumerate(stage.targets):
        history = data.renderer.fit_history(int(target), stage.visible_to(i)[data.histories.shown(i)])
        histories.append(history)
        texts.append(data.renderer.text(int(target), history))
        tokens.append(data.renderer.tokens(int(target), history))
    yield "targets", _digest(stage.targets)
    yield "histories", _digest(*histories)
    yield "prompts", _digest(*(text.encode() for text in texts))
    yield "tokens", _digest(*tokens)


def _rows_digest(table, stage, strategy, renderer) -> str:
    """Return the digest of the order of targets and the rows of an epoch."""
    from mlens.packing.dataset import RatingDataset
    from mlens.packing.epoch_plan import epoch_order, plan_epoch
    from mlens.packing.packed import PackedRows
    from mlens.packing.steps import Steps

    dataset, collator, steps = RatingDataset(table, stage, strategy, renderer, 7, 2), PackedRows(700), Steps(24, 3)
    parts = [epoch_order(dataset, steps, 7, 2)]
    for rank in range(2):
        for planned in plan_epoch(dataset, collator, steps, 7, 2, rank, 2):
            row = collator.train_row([dataset.prefix_group(group) for group in planned.groups])
            parts += [np.array(planned.targets, dtype=np.int64), *(np.asarray(x) for x in (row.input_ids, row.label))]
            parts += [np.asarray(row.position_ids)]
            if row.spans is not None:
                parts.append(np.asarray(row.spans))
    return _digest(*parts)


def _digest(*parts: np.ndarray | bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = part if isinstance(part, bytes) else np.ascontiguousarray(part).astype("<i8").tobytes()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


if __name__ == "__main__":
    # Apply the user's locale: decimal commas, case and collation.
    locale.setlocale(locale.LC_ALL, "")
    print(json.dumps(digests(Path(sys.argv[1]))))
