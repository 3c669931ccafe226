"""How the signer's rows look in the admin: the parts that several pages share."""
# unfold's decorators have no types
# mypy: allow-untyped-decorators

from typing import Any

from django.utils import timezone
from django.utils.html import format_html
from unfold.decorators import display

from signer.models import Attempt, Chain, Lane
from signer.sentences import ago, gwei
from workflows.cells import STATE_COLOURS, badge, link

STATE_COLOURS.update(
    dict.fromkeys(
        ("RECEIVED", "QUEUED", "PREPARING", "SIGNING", "BROADCASTING", "CONFIRMING", "SIGNED"), "info"
    )
    | dict.fromkeys(("PENDING_APPROVAL", "EXPIRED"), "warning")
    | dict.fromkeys(("BLOCKED", "REJECTED"), "danger")
    | dict.fromkeys(("COMPLETED", "ACTIVE", "SENT"), "success")
)


def short(text: str | None) -> str:
    """Return the start of a hash or address, the whole on hovering."""
    return (
        format_html('<code title="{}" class="whitespace-nowrap">{}…</code>', text, text[:10]) if text else "-"
    )


def alarm(text: str) -> str:
    """Return a sentence that must be seen first."""
    return (
        format_html('<span class="font-semibold text-red-600 dark:text-red-400">{}</span>', text)
        if text
        else "-"
    )


def to_lane(lane: Lane, text: str = "") -> str:
    return link("admin:signer_lane_change", lane.pk, text or lane.address)


def to_chain(chain: Chain) -> str:
    return link("admin:signer_chain_change", chain.pk, str(chain))


class Shown:
    """Columns and fields that several pages share."""

    @display(description="State", ordering="state")
    def shown_state(self, row: Any) -> str:
        return badge(row.state)

    @display(description="Chain", ordering="chain")
    def shown_chain(self, row: Any) -> str:
        return to_chain(row.chain)

    @display(description="In flight", ordering="in_flight_count")
    def in_flight(self, row: Any) -> int:
        return int(row.in_flight_count)

    @display(description="Waiting", ordering="waiting_count")
    def waiting(self, row: Any) -> int:
        return int(row.waiting_count)

    @display(description="Leased by")
    def shown_lease(self, row: Any) -> str:
        if row.lease_until is None:
            return "nobody: no worker has it now"
        if row.lease_until > timezone.now():
            return f"{row.lease_owner}, until {row.lease_until:%H:%M:%S} UTC"
        return f"{row.lease_owner}, ran out {ago(row.lease_until)} ago; any worker may take it"


class AttemptCells(Shown):
    """How an attempt looks, in rows and on its own page."""

    @display(description="Hash", ordering="hash")
    def shown_hash(self, attempt: Attempt) -> str:
        return link("admin:signer_attempt_change", attempt.pk, short(attempt.hash))

    @display(description="Fee / tip, gwei per gas")
    def shown_fees(self, attempt: Attempt) -> str:
        blobs = f" / {gwei(attempt.max_fee_per_blob_gas_wei)} for blobs" if attempt.blob_count else ""
        return f"{gwei(attempt.max_fee_per_gas_wei)} / {gwei(attempt.max_priority_fee_per_gas_wei)}{blobs}"

    @display(description="Sent", ordering="last_sent_at")
    def shown_sent(self, attempt: Attempt) -> str:
        last = attempt.last_sent_at
        if last and not attempt.send_count:
            return f"by the custody, seen {last:%Y-%m-%d %H:%M:%S}"
        return f"{attempt.send_count}×, last {last:%Y-%m-%d %H:%M:%S}" if last else "not yet"

    @display(description="Last error", ordering="last_error")
    def shown_error(self, attempt: Attempt) -> str:
        return ": ".join(filter(None, (attempt.last_error, attempt.last_error_message))) or "-"
