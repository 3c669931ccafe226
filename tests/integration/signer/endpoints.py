"""What the tests of several nodes say of their rows."""

from signer.models import Endpoint, Incident, Transaction
from tests.integration.signer.lying_node import LyingNode

Pair = tuple[LyingNode, LyingNode]


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


def endpoint(node: LyingNode) -> Endpoint:
    return Endpoint.objects.get(url=node.url)


def end_pauses() -> None:
    """Have the pauses of all endpoints be over, as if their time had passed."""
    Endpoint.objects.filter(paused_until__isnull=False).update(paused_until="2020-01-01T00:00:00Z")


def open_incidents() -> list[str]:
    return list(Incident.objects.filter(closed_at__isnull=True).values_list("kind", flat=True))
