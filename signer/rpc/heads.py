"""Waiting for the next block: until a node announces it over WebSocket, and never longer than without one.

An announcement only ends a pause early. Nothing is concluded from it, so a source that is wrong, silent or gone costs
no more than having none.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from signer.models import Chain, Endpoint

if TYPE_CHECKING:
    from signer.rpc.announcements import Source


class NextHead:
    """Lets a watcher wait for the next head."""

    def wait(self, seconds: float) -> None:
        """Return when a new head was announced, and in any case after so many seconds."""
        time.sleep(max(0.0, seconds))


class _Announced(NextHead):
    """... with nodes that announce it: the first that is heard counts, the others only stand ready."""

    def __init__(self, sources: Sequence["Source"]) -> None:
        self._sources = sources
        self._heard = {source: source.count for source in sources}

    def wait(self, seconds: float) -> None:
        source = next((each for each in self._sources if each.is_listening), self._sources[0])
        self._heard[source] = source.wait(self._heard[source], max(0.0, seconds))


@contextmanager
def heads(chain: Chain | int) -> Iterator[NextHead]:
    """Follow the announcements of the chain's heads within the block."""
    rows = Endpoint.objects.filter(chain=chain, heads_url__gt="")
    urls = list(rows.order_by("position", "pk").values_list("heads_url", flat=True))
    if not urls:
        yield NextHead()
        return
    from signer.rpc.announcements import source  # loads websockets

    yield _Announced([source(url) for url in urls])
