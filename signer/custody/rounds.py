"""One worker's rounds over a lane in custody: hand over what waits, ask about what the custody has.

No nonce is given out here, no fee offered, nothing sent, and nothing is sent again: all of that is the custody's.
"""

import time

from django.db import transaction
from django.db.models.functions import Now

import keyguard
from signer import flights, granting, queue
from signer.custody import asking, handing
from signer.models import Transaction
from signer.standing import has_drained
from signer.states import SubState, TransactionState
from signer.work import Work
from workflows import guard


class CustodyDrain:
    """One worker's rounds over a lane in custody that it owns."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def run(self, deadline: float, lock: queue.LaneLock) -> None:
        """Go round until nothing can be done now, the time is up, or the custody lets itself be waited for."""
        if self.work.has_expired:
            granting.expire_waiting(self.work)
        self._call_off_expired()
        while self._round() and time.monotonic() < deadline:
            lock.renew()

    def missed_something(self) -> bool:
        """Return whether there is work again; RECEIVED means that no drain has seen it. To be asked after the release."""
        rows = Transaction.objects.filter(lane=self.work.lane)
        return rows.filter(state=TransactionState.RECEIVED).exists()

    def _round(self) -> bool:
        """Return whether another round may find something to do."""
        asked = asking.ask(self.work)
        if not asked.may_go_on:
            return False
        if has_drained(self.work.held, flights.survey(self.work.lane)):
            return False
        return handing.hand(self.work) or asked.more

    def _call_off_expired(self) -> None:
        """Want called off what the custody has, and whose time has passed."""
        late = Transaction.objects.filter(
            lane=self.work.lane, state=TransactionState.SIGNING, noop_outcome="", valid_until__lte=Now()
        ).exclude(sub_state=SubState.CUSTODY_ALTERED)
        if late.exists() and keyguard.can_call_off(self.work.lane.address):
            with transaction.atomic():
                guard(self.work.held)
                late.update(
                    noop_outcome=TransactionState.EXPIRED,
                    sub_state=SubState.CALLING_OFF,
                    error={"code": "TRANSACTION_EXPIRED", "message": "valid_until passed before it was sent"},
                    look_at=self.work.held.now(),
                )
