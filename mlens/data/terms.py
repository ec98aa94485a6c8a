"""The name, licence and citation of a source's data, for conf/data/*.yaml and model cards."""

from __future__ import annotations

from dataclasses import dataclass

RESEARCH = "research use; no commercial use without permission, and no redistribution without permission"
SHARED = "research use, and no commercial use without permission; may be passed on under the same terms"
# The releases whose README forbids redistribution.
NOT_SHARED = ("ml-100k", "ml-1m", "ml-10m")
CITATION = (
    'F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015, '
    "doi 10.1145/2827872"
)
MOVIELENS = "https://grouplens.org/datasets/movielens/"


@dataclass(frozen=True)
class Terms:
    """Terms of use of some data.

    name: of the data.
    licence: what may be done with them.
    citation: to be cited with published results, or None.
    dataset: id for the metadata of model cards, such as ml-25m or owner/name; None: unknown.
    page: URL where the owner of the data states these terms, or None.
    """

    name: str
    licence: str
    citation: str | None = None
    dataset: str | None = None
    page: str | None = None


USER_DATA = Terms("the user's data", "that of the data")


def movielens_terms(release: str) -> Terms:
    """Return the terms of a MovieLens release, by its name (such as ml-25m)."""
    licence = RESEARCH if release in NOT_SHARED else SHARED
    return Terms(f"MovieLens {release} (GroupLens)", f"{licence}; see its README", CITATION, release, MOVIELENS)
