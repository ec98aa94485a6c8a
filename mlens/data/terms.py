"""The name, licence and citation of the data that a source reads, as conf/data/*.yaml and a model's card say them."""

from __future__ import annotations

from dataclasses import dataclass

RESEARCH = "research use; no commercial use without permission, and no redistribution without permission"
SHARED = "research use, and no commercial use without permission; may be passed on under the same terms"
# Those whose README forbids to pass them on.
NOT_SHARED = ("ml-100k", "ml-1m", "ml-10m")
CITATION = (
    'F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015, '
    "doi 10.1145/2827872"
)


@dataclass(frozen=True)
class Terms:
    """name: of the data.
    licence: what may be done with them.
    citation: what those who publish results cite, or None.
    """

    name: str
    licence: str
    citation: str | None = None


OWN_DATA = Terms("data of the user's own", "that of the data")


def movielens_terms(release: str) -> Terms:
    """The terms of a release of MovieLens, by its name (`ml-25m`)."""
    licence = RESEARCH if release in NOT_SHARED else SHARED
    return Terms(f"MovieLens {release} (GroupLens)", f"{licence}; see its README", CITATION)
