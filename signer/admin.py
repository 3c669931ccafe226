"""Transactions in the admin: what is where, why it waits, and what was sent. To look at; only endpoints are edited.

An endpoint's URL holds the provider's key: it is entered and never shown again. Raw transactions are not shown.
"""

import re
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, Model, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.timesince import timesince
from eth_utils.address import to_checksum_address
from eth_utils.currency import from_wei
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from signer import queue
from signer.models import Attempt, Block, Chain, Endpoint, Lane, Transaction
from signer.requests import TransactionRequest
from signer.states import FINAL, IN_FLIGHT, WAITING, LaneState, SubState, TransactionKind, TransactionState
from workflows.cells import STATE_COLOURS, badge, code_block, error_text, link
from workflows.models import Wait

STATE_COLOURS.update(
    dict.fromkeys(
        ("RECEIVED", "QUEUED", "PREPARING", "SIGNING", "BROADCASTING", "CONFIRMING", "SIGNED"), "info"
    )
    | dict.fromkeys(("PENDING_APPROVAL", "EXPIRED"), "warning")
    | dict.fromkeys(("BLOCKED", "REJECTED"), "danger")
    | dict.fromkeys(("COMPLETED", "ACTIVE", "SENT"), "success")
)

HASH = re.compile(r"0x[0-9a-f]{64}")
ADDRESS = re.compile(r"0x[0-9a-f]{40}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SHOWN_DATA = 600

# What a reason for waiting leaves out, as far as our own rows know it.
DETAILS = {
    SubState.LANE_BLOCKED: "waits for a person, the lane is blocked: {lane.blocked_reason}",
    SubState.INSUFFICIENT_FUNDS: "waits for funds: {lane.address} cannot pay {cost}",
    SubState.NODE_UNAVAILABLE: "waits for a node of {chain}: none answers, or it turns us away",
    SubState.SIGNER_UNAVAILABLE: "waits for keyguard: the key of {lane.address} cannot sign at the moment",
    SubState.FEE_CAPPED: "waits for the market: its fee is above the ceiling of {ceiling} gwei per gas",
    SubState.NONCE_FOREIGN: "waits for a person: a transaction that is not ours used nonce {row.nonce}",
}


def why(row: Transaction) -> str:
    """Return what a transaction waits for, or how it ended, from its row, lane and chain alone."""
    if row.state in FINAL:
        where = "without a nonce" if row.block_number is None else f"in block {row.block_number}"
        code = (row.error or {}).get("code", "")
        verb = "executed" if row.state == TransactionState.COMPLETED else "ended"
        return f"{verb} {where}" + (f": {code}" if code else "")
    reason = SubState(row.sub_state)
    if row.state in WAITING and row.lane.state == LaneState.BLOCKED:
        reason = SubState.LANE_BLOCKED
    if reason not in DETAILS:
        return str(reason.label) if reason else _progress(row)
    cost = f"{ether(row.value)} and the fee" if row.value else "the fee"
    ceiling = gwei(row.chain.max_fee_per_gas_wei)
    return DETAILS[reason].format(row=row, lane=row.lane, chain=row.chain, cost=cost, ceiling=ceiling)


def _progress(row: Transaction) -> str:
    if row.state == TransactionState.CONFIRMING and row.block_number is not None:
        depth = max(1, (row.chain.head_number or row.block_number) - row.block_number + 1)
        return f"waits for confirmations: {depth} of {row.chain.confirmations}, in block {row.block_number}"
    if row.state == TransactionState.BROADCASTING:
        sent = row.broadcast_at
        return (
            f"waits for a block since {sent:%H:%M:%S} UTC" if sent else "signed and committed, to be sent now"
        )
    return {
        TransactionState.QUEUED: "waits for its turn in the lane",
        TransactionState.PREPARING: "a worker asks the chain for gas and fees",
        TransactionState.SIGNING: "a worker has it signed",
        TransactionState.PENDING_APPROVAL: "waits for a person's approval",
    }.get(TransactionState(row.state), "waits for a worker to take it")


def ether(wei: int) -> str:
    return f"{from_wei(int(wei), 'ether'):f} ether"


def gwei(wei: int) -> str:
    return f"{from_wei(int(wei), 'gwei'):f}"


def ago(instant: Any) -> str:
    """Return how long ago it was; seconds matter where blocks take seconds."""
    seconds = (timezone.now() - instant).total_seconds()
    return f"{max(0, seconds):.0f} s" if seconds < 120 else timesince(instant)


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


def counted(owner: str, states: tuple[TransactionState, ...]) -> Coalesce:
    """Return an annotation: how many transactions in `states` a lane or chain has, read from the partial indexes."""
    rows = Transaction.objects.filter(**{owner: OuterRef("pk")}, state__in=states).order_by().values(owner)
    return Coalesce(Subquery(rows.annotate(count=Count("pk")).values("count")), 0)


class ReadOnly:
    """Refuses what would change a row: the states are the signer's to write."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


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


class EndpointForm(forms.ModelForm):  # type: ignore[type-arg]
    """Takes a URL and shows none."""

    url = forms.URLField(
        label="URL",
        required=False,
        assume_scheme="https",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text="Stored and never shown again. Leave empty to keep the present one.",
    )

    class Meta:
        model = Endpoint
        fields = ("url", "position")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["url"] = ""

    def clean_url(self) -> str:
        url = self.cleaned_data["url"] or self.instance.url
        if not url:
            raise forms.ValidationError("A new endpoint needs a URL.")
        return str(url)


class EndpointInline(TabularInline):  # type: ignore[misc]
    """The nodes of a chain."""

    model = Endpoint
    form = EndpointForm
    fields = ("host", "url", "position")
    readonly_fields = ("host",)
    extra = 0
    hide_title = True


@admin.register(Chain)
class ChainAdmin(Shown, ModelAdmin):  # type: ignore[misc]
    """The networks. Registered by `manage.py add_chain`, which asks the nodes who they are first."""

    list_display = ("name", "chain_id", "shown_head", "in_flight", "waiting", "shown_hosts", "confirmations")
    search_fields = ("name", "chain_id")
    fieldsets = (
        ("Now", {"fields": ("shown_head", "in_flight", "waiting", "shown_lease")}),
        ("What it is", {"fields": ("name", "chain_id", "genesis_hash", "fee_market")}),
        (
            "How it is used",
            {"fields": ("confirmations", "block_time_ms", "max_in_flight", "max_fee_per_gas_wei", "ceiling")},
        ),
    )
    readonly_fields = (
        "shown_head", "in_flight", "waiting", "shown_lease", "chain_id", "genesis_hash", "fee_market", "ceiling",
    )  # fmt: skip
    inlines = (EndpointInline,)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Chain]:
        chains: QuerySet[Chain] = super().get_queryset(request).prefetch_related("endpoints")
        return chains.annotate(
            in_flight_count=counted("chain", IN_FLIGHT), waiting_count=counted("chain", WAITING)
        )

    @display(description="Head", ordering="head_number")
    def shown_head(self, chain: Chain) -> str:
        if chain.head_number is None or chain.head_seen_at is None:
            return "not seen yet"
        return f"{chain.head_number}, seen {ago(chain.head_seen_at)} ago"

    @display(description="Endpoints")
    def shown_hosts(self, chain: Chain) -> str:
        return ", ".join(endpoint.host for endpoint in chain.endpoints.all()) or alarm("none")

    @display(description="Ceiling in gwei")
    def ceiling(self, chain: Chain) -> str:
        return gwei(chain.max_fee_per_gas_wei)


@admin.register(Lane)
class LaneAdmin(Shown, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Who sends, how far it is, and what holds it up."""

    list_display = (
        "address", "shown_state", "blocked", "shown_chain", "next_nonce", "in_flight", "waiting", "oldest",
    )  # fmt: skip
    list_filter = ("state", "chain")
    list_select_related = ("chain",)
    search_fields = ("address__iexact", "id__iexact")
    search_help_text = "address, lane id"
    fieldsets = (
        ("Now", {"fields": ("shown_state", "blocked", "next_nonce", "in_flight", "waiting", "oldest")}),
        ("What it is", {"fields": ("address", "shown_chain", "id", "created_at")}),
        ("Who works on it", {"fields": ("shown_lease", "epoch", "looked_at", "in_redis")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Lane]:
        lanes: QuerySet[Lane] = super().get_queryset(request)
        waiting = Transaction.objects.filter(lane=OuterRef("pk"), state__in=WAITING).order_by("created_at")
        return lanes.annotate(
            in_flight_count=counted("lane", IN_FLIGHT),
            waiting_count=counted("lane", WAITING),
            oldest_at=Subquery(waiting.values("created_at")[:1]),
        )

    @display(description="Blocked because")
    def blocked(self, lane: Lane) -> str:
        return alarm(lane.blocked_reason if lane.state == LaneState.BLOCKED else "")

    @display(description="Oldest waits for", ordering="oldest_at")
    def oldest(self, lane: Any) -> str:
        return ago(lane.oldest_at) if lane.oldest_at else "-"

    @display(description="Waiting, as Redis knows")
    def in_redis(self, lane: Lane) -> str:
        count = queue.waiting(lane.pk)
        return "Redis does not answer" if count is None else str(count)


class AttemptCells(Shown):
    """How an attempt looks, in rows and on its own page."""

    @display(description="Hash", ordering="hash")
    def shown_hash(self, attempt: Attempt) -> str:
        return link("admin:signer_attempt_change", attempt.pk, short(attempt.hash))

    @display(description="Fee / tip, gwei per gas")
    def shown_fees(self, attempt: Attempt) -> str:
        return f"{gwei(attempt.max_fee_per_gas_wei)} / {gwei(attempt.max_priority_fee_per_gas_wei)}"

    @display(description="Sent", ordering="last_sent_at")
    def shown_sent(self, attempt: Attempt) -> str:
        last = attempt.last_sent_at
        return f"{attempt.send_count}×, last {last:%Y-%m-%d %H:%M:%S}" if last else "not yet"

    @display(description="Last error", ordering="last_error")
    def shown_error(self, attempt: Attempt) -> str:
        return ": ".join(filter(None, (attempt.last_error, attempt.last_error_message))) or "-"


class AttemptInline(AttemptCells, ReadOnly, TabularInline):  # type: ignore[misc]
    """Everything that was signed for a transaction."""

    model = Attempt
    fields = readonly_fields = (
        "seq", "purpose", "shown_hash", "shown_state", "shown_fees", "shown_sent", "shown_error",
    )  # fmt: skip
    verbose_name_plural = "Attempts: what was signed and sent"
    ordering = ("seq",)
    extra = 0
    hide_title = True


@admin.register(Transaction)
class TransactionAdmin(Shown, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Every transaction, newest first."""

    list_display = ("shown_name", "shown_state", "shown_why", "shown_from", "nonce", "age", "created_at")
    list_filter = ("state", "sub_state", "chain", "kind")
    list_per_page = 50
    search_fields = ("id",)
    search_help_text = "transaction or run id, hash of any attempt, address, correlation id, idempotency key"
    date_hierarchy = "created_at"
    show_full_result_count = False  # the table only grows
    fieldsets = (
        ("Now", {"fields": ("shown_state", "shown_why", "shown_error", "shown_run", "age")}),
        (
            "What it does",
            {
                "fields": (
                    "label",
                    "sender",
                    "shown_to",
                    "shown_value",
                    "shown_data",
                    "gas",
                    "speed",
                    "valid_until",
                )
            },
        ),
        ("Where", {"fields": ("shown_chain", "shown_lane", "nonce", "shown_winner", "shown_block")}),
        (
            "Who asked",
            {
                "fields": (
                    "id",
                    "correlation_id",
                    "scope",
                    "idempotency_key",
                    "created_at",
                    "broadcast_at",
                    "settled_at",
                )
            },
        ),
        ("Data", {"fields": ("data_start",), "classes": ("collapse",)}),
    )
    inlines = (AttemptInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Transaction]:
        """Leave the data out: a page of deployments would read megabytes that the list does not show."""
        rows: QuerySet[Transaction] = super().get_queryset(request)
        return rows.select_related("chain", "lane", "winner").defer("data", "winner__raw")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Transaction], term: str
    ) -> tuple[QuerySet[Transaction], bool]:
        """Search by what a person has at hand; its shape says which columns to look in."""
        term = term.strip().replace("\x00", "")
        if not term:
            return queryset, False
        match = Q(correlation_id=term) | Q(idempotency_key=term)
        if HASH.fullmatch(term.lower()):
            match = Q(pk__in=Attempt.objects.filter(hash=term.lower()).values("transaction_id"))
        elif ADDRESS.fullmatch(term.lower()):
            address = to_checksum_address(term.lower())
            match = Q(lane__in=Lane.objects.filter(address=address)) | Q(to=address)
        elif UUID.fullmatch(term.lower()):
            asked = Wait.objects.filter(run=term, kind=TransactionRequest.kind).exclude(reference="")
            match |= Q(pk__in=[term, *asked.values_list("reference", flat=True)])
        return queryset.filter(match), False

    @display(description="Transaction", ordering="id")
    def shown_name(self, row: Transaction) -> str:
        name = row.label or row.get_kind_display()
        return format_html("{}<br><code class='text-xs'>{}</code>", name, row.pk)

    @display(description="Why", ordering="sub_state")
    def shown_why(self, row: Transaction) -> str:
        blocked = row.state not in FINAL and row.lane.state == LaneState.BLOCKED
        return to_lane(row.lane, why(row)) if blocked else why(row)

    @display(description="Error")
    def shown_error(self, row: Transaction) -> str:
        return error_text(row.error)

    @display(description="Asked for by")
    def shown_run(self, row: Transaction) -> str:
        waits = Wait.objects.filter(kind=TransactionRequest.kind, reference=str(row.pk))
        wait = waits.select_related("run").first()
        if wait is None:
            return "no run: it was submitted by itself"
        return link(
            "admin:workflows_run_change",
            wait.run_id,
            f"{wait.run.workflow} {wait.run_id}, {wait.operation_id}",
        )

    @display(description="Age", ordering="created_at")
    def age(self, row: Transaction) -> str:
        if row.settled_at:
            return f"took {(row.settled_at - row.created_at).total_seconds():.1f} s"
        return f"for {ago(row.created_at)}"

    @display(description="From", ordering="lane__address")
    def shown_from(self, row: Transaction) -> str:
        return short(row.lane.address)

    @display(description="From and lane")
    def shown_lane(self, row: Transaction) -> str:
        return to_lane(row.lane)

    @display(description="To")
    def shown_to(self, row: Transaction) -> str:
        if row.to is not None:
            return row.to
        receipt = row.winner.receipt if row.winner else None
        return f"creates a contract: {(receipt or {}).get('contractAddress') or 'not mined yet'}"

    @display(description="Value")
    def shown_value(self, row: Transaction) -> str:
        return f"{row.value} wei = {ether(row.value)}" if row.value else "none"

    @display(description="Data")
    def shown_data(self, row: Transaction) -> str:
        length = len(row.data) // 2 - 1
        selector = f", selector {row.data[:10]}" if row.to and length >= 4 else ""
        return f"{length} bytes{selector}" if length else "none"

    @display(description="Gas limit")
    def gas(self, row: Transaction) -> str:
        return str(row.gas_limit or "as estimated, see the attempts")

    @display(description="Mined hash")
    def shown_winner(self, row: Transaction) -> str:
        return (
            link("admin:signer_attempt_change", row.winner.pk, row.winner.hash) if row.winner else "none yet"
        )

    @display(description="Block")
    def shown_block(self, row: Transaction) -> str:
        return f"{row.block_number}, {row.block_hash}" if row.block_number is not None else "none yet"

    @display(description="Data")
    def data_start(self, row: Transaction) -> str:
        more = "…" if len(row.data) > SHOWN_DATA else ""
        return format_html('<code class="break-all text-xs">{}{}</code>', row.data[:SHOWN_DATA], more)


@admin.register(Attempt)
class AttemptAdmin(AttemptCells, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Every signed hash, for finding one."""

    list_display = (
        "cut_hash", "shown_state", "purpose", "nonce", "shown_fees", "shown_sent", "last_error", "shown_transaction",
    )  # fmt: skip
    list_filter = ("state", "purpose", "last_error")
    search_fields = ("hash__iexact", "transaction__id__iexact")
    search_help_text = "hash, transaction id"
    show_full_result_count = False
    fieldsets = (
        ("Now", {"fields": ("shown_state", "shown_error", "shown_sent", "first_sent_at")}),
        (
            "What was signed",
            {"fields": ("hash", "shown_transaction", "seq", "purpose", "nonce", "shown_fees", "gas_limit")},
        ),
        ("Receipt", {"fields": ("shown_receipt", "epoch", "created_at")}),
    )

    @display(description="Hash", ordering="hash")
    def cut_hash(self, attempt: Attempt) -> str:
        return short(attempt.hash)

    @display(description="Transaction")
    def shown_transaction(self, attempt: Attempt) -> str:
        return link("admin:signer_transaction_change", attempt.transaction_id, str(attempt.transaction_id))

    @display(description="Receipt")
    def shown_receipt(self, attempt: Attempt) -> str:
        return code_block(attempt.receipt)


@admin.register(Block)
class BlockAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """The recent headers, and those that a fork put aside."""

    list_display = ("number", "hash", "parent_hash", "chain", "canonical", "seen_at")
    list_filter = ("canonical", "chain")
    search_fields = ("hash__iexact", "number")
    ordering = ("-number",)
    show_full_result_count = False
    fields = ("chain", "number", "hash", "parent_hash", "canonical", "seen_at")
    readonly_fields = fields
