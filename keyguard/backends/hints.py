"""Webhooks of custodies: verified, and then good for one thing, to say which request somebody might look at.

Upholds: nothing in a webhook is believed but our own id in it; how that request stands is asked of the custody. A
webhook that is late, or comes twice, names nothing. What is not the custody's is refused before it is parsed.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from keyguard.backends.dfns import hints as dfns
from keyguard.backends.fireblocks import hints as fireblocks
from keyguard.backends.pacing import parsed_json
from keyguard.errors import HintRefusedError

MAX_BYTES = 256 * 1024
LATE_SECONDS = 300.0
REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Event:
    """What a verified webhook says of itself."""

    id: str
    sent_at: float  # seconds since the epoch
    external_id: str  # of ours; empty when it is about something else


_HEADERS = {"fireblocks": fireblocks.HEADER, "dfns": dfns.HEADER}
_VERIFY: Mapping[str, Callable[[str, bytes], None]] = {"fireblocks": fireblocks.verify, "dfns": dfns.verify}
_READ: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, float, str]]] = {
    "fireblocks": fireblocks.read,
    "dfns": dfns.read,
}
_seen: OrderedDict[tuple[str, str], None] = OrderedDict()
_lock = Lock()


def custody_hint(custody: str, headers: Mapping[str, str], body: bytes) -> str:
    """Return our id of the request that a webhook is about; nothing when there is nothing new to look at.

    Raises HintRefusedError when it is not the custody's. The headers' names may be in any case, if `headers` says so.
    """
    if len(body) > MAX_BYTES:
        raise HintRefusedError(f"more than {MAX_BYTES} bytes")
    _VERIFY[custody](headers.get(_HEADERS[custody], ""), body)
    try:
        event = Event(*_READ[custody](parsed_json(body)))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise HintRefusedError("signed by the custody, and not understood") from None
    if abs(time.time() - event.sent_at) > LATE_SECONDS or not _is_new(custody, event.id):
        return ""
    return event.external_id


def _is_new(custody: str, event_id: str) -> bool:
    """Tell whether this process sees the event for the first time. Others may look once more, which does no harm."""
    with _lock:
        if (custody, event_id) in _seen:
            return False
        _seen[custody, event_id] = None
        while len(_seen) > REMEMBERED:
            _seen.popitem(last=False)
    return True
