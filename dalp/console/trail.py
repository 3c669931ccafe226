"""Keyguard's audit trail in the console, its heads, and the seals under which nothing is signed."""

import json
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget

from dalp.console.confirming import RefusedError
from dalp.console.keys import ActForm, asked_of
from keyguard import KeyguardError, sealing
from keyguard.audit.models import AuditEntry, AuditHead
from keyguard.errors import SealingInvalidError
from keyguard.models import Key, Sealing
from workflows.admin.acting import Acting, carry_out, row_at
from workflows.cells import STATE_COLOURS, ReadOnly, badge, link

STATE_COLOURS.update({"SEALED": "danger", "LIFTED": "success"})

EVENTS = {
    "key_added": "key added",
    "intended": "signatures intended",
    "signed": "signed",
    "refused": "refused",
    "suspended": "key suspended by keyguard",
    "key_act": "act on the key",
    "call_intended": "call to be handed over",
    "call_refused": "call refused",
    "call_reported": "the custody's word about a call",
    "asked": "people asked",
    "voted": "answer of a person",
    "policy_drafted": "policy written",
    "policy_in_force": "policy put in force",
    "kek_activated": "KEK activated",
    "kek_retired": "KEK retired",
    "kek_destroyed": "KEK destroyed",
    "kek_drill": "KEK's backup made or tried",
    "delegate_allowed": "delegate allowed",
    "delegate_taken_off": "delegate taken off the list",
    "membership_changed": "group of approvers changed",
    "sealed": "sealed",
    "unsealed": "seal lifted",
}
WIDE = "min-width: 18rem; white-space: normal; overflow-wrap: anywhere"
# Digests and ids are for verify_audit.
HIDDEN = {"digest", "id", "row", "records"}


def words_of(body: dict[str, Any]) -> str:
    """Return what an entry says, for people."""
    count = body.get("records")
    parts = [f"{count} signature{'s' * (count > 1)}"] if count else []
    parts += [
        f"{name.replace('_', ' ')} {value}" for name, value in body.items() if name not in HIDDEN and value
    ]
    return ", ".join(parts)


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """What was asked of keys, and what people did to them, the newest on top."""

    list_display = ("shown_at", "shown_chain", "seq", "shown_event", "shown_words")
    list_filter = ("event",)
    list_select_related = ("chain__key",)
    search_fields = ("chain__key__alias", "chain__key__address__iexact", "body")
    search_help_text = "alias or address of a key, a person's name, a reason"
    show_full_result_count = False  # the table only grows
    fields = ("shown_at", "shown_chain", "seq", "shown_event", "shown_body", "shown_records", "shown_code")
    readonly_fields = fields

    @display(description="At, UTC", ordering="id")
    def shown_at(self, entry: AuditEntry) -> str:
        return f"{entry.at:%Y-%m-%d %H:%M:%S}"

    @display(description="Chain")
    def shown_chain(self, entry: AuditEntry) -> str:
        """Return the key, or that it belongs to none."""
        key = entry.chain.key
        return link("admin:keyguard_key_change", key.pk, key.alias) if key else "general"

    @display(description="What happened", ordering="event")
    def shown_event(self, entry: AuditEntry) -> str:
        return EVENTS.get(entry.event, entry.event)

    @display(description="In words")
    def shown_words(self, entry: AuditEntry) -> str:
        words = words_of(json.loads(entry.body))
        return format_html('<div class="text-xs" style="{}">{}</div>', WIDE, words)

    @display(description="Body")
    def shown_body(self, entry: AuditEntry) -> str:
        style = "white-space: pre-wrap; overflow-wrap: anywhere"
        return format_html('<pre style="{}">{}</pre>', style, json.dumps(json.loads(entry.body), indent=2))

    @display(description="Signing records")
    def shown_records(self, entry: AuditEntry) -> str:
        """Return the way to the records that it speaks of."""
        if "records" not in json.loads(entry.body) or entry.chain.key is None:
            return "none"
        column = "intent_seq" if entry.event == "intended" else "result_seq"
        view = reverse("admin:keyguard_signingrecord_changelist")
        address = f"{view}?key__id__exact={entry.chain.key_id}&{column}={entry.seq}"
        return format_html('<a class="text-primary-600 underline" href="{}">show them</a>', address)

    @display(description="Code")
    def shown_code(self, entry: AuditEntry) -> str:
        return f"{bytes(entry.mac).hex()}, made with the trail's key {entry.mac_key}"


