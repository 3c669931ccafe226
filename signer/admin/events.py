"""The event index in the admin: how far it is, what it found, who holds what; and what a person may do about a contract."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from eth_utils.address import is_hex_address, to_checksum_address
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminIntegerFieldWidget

from signer.admin.acts import refusing
from signer.cells import Shown, alarm, short, to_chain
from signer.events.handing_over import event_of
from signer.events.registering import pause_contract, reread_contract, resume_contract
from signer.models import EventIndex, EventLog, Holding, IndexedBlock, WatchedContract
from signer.sentences import ago
from signer.states import WatchedState
from workflows.admin.acting import Acting, ReasonForm, row_at
from workflows.cells import STATE_COLOURS, ReadOnly, badge, link

STATE_COLOURS.update({"STANDS": "success", "REMOVED": "warning"})


class RereadForm(ReasonForm):
    """From where a contract is read again."""

    from_block = forms.IntegerField(
        min_value=0,
        widget=UnfoldAdminIntegerFieldWidget(),
        help_text="From its first block on, all that is known of it is forgotten and read anew.",
    )
    field_order = ("from_block", "reason")


def searched(queryset: QuerySet[Any], term: str, **columns: str) -> QuerySet[Any]:
    """Return the rows that have the term in one of the columns; `address` and `hash` say which spelling they keep."""
    term = term.strip().replace("\x00", "")
    found = queryset.none()
    for column, kind in columns.items():
        if kind == "address" and is_hex_address(term):
            found |= queryset.filter(**{column: to_checksum_address(term)})
        elif kind == "hash":
            found |= queryset.filter(**{column: term.lower()})
    return found if term else queryset


@admin.register(EventIndex)
class EventIndexAdmin(Shown, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """How far the logs of each chain are read."""

    list_display = ("chain", "front_number", "shown_lag", "shown_final", "shown_head", "shown_trouble")
    list_select_related = ("chain",)
    fieldsets = (
        ("Now", {"fields": ("shown_trouble", "front_number", "shown_lag", "shown_final", "shown_head")}),
        ("How it reads", {"fields": ("shown_chain", "range_blocks", "shown_lease", "look_at", "epoch")}),
    )

    @display(description="Behind the head")
    def shown_lag(self, index: EventIndex) -> str:
        return blocks(index.lag)

    @display(description="Final up to")
    def shown_final(self, index: EventIndex) -> str:
        return "-" if index.final_front is None else str(index.final_front)

    @display(description="Head")
    def shown_head(self, index: EventIndex) -> str:
        if index.head_number is None or index.head_seen_at is None:
            return "not seen yet"
        return f"{index.head_number}, seen {ago(index.head_seen_at)} ago"

    @display(description="Trouble")
    def shown_trouble(self, index: EventIndex) -> str:
        if index.failing_since is None:
            return "-"
        return alarm(f"not read for {ago(index.failing_since)}: {index.last_error}")


@admin.register(IndexedBlock)
class IndexedBlockAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """The blocks by which a fork is recognised."""

    list_display = ("number", "hash", "index")
    list_filter = ("index",)
    search_fields = ("hash__iexact", "number")
    ordering = ("-number",)
    show_full_result_count = False


@admin.register(WatchedContract)
class WatchedContractAdmin(Acting, Shown, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """The contracts that are read. Workflows register them."""

    list_display = (
        "shown_contract", "handler", "shown_state", "shown_number", "shown_lag", "shown_final", "shown_error",
    )  # fmt: skip
    list_filter = ("state", "handler", "index")
    list_select_related = ("index__chain",)
    search_fields = ("address", "label", "handler")
    search_help_text = "address, label, handler"
    actions_detail = ("pause", "resume", "reread")
    fieldsets = (
        ("Now", {"fields": ("shown_state", "shown_error", "shown_number", "shown_lag", "shown_final")}),
        (
            "What it is",
            {"fields": ("address", "label", "shown_chain", "handler", "from_block", "id", "created_at")},
        ),
        ("How it is read", {"fields": ("shown_place", "attempts", "retry_at")}),
    )

    @display(description="Contract", ordering="address")
    def shown_contract(self, contract: WatchedContract) -> str:
        return format_html(
            '{}<br><code class="text-xs">{}</code><br>{}',
            contract.label,
            contract.address,
            contract.index.chain,
        )

    @display(description="Chain", ordering="index")
    def shown_chain(self, contract: WatchedContract) -> str:
        return to_chain(contract.index.chain)

    @display(description="Read up to")
    def shown_number(self, contract: WatchedContract) -> str:
        return "nothing yet" if contract.number is None else f"block {contract.number}"

    @display(description="Behind the head")
    def shown_lag(self, contract: WatchedContract) -> str:
        return blocks(contract.lag)

    @display(description="Final up to")
    def shown_final(self, contract: WatchedContract) -> str:
        return "-" if contract.final_number is None else str(contract.final_number)

    @display(description="Error")
    def shown_error(self, contract: WatchedContract) -> str:
        return alarm(contract.last_error)

    @display(description="Place")
    def shown_place(self, contract: WatchedContract) -> str:
        """Return why it is where it is."""
        if contract.rewinding:
            return f"what is above block {contract.own_number} is taken back first"
        if contract.own_number is None:
            return "at the front, with the others"
        return "on its own, behind the front"

    def has_pause_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it is read."""
        rows = row_at(WatchedContract, object_id).exclude(state=WatchedState.PAUSED)
        return may_act(request) and rows.exists()

    def has_resume_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it is not read."""
        rows = row_at(WatchedContract, object_id).exclude(state=WatchedState.ACTIVE)
        return may_act(request) and rows.exists()

    def has_reread_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person may have contracts read again."""
        return may_act(request)

    @action(description="Pause", url_path="pause", icon="pause", permissions=["pause"])
    def pause(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Read no more of it."""
        text = "Its events are not handed over any more, until it is resumed; then it catches up. The others go on."
        return self.ask(request, object_id, "Pause", text, refusing(pause_contract))

    @action(description="Resume", url_path="resume", icon="play_arrow", permissions=["resume"])
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Read it on, or try again at once."""
        text = "It is read on from where it is. What has failed is tried again at once."
        return self.ask(request, object_id, "Resume", text, refusing(resume_contract))

    @action(description="Read again", url_path="reread", icon="restart_alt", permissions=["reread"])
    def reread(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Take back what its handler was given, and read it again."""
        contract = self.row(request, object_id)
        form = RereadForm(request.POST or None, initial={"from_block": contract.from_block})
        text = (
            "What its handler was given from this block on is taken back, newest first, and then read again. "
            "Until it has caught up, what follows from it (holders, for instance) is incomplete."
        )
        facts = (
            ("Contract", str(contract)),
            ("Read up to", str(contract.number)),
            ("Registered from block", str(contract.from_block)),
        )
        return self.ask(
            request, object_id, "Read again", text, refusing(reread_contract), form, danger=True, facts=facts
        )


@admin.register(EventLog)
class EventLogAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """The logs that were handed over, and those that the chain took back."""

    list_display = ("shown_event", "shown_state", "block_number", "log_index", "shown_transaction", "seen_at")
    list_filter = (("removed_at", admin.EmptyFieldListFilter), "contract__handler")
    list_select_related = ("contract__index",)
    list_per_page = 50
    search_fields = ("transaction_hash",)
    search_help_text = "transaction hash, address of the contract"
    ordering = ("-id",)
    show_full_result_count = False  # the table only grows
    fields = (
        "shown_event", "shown_state", "shown_contract", "block_number", "block_hash", "log_index", "transaction_hash",
        "topics", "data", "seen_at", "removed_at",
    )  # fmt: skip

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[EventLog], term: str
    ) -> tuple[QuerySet[EventLog], bool]:
        return searched(queryset, term, transaction_hash="hash", contract__address="address"), False

    @display(description="Event")
    def shown_event(self, row: EventLog) -> str:
        """Return the event as a call, where the code still has its handler."""
        try:
            event = event_of(row.contract, row)
        except Exception:  # noqa: BLE001 - a handler may have gone, or know another event now
            return format_html('<code class="text-xs">{}</code>', (row.topics or ["-"])[0])
        arguments = ", ".join(f"{name} {value}" for name, value in event.arguments.items())
        return format_html(
            '{} <span class="text-xs break-all">{}</span><br><code class="text-xs">{}</code>',
            event.name,
            arguments,
            row.contract.address,
        )

    @display(description="State", ordering="removed_at")
    def shown_state(self, row: EventLog) -> str:
        return badge("STANDS" if row.removed_at is None else "REMOVED")

    @display(description="Contract")
    def shown_contract(self, row: EventLog) -> str:
        return link("admin:signer_watchedcontract_change", row.contract.pk, str(row.contract))

    @display(description="Transaction")
    def shown_transaction(self, row: EventLog) -> str:
        return short(row.transaction_hash)


@admin.register(Holding)
class HoldingAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Who holds how much of a token, in its base units."""

    list_display = ("holder", "balance_wei", "token", "chain", "updated_block")
    list_filter = ("chain",)
    list_select_related = ("chain",)
    search_fields = ("holder",)
    search_help_text = "address of the holder or the token"
    ordering = ("chain", "token", "-balance_wei")
    show_full_result_count = False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Holding], term: str
    ) -> tuple[QuerySet[Holding], bool]:
        return searched(queryset, term, **dict.fromkeys(("holder", "token"), "address")), False


def blocks(number: int | None) -> str:
    """Return a number of blocks in words."""
    return "-" if number is None else f"{number} block{'' if number == 1 else 's'}"


def may_act(request: HttpRequest) -> bool:
    """Tell whether this person may act on contracts."""
    return bool(getattr(request.user, "has_perm", lambda _: False)("signer.change_watchedcontract"))
