"""Finding what was asked for by our own id, which DFNS has no question for: through the list, or by the id it gave.

Upholds: "not there" is said only of a list that was read to its end, or as far back as the request can reach.
"""

from collections import OrderedDict
from datetime import datetime, timedelta
from threading import Lock
from typing import Any

from keyguard.backends.dfns.answers import external_id_of
from keyguard.backends.dfns.client import Client
from keyguard.errors import CustodyUnreachableError

MARGIN = timedelta(hours=24)
REMEMBERED = 10_000


class Finder:
    """Looks requests up, and remembers in this process which id DFNS gave to which of ours."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ids: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._lock = Lock()

    def remember(self, where: str, external_id: str, found: dict[str, Any]) -> dict[str, Any]:
        """Keep the id of what was found or made, and return it. Raises CustodyUnreachableError when it is another's."""
        if (
            external_id_of(found) != external_id
            or not isinstance(found.get("id"), str)
            or not found.get("status")
        ):
            raise CustodyUnreachableError("DFNS answered with something else than this request")
        with self._lock:
            self._ids[where, external_id] = found["id"]
            while len(self._ids) > REMEMBERED:
                self._ids.popitem(last=False)
        return found

    def find(self, where: str, external_id: str, since: datetime, deadline: float) -> dict[str, Any] | None:
        """Return it, None when DFNS has no such request. where: the path of the key's or wallet's list."""
        with self._lock:
            its_id = self._ids.get((where, external_id))
        if its_id is not None:
            answer = self._client.one(where, its_id, deadline)
            if answer.status == 200:
                return self.remember(where, external_id, answer.json())
            if not answer.is_denial_of_existence():
                raise CustodyUnreachableError(f"DFNS answered {answer.status}")
        for items in self._client.pages(where, deadline):
            for item in items:
                if external_id_of(item) == external_id:
                    return self.remember(where, external_id, item)
            if _is_before(items, since - MARGIN):
                return None
        return None

    def duplicate(
        self, where: str, external_id: str, body: dict[str, Any], deadline: float
    ) -> dict[str, Any]:
        """Return what a 409 names: another body was asked for under this id before."""
        details = (body.get("error") or {}).get("details") or {}
        its_id = str((details.get("duplicate") or {}).get("id") or "")
        answer = self._client.one(where, its_id, deadline)
        if answer.status != 200:
            raise CustodyUnreachableError(
                f"DFNS names a duplicate and answers {answer.status} when asked for it"
            )
        return self.remember(where, external_id, answer.json())


def _is_before(items: list[dict[str, Any]], instant: datetime) -> bool:
    """Tell whether the page, newest first, ends before the instant. In any other order it says nothing."""
    try:
        dates = [datetime.fromisoformat(str(item["dateRequested"])) for item in items]
        return (
            bool(dates)
            and dates == sorted(dates, reverse=True)
            and dates[0] != dates[-1]
            and dates[-1] < instant
        )
    except (KeyError, ValueError, TypeError):
        return False
