"""Check whether a server can be reached, before a library waits minutes for it."""

from __future__ import annotations

from urllib.error import HTTPError
from urllib.request import urlopen

# The timeout for the first response of a server, in seconds.
TIMEOUT = 5.0


def connection_error(url: str) -> str | None:
    """Return why the server at `url` can't be reached; None where it responds, even with an HTTP error."""
    try:
        urlopen(url, timeout=TIMEOUT).close()
    except HTTPError:
        return None
    except OSError as error:
        return f"{url} can't be reached ({getattr(error, 'reason', error)})"
    return None
