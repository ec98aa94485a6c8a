"""Whether a server can be reached, checked before a library waits minutes for it."""

from __future__ import annotations

from urllib.error import HTTPError
from urllib.request import urlopen

# Seconds that a server may take to answer at all.
PATIENCE = 5.0


def connection_error(url: str) -> str | None:
    """Why the server at `url` can't be reached; None where it answers, whatever it answers."""
    try:
        urlopen(url, timeout=PATIENCE).close()
    except HTTPError:
        return None
    except OSError as error:
        return f"{url} can't be reached ({getattr(error, 'reason', error)})"
    return None
