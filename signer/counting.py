"""How many transactions a lane or chain has in some states, as an annotation that reads only the partial indexes."""

from collections.abc import Sequence

from django.db.models import Count, OuterRef, Subquery
from django.db.models.functions import Coalesce

from signer.models import Transaction
from signer.states import WAITING, TransactionState


def counted(owner: str, states: Sequence[TransactionState]) -> Coalesce:
    """Return the number of transactions in `states`. owner: "lane" or "chain"."""
    rows = Transaction.objects.filter(**{owner: OuterRef("pk")}, state__in=states).order_by().values(owner)
    return Coalesce(Subquery(rows.annotate(count=Count("pk")).values("count")), 0)


def oldest_waiting() -> Subquery:
    """Return since when a lane's oldest transaction waits."""
    waiting = Transaction.objects.filter(lane=OuterRef("pk"), state__in=WAITING).order_by("created_at")
    return Subquery(waiting.values("created_at")[:1])
