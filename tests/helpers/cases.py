"""Random small users under random settings of a run, and the rows that are packed for them."""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from mlens.data.split import TRAIN, Split, assign_roles
from mlens.data.stage import make_stage
from mlens.history.all_previous import AllPrevious
from mlens.history.fixed_count import FixedCount
from mlens.history.fixed_ratio import FixedRatio
from mlens.history.none import NoHistory
from mlens.history.random import Random
from mlens.history.recent_similar import RecentSimilar
from mlens.history.similar import Similar
from mlens.history.spread import Spread
from mlens.history.strategy import fit_strategy
from mlens.model.attention import cpu_layout
from mlens.model.attention.cpu_layout import with_cpu_layout
from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import plan_epoch, plan_scoring, train_row_builder
from mlens.packing.packed import PackedRows
from mlens.packing.prefix_group import PrefixGroup
from mlens.packing.row import Row
from mlens.packing.steps import Steps
from mlens.prompt.renderer import PieceRenderer, make_renderer
from tests.helpers.reference import HALF_STARS, dated, make_table
from tests.helpers.tokenizers_for_tests import ABLATIONS, style, tiny

RATIOS = st.sampled_from([0.6, 1.0, 0.3])
# Hypothesis prefers early elements: those with long shared prefixes come first.
WITH_HISTORY = [name for name, ablation in ABLATIONS.items() if ablation.history]
STRATEGIES = st.one_of(
    st.just(AllPrevious()),
    st.builds(Random, RATIOS, st.just("per_user"), st.sampled_from(["epoch", "once"])),
    st.just(AllPrevious()),
    st.builds(Random, RATIOS, st.just("per_target"), st.sampled_from(["epoch", "once"])),
    st.builds(FixedRatio, RATIOS),
    st.builds(FixedCount, st.integers(1, 6), st.sampled_from([1, 3])),
    st.just(NoHistory()),
    st.one_of(
        st.builds(Similar, st.integers(1, 6), st.sampled_from(["ratings", "text"])),
        st.builds(RecentSimilar, st.integers(1, 3), st.integers(1, 3), st.sampled_from(["ratings", "text"])),
        st.builds(Spread, st.integers(1, 6), st.just(0.5), st.sampled_from(["ratings", "text"])),
    ),
)
SPLITS = st.builds(
    Split,
    method=st.sampled_from(["temporal", "random", "leave_last", "global_time"]),
    val_ratio=st.sampled_from([0.1, 0.3]),
    test_ratio=st.sampled_from([0.1, 0.3]),
    min_ratings=st.just(3),
    eval_history=st.sampled_from(["all", "train"]),
    ties=st.sampled_from(["order", "strict", "day"]),
    max_train_targets_per_user=st.sampled_from([None, 4, None]),
)
# So small that even short rows have long prefixes, bundles with a common prefix, and split products.
LIMITS: st.SearchStrategy[dict[str, int]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {
            "LONG": st.sampled_from([1, 20, 60]),
            "BUNDLE": st.sampled_from([8, 60, 200]),
            "MOST_PAIRS": st.sampled_from([2000, 1 << 22]),
        }
    ),
)


@dataclass(frozen=True)
class Case:
    """A plan for small users.

    datasets: of the stages that have targets.
    epoch: of the training histories and order.
    world: number of ranks.
    limits: values for constants of the CPU layout.
    """

    split: Split
    roles: np.ndarray
    datasets: dict[str, RatingDataset]
    collator: PackedRows
    steps: Steps
    epoch: int
    world: int
    limits: dict

    @property
    def train(self) -> RatingDataset:
        return self.datasets["train"]

    @property
    def answers(self) -> list[np.ndarray]:
        return self.train.renderer.template.answers