@admin.register(AuditHead)
class AuditHeadAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """How far the chains had come, once a minute: to be noted where nobody here can write."""

    list_display = ("number", "shown_at", "shown_chains", "shown_hash", "shown_signer")
    show_full_result_count = False
    fields = ("number", "shown_at", "hash", "shown_signer", "shown_note", "shown_heads")
    readonly_fields = fields

    @display(description="At, UTC", ordering="number")
    def shown_at(self, head: AuditHead) -> str:
        return f"{head.at:%Y-%m-%d %H:%M:%S}"

    @display(description="Hash")
    def shown_hash(self, head: AuditHead) -> str:
        return format_html('<div class="font-mono text-xs" style="{}">{}</div>', WIDE, head.hash)

    @display(description="Chains that moved")
    def shown_chains(self, head: AuditHead) -> int:
        return len(json.loads(head.heads))

    @display(description="Signed by")
    def shown_signer(self, head: AuditHead) -> str:
        return head.signer or "nobody: KEYGUARD_AUDIT_SIGNER names no key"

    @display(description="To be noted elsewhere")
    def shown_note(self, head: AuditHead) -> str:
        return f"manage.py verify_audit --head {head.number}:{head.hash}"

    @display(description="Where the chains ended")
    def shown_heads(self, head: AuditHead) -> str:
        """Return the ends by the keys' aliases."""
        heads = json.loads(head.heads)
        aliases = {
            str(pk): alias for pk, alias in Key.objects.filter(pk__in=_ids(heads)).values_list("pk", "alias")
        }
        lines = [(aliases.get(name, name), seq) for name, (seq, _) in heads.items()]
        return format_html_join("", "<div>{}: entry {}</div>", sorted(lines)[:200])


def _ids(names: Any) -> list[str]:
    return [name for name in names if len(name) == 36]


class SealForm(ActForm):
    """What is sealed, why, and the password again."""

    backend = forms.ChoiceField(
        required=False, widget=UnfoldAdminSelectWidget(), help_text="whose keys sign nothing any more"
    )
    field_order = ("backend", "reason", "password")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        used = Key.objects.order_by("backend").values_list("backend", flat=True).distinct()
        self.fields["backend"].choices = [("", "all backends"), *((name, name) for name in used)]  # type: ignore[attr-defined]


@admin.register(Sealing)
class SealingAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """The seals, set by people or by keyguard itself; who lifted them, and why."""

    list_display = ("shown_state", "shown_what", "at", "shown_who", "reason", "lifted_by", "lifted_reason")
    list_filter = (("lifted_at", admin.EmptyFieldListFilter), "backend", "code")
    fields = (
        "shown_state",
        "shown_what",
        "at",
        "shown_who",
        "reason",
        "code",
        "shown_question",
        "lifted_at",
        "lifted_by",
        "lifted_reason",
    )
    readonly_fields = fields
    actions_list = ("seal",)
    actions_detail = ("lift",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Sealing]:
        """Return them, the newest on top."""
        rows: QuerySet[Sealing] = super().get_queryset(request)
        return rows.order_by("-at")

    @display(description="State")
    def shown_state(self, row: Sealing) -> str:
        return badge("LIFTED" if row.lifted_at else "SEALED")

    @display(description="What", ordering="backend")
    def shown_what(self, row: Sealing) -> str:
        return f"keys of {row.backend}" if row.backend else "all keys"

    @display(description="By")
    def shown_who(self, row: Sealing) -> str:
        return row.actor or "keyguard itself"

    @display(description="Waits for approval")
    def shown_question(self, row: Sealing) -> str:
        """Return whether people are asked to lift it."""
        question = sealing.question_of(row)
        if question is None:
            return "nothing"
        return link("admin:keyguard_question_change", question.pk, asked_of(question))

    def has_seal_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return bool(request.user.has_perm("keyguard.change_key"))

    def has_lift_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        is_open = row_at(Sealing, object_id).filter(lifted_at=None).exists()
        return is_open and bool(request.user.has_perm("keyguard.change_key"))

    @action(description="Seal", url_path="seal", icon="lock", permissions=["seal"])
    def seal(self, request: HttpRequest) -> HttpResponse:
        """Have nothing signed any more."""
        form = SealForm(request.POST or None, person=request.user)

        def act(_: Any, *, actor: str, backend: str, reason: str) -> None:
            if not sealing.seal(reason, backend=backend, actor=actor):
                raise RefusedError(SealingInvalidError("there is such a seal already"))

        text = (
            "From this moment on nothing is signed with these keys, by nobody. What waits for a signature waits on; "
            "what is signed already goes its way. It ends when somebody lifts the seal."
        )
        if request.method == "POST" and form.is_valid() and carry_out(request, "Seal", act, None, form):
            return redirect("admin:keyguard_sealing_changelist")
        context = {
            **self.admin_site.each_context(request),
            "title": "Seal",
            "opts": self.model._meta,
            "row": "",
            "text": text,
            "form": form,
            "danger": True,
            "back": "../",
        }
        return render(request, "workflows/act.html", context)

    @action(description="Lift the seal", url_path="lift", icon="lock_open", permissions=["lift"])
    def lift(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Have keys sign again, or ask those whose approval that takes."""

        def act(pk: Any, *, actor: str, reason: str) -> None:
            try:
                asked = sealing.unseal(Sealing.objects.get(pk=pk), actor, reason)
            except KeyguardError as error:
                raise RefusedError(error) from error
            if asked:
                group = settings.KEYGUARD_OPERATIONS_GROUP
                messages.info(
                    request, f"Nothing has changed yet: members of {group} are asked to approve it."
                )

        row = self.row(request, object_id)
        facts = [("Sealed because", f"{row.code} {row.reason}".strip())]
        text = "These keys sign again from that moment on. Lift it only when it is known why it was set, and over."
        form = ActForm(request.POST or None, person=request.user)
        return self.ask(request, object_id, "Lift the seal", text, act, form, facts=facts)
