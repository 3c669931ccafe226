"""Waiting for the next block: until a node announces it over WebSocket, and never longer than without one.

An announcement only ends a pause early. Nothing is concluded from it, so a source that is wrong, silent or gone costs
no more than having none.
"""

import time
from collections.abc import Iterator
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
    """... with a node that announces it."""

    def __init__(self, source: "Source") -> None:
        self._source = source
        self._heard = source.count

    def wait(self, seconds: float) -> None:
        self._heard = self._source.wait(self._heard, max(0.0, seconds))


@contextmanager
def heads(chain: Chain | int) -> Iterator[NextHead]:
    """Follow the announcements of the chain's heads within the block."""
    rows = Endpoint.objects.filter(chain=chain, heads_url__gt="")
    url = rows.values_list("heads_url", flat=True).first()
    if url is None:
        yield NextHead()
        return
    from signer.rpc.announcements import source  # loads websockets

    yield _Announced(source(url))