@contextmanager
def limited(limits: dict):
    """Set these limits for CPU layouts that are made inside the context."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in limits.items():
            patched.setattr(cpu_layout, name, value)
        yield


def small_table(seed: int, ratings: int = 9, movies: int = 7):
    """Return a table of one user with `ratings` ratings and up to two with at most as many.

    It has ties in time, tags, and profiles (some equal, some empty).
    """
    random = np.random.default_rng(seed)
    sizes = [ratings, *random.integers(1, ratings + 1, random.integers(3))]
    random.shuffle(sizes)
    users = []
    for n in sizes:
        columns = random.integers(0, movies, n), random.choice(HALF_STARS, n), np.sort(random.integers(0, ratings, n))
        users.append([(int(m), float(rating), int(t)) for m, rating, t in zip(*columns, strict=True)])
    tags = [
        (int(u), int(random.integers(movies)), str(random.choice(["odd", "long"])), int(random.integers(ratings)))
        for u in random.integers(0, len(users), random.integers(12))
    ]
    return make_table(
        users,
        titles=[f"Movie {m}" for m in range(movies)],
        profile=[(None, "age: 25", "gender: F; age: 3")[i] for i in random.integers(0, 3, len(users))],
        tags=sorted(tags, key=lambda t: (t[0], t[3])),
    )


def make_case(
    table,
    strategy,
    collator=lambda max_tokens: PackedRows(),
    ablation="history_only",
    split=Split("temporal"),  # noqa: B008
    room=1000,
    steps=Steps(100, 1, 0.5),  # noqa: B008
    epoch=0,
    world=1,
    limits=None,
    **fields,
) -> Case:
    """Plan a table.

    collator: makes the collator from prompt.max_tokens.
    room: tokens between the longest prompt without history and prompt.max_tokens.
    fields: other fields of the prompt's style.
    """
    unlimited = make_renderer(table, style(max_tokens=10**6, **fields), ABLATIONS[ablation], tiny())
    longest = int(unlimited.bare_lengths(np.arange(len(table))).max()) + unlimited.template.longest_answer
    limited_style = replace(unlimited.template.style, max_tokens=longest + room)
    renderer = PieceRenderer(replace(unlimited.template, style=limited_style))
    roles = assign_roles(table, split)
    stages = {name: make_stage(table, roles, split, name) for name in ("train", "val", "test")}
    strategy = fit_strategy(strategy, table, roles == TRAIN)
    datasets = {
        name: RatingDataset(table, stage, strategy, renderer, seed=7, epoch=epoch)
        for name, stage in stages.items()
        if len(stage)
    }
    return Case(split, roles, datasets, collator(longest + room), steps, epoch, world, limits or {})


@st.composite
def cases(draw, ratings=9):
    """Draw cases.

    Tables follow from a drawn seed: if ratings were drawn one by one, few targets would share a prefix.
    """

    def one_of(*values):
        return draw(st.sampled_from(values))

    row_tokens, share = one_of(2000, 100, 0), one_of("auto", "auto", "never")
    order = one_of("time", "time", "newest_first")
    history_loss = one_of(0.0, 0.25, 1.0) if order == "time" else 0.0
    case = make_case(
        dated(small_table(draw(st.integers(0, 2**32 - 1)), ratings)),
        draw(STRATEGIES),
        lambda max_tokens: PackedRows(max_tokens + row_tokens, share),
        ablation=one_of(*WITH_HISTORY * 2, *ABLATIONS),
        split=draw(SPLITS),
        room=one_of(1000, 1000, 90, 60, 40, 20, 0),
        steps=Steps(one_of(100, 8, 3), one_of(1, 1, 2, 8), history_loss),
        epoch=one_of(0, 1, 2),
        world=one_of(1, 2),
        limits=draw(LIMITS),
        history_tokens=one_of(None, None, 30),
        trim=one_of("strided", "exact"),
        max_context=one_of(1, 3),
        dates=one_of(False, True),
        order=order,
    )
    assume("train" in case.datasets)
    return case


@dataclass(frozen=True)
class BuiltRow:
    """A packed row.

    groups: prefix groups of the row.
    targets: of the groups.
    labels: total label weight of the row's step.
    rank: which gets the row.
    """

    row: Row
    groups: list[PrefixGroup]
    targets: list[int]
    labels: float
    rank: int


def train_steps(case: Case, collator=None) -> list[list[BuiltRow]]:
    """Return the rows of each step, over all ranks."""
    dataset, collator = case.train, collator or case.collator
    make_row = train_row_builder(dataset, collator, case.steps)
    steps: dict[int, list[BuiltRow]] = {}
    with limited(case.limits):
        for rank in range(case.world):
            for planned in plan_epoch(dataset, collator, case.steps, dataset.seed, case.epoch, rank, case.world):
                groups = [dataset.prefix_group(group) for group in planned.groups]
                row = with_cpu_layout(make_row(groups))
                built = BuiltRow(row, groups, planned.targets, planned.labels, rank)
                steps.setdefault(planned.step, []).append(built)
    return [steps[step] for step in sorted(steps)]


def score_rows(case: Case, stage: str, collator=None) -> list[BuiltRow]:
    """Return all rows that score a stage, over all ranks."""
    dataset, collator = case.datasets[stage], collator or case.collator
    built = []
    with limited(case.limits):
        for rank in range(case.world):
            for row in plan_scoring(dataset, collator, rank, case.world):
                groups, targets = (
                    [dataset.prefix_group(group) for group in row],
                    [int(t) for group in row for t in group],
                )
                scored = with_cpu_layout(collator.score_row(groups, case.answers))
                built.append(BuiltRow(scored, groups, targets, 0.0, rank))
    return built
