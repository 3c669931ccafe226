"""Looking earlier than planned at what a custody has, because somebody says that there is news. It may be untrue."""

from datetime import timedelta
from uuid import UUID

from django.db.models.functions import Now

from signer.custody.asking import WITH_CUSTODY
from signer.models import Transaction
from signer.ringing import ring_lane

SOON = timedelta(seconds=1)


def look_at(transaction_id: str) -> bool:
    """Have a worker ask the custody about a transaction now; return whether it has that one.

    Nothing of the transaction changes but when it is looked at. What waits for a person keeps waiting.
    """
    try:
        wanted = UUID(transaction_id)
    except ValueError:
        return False
    rows = Transaction.objects.filter(
        pk=wanted, lane__in_custody=True, state__in=WITH_CUSTODY, look_at__isnull=False
    )
    lane = rows.values_list("lane_id", flat=True).first()
    if lane is None:
        return False
    rows.filter(look_at__gt=Now() + SOON).update(look_at=Now())
    ring_lane(lane)
    return True
