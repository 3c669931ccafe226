"""Transactions and attempts: what is where, why it waits, and what was sent. To look at; raw bytes are not shown."""

import re
import uuid

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from eth_utils.address import to_checksum_address
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display

from keyguard.policies.models import Question
from signer.admin.acts import TransactionActs
from signer.cells import AttemptCells, Shown, short, to_lane
from signer.models import Attempt, Lane, Transaction
from signer.requests import TransactionRequest
from signer.sentences import ago, ether, why
from signer.states import FINAL, LaneState, Purpose
from workflows.cells import ReadOnly, code_block, error_text, link
from workflows.models import Wait

HASH = re.compile(r"0x[0-9a-f]{64}")
ADDRESS = re.compile(r"0x[0-9a-f]{40}")
SHOWN_DATA = 600


def of_identifier(term: str) -> Q:
    """Return the condition of being the transaction, or one that the run with this id asked for."""
    try:
        identifier = uuid.UUID(term)
    except ValueError:
        return Q(pk=None)
    asked = Wait.objects.filter(run_id=identifier, kind=TransactionRequest.kind).exclude(reference="")
    return Q(pk__in=[identifier, *asked.values_list("reference", flat=True)])


def without_bytes(attempts: QuerySet[Attempt]) -> QuerySet[Attempt]:
    """Leave out what no page shows: the signed bytes, a megabyte where they carry blobs."""
    return attempts.defer("raw")


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

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attempt]:
        return without_bytes(super().get_queryset(request))


@admin.register(Transaction)
class TransactionAdmin(TransactionActs, Shown, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Every transaction, newest first."""

    list_display = ("shown_name", "shown_state", "shown_why", "age", "shown_from", "shown_nonce")
    list_filter = ("state", "sub_state", "chain", "kind")
    list_per_page = 50
    search_fields = ("id",)
    search_help_text = "id, run id, hash, address, correlation id, key"
    date_hierarchy = "created_at"
    show_full_result_count = False  # the table only grows
    fieldsets = (
        (
            "Now",
            {"fields": ("shown_state", "shown_why", "shown_questions", "shown_error", "shown_run", "age")},
        ),
        (
            "What it does",
            {
                "fields": (
                    "label",
                    "shown_kind",
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
        ("Where", {"fields": ("shown_chain", "shown_lane", "shown_nonce", "shown_winner", "shown_block")}),
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
        return rows.select_related("chain", "lane").defer("data")

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
        else:
            match |= of_identifier(term)
        return queryset.filter(match), False

    @display(description="Transaction", ordering="id")
    def shown_name(self, row: Transaction) -> str:
        name = row.label or row.get_kind_display()
        return format_html(
            '<div style="width: 16.5rem; overflow-wrap: anywhere">{}</div><code class="text-xs">{}</code>',
            name,
            row.pk,
        )

    @display(description="Why", ordering="sub_state")
    def shown_why(self, row: Transaction) -> str:
        blocked = row.state not in FINAL and row.lane.state == LaneState.BLOCKED
        return to_lane(row.lane, why(row)) if blocked else why(row)

    @display(description="People were asked")
    def shown_questions(self, row: Transaction) -> str:
        """Return what people were asked before it is signed, with how they answered."""
        asked = Question.objects.filter(subject=str(row.pk)).order_by("-asked_at")[:5]
        links = (
            (
                link(
                    "admin:keyguard_question_change",
                    one.pk,
                    f"{one.asked_at:%H:%M:%S} UTC: {one.get_state_display()}",
                ),
            )
            for one in asked
        )
        return format_html_join(", ", "{}", links) or "no"

    @display(description="Error")
    def shown_error(self, row: Transaction) -> str:
        return error_text(row.error)

    @display(description="Kind")
    def shown_kind(self, row: Transaction) -> str:
        handed = [
            f"{one.lane.address} to {one.delegate}" for one in row.authorizations.select_related("lane")
        ]
        parts = [
            row.get_envelope_display(),
            f"{row.blob_count} blobs" if row.blob_count else "",
            f"access list of {len(row.access_list)}" if row.access_list else "",
            f"hands over {', '.join(handed)}" if handed else "",
        ]
        return "; ".join(filter(None, parts))

    @display(description="Asked for by")
    def shown_run(self, row: Transaction) -> str:
        waits = Wait.objects.filter(kind=TransactionRequest.kind, reference=str(row.pk))
        wait = waits.select_related("run").first()
        if wait is None:
            return "no run: submitted directly"
        return link(
            "admin:workflows_run_change",
            wait.run_id,
            f"{wait.run.workflow} {wait.run_id}, {wait.operation_id}",
        )

    @display(description="Age", ordering="created_at")
    def age(self, row: Transaction) -> str:
        if row.settled_at:
            return f"took {max(0.0, (row.settled_at - row.created_at).total_seconds()):.1f} s"
        return f"for {ago(row.created_at)}"

    @display(description="From", ordering="lane__address")
    def shown_from(self, row: Transaction) -> str:
        return short(row.lane.address)

    @display(description="From")
    def sender(self, row: Transaction) -> str:
        return row.lane.address

    @display(description="Lane")
    def shown_lane(self, row: Transaction) -> str:
        return to_lane(row.lane)

    @display(description="Nonce", ordering="nonce")
    def shown_nonce(self, row: Transaction) -> str:
        if row.nonce is not None:
            return str(row.nonce)
        return "given by the custody" if row.lane.in_custody and row.state not in FINAL else "-"

    @display(description="To")
    def shown_to(self, row: Transaction) -> str:
        if row.to is not None:
            return row.to
        made = (row.winner.receipt or {}).get("contractAddress") if row.winner else None
        return f"creates a contract: {to_checksum_address(made) if made else 'not mined yet'}"

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
        if row.gas_limit is not None:
            return f"{row.gas_limit}, as asked"
        signed = row.attempts.filter(purpose=Purpose.PAYLOAD).order_by("-seq").first()
        return f"{signed.gas_limit}, estimated" if signed else "not estimated yet"

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
        return format_html(
            '<code class="text-xs" style="overflow-wrap: anywhere">{}{}</code>', row.data[:SHOWN_DATA], more
        )


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
            {
                "fields": (
                    "hash",
                    "shown_transaction",
                    "seq",
                    "purpose",
                    "nonce",
                    "shown_fees",
                    "gas_limit",
                    "epoch",
                    "created_at",
                )
            },
        ),
        ("Receipt", {"fields": ("shown_receipt",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attempt]:
        return without_bytes(super().get_queryset(request))

    @display(description="Hash", ordering="hash")
    def cut_hash(self, attempt: Attempt) -> str:
        return short(attempt.hash)

    @display(description="Transaction")
    def shown_transaction(self, attempt: Attempt) -> str:
        return link("admin:signer_transaction_change", attempt.transaction_id, str(attempt.transaction_id))

    @display(description="Receipt")
    def shown_receipt(self, attempt: Attempt) -> str:
        return code_block(attempt.receipt)
