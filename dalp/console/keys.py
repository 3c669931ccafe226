"""Keys in the console: who they are, whether they may sign, and taking one out of service or giving it back."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSplitDateTimeWidget, UnfoldAdminTextInputWidget

from dalp.assets.workflows import start_rotation
from dalp.console.confirming import ConfirmForm, RefusedError
from keyguard import KeyguardError, lifecycle
from keyguard.models import Key, KeyAct, KeyMaterial
from keyguard.policies.models import Question
from keyguard.sealing import sealing_of
from keyguard.states import KEY_TRANSITIONS, KekVerb, KeyState, KeyVerb, QuestionKind, QuestionState, SealVerb
from workflows.admin.acting import Acting, ReasonForm, row_at
from workflows.cells import STATE_COLOURS, ReadOnly, badge, link

STATE_COLOURS.update({"COMPROMISED": "danger", "SUSPENDED": "warning", "DESTROYED": "danger"})

BREAK = mark_safe("<br>")
KEY_PAGE = "admin:keyguard_key_change"
TEXTS = {
    KeyVerb.SUSPEND: "It signs nothing from this moment on, until it is given back to work. What waits for it waits on.",
    KeyVerb.REACTIVATE: "It signs again from this moment on. Give it back only when it is known why it was suspended.",
    KeyVerb.RETIRE: "It never signs again. Hand its roles over to another key first; what waits for it fails.",
    KeyVerb.COMPROMISED: "It never signs again, by no way. Hand what its address holds over first if there is time: afterwards this key cannot do it.",
    KeyVerb.ROTATE: "A new key is made, is given every role of this one in the platform's contracts, its alias, and what it owns; when the chain shows all of that, this one is retired. This one signs until then. Coins and tokens of its address stay there, but for what you send along: send them away first, for afterwards this key cannot.",
    KeyVerb.DESTROY: "What it signs with is destroyed wherever it is kept. Nobody can ever sign with it again, nor undo this. Backups from before have it still.",
    KeyVerb.VALIDITY: "It signs between these instants (UTC) and at no other; an empty one is no limit.",
}


def asked_of(question: Question) -> str:
    """Return an operation on keys that people are asked about, in a sentence."""
    shown = question.shown
    if shown["verb"] in SealVerb.values:
        return f"lift the {shown['about']}, which was set because: {shown['sealed_because']}. {question.asked_by} says: {shown['reason']}"
    facts = [
        f"{name.replace('_', ' ')} {shown[name] or 'no limit'}"
        for name in ("not_before", "not_after")
        if name in shown
    ]
    words = {
        "backend": "in the backend",
        "fund_wei": "sending along, in wei,",
        "to": "kept by",
        "threshold": "given back by any",
        "custodians": "of the shares of",
    }
    facts += [f"{text} {shown[name]}" for name, text in words.items() if shown.get(name)]
    address = f" ({shown['address']})" if "address" in shown else ""
    verb = shown["verb"]
    label = (KekVerb if verb in KekVerb.values else KeyVerb)(verb).label
    what = f"{label}: the {'KEK' if verb in KekVerb.values else 'key'} {shown['key']}{address}"
    return f"{', '.join([what, *facts])}. {question.asked_by} says: {shown['reason']}"


class ActForm(ConfirmForm, ReasonForm):
    """Why, and the password again."""

    field_order: Any = ("reason", "password")


class ValidityForm(ActForm):
    """From when until when."""

    not_before = forms.SplitDateTimeField(required=False, widget=UnfoldAdminSplitDateTimeWidget())
    not_after = forms.SplitDateTimeField(required=False, widget=UnfoldAdminSplitDateTimeWidget())
    field_order = ("not_before", "not_after", "reason", "password")


class RotateForm(ActForm):
    """What is sent along."""

    fund_wei = forms.DecimalField(
        min_value=1,
        max_digits=78,
        decimal_places=0,
        required=False,
        label="Send along, in wei",
        widget=UnfoldAdminTextInputWidget(attrs={"inputmode": "numeric"}),
        help_text="To the new address, on each chain of this key. The new key pays for its transactions with it; without any they wait.",
    )
    field_order = ("fund_wei", "reason", "password")


class KeyActInline(ReadOnly, TabularInline):  # type: ignore[misc]
    """What people did to the key."""

    model = KeyAct
    fields = ("at", "verb", "actor", "reason", "details")
    readonly_fields = fields
    extra = 0


class KeyMaterialInline(ReadOnly, TabularInline):  # type: ignore[misc]
    """How often a key was encrypted, and under which KEK. The ciphertexts have no place on a screen."""

    model = KeyMaterial
    fields = ("seq", "kek", "created_at")
    readonly_fields = fields
    extra = 0


@admin.register(Key)
class KeyAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """The keys, with what may be done to each."""

    list_filter = ("state", "backend", "origin")
    search_fields = ("alias", "address__iexact", "id__iexact")
    list_display = ("alias", "address", "shown_state", "not_after", "shown_place", "origin", "created_at")
    fields = (
        "alias",
        "address",
        "shown_state",
        "shown_question",
        "shown_succession",
        "not_before",
        "not_after",
        "shown_place",
        "origin",
        "id",
        "created_at",
    )
    readonly_fields = fields
    inlines = (KeyActInline, KeyMaterialInline)
    actions_detail = ("suspend", "reactivate", "rotate", "validity", "retire", "compromised", "destroy")

    @display(description="State", ordering="state")
    def shown_state(self, key: Key) -> str:
        """Return the state, and why."""
        left = key.state == KeyState.DESTROYED and key.material_gone_at is None
        words = f"not finished: run manage.py destroy_key {key.alias}" if left else key.state_reason
        return format_html("{} {} {}", badge(key.state), words, _shown_seal(key))

    @display(description="Place", ordering="backend")
    def shown_place(self, key: Key) -> str:
        """Return where it is, as a URI."""
        return str(key.uri)

    @display(description="Succession")
    def shown_succession(self, key: Key) -> str:
        """Return whose place the key takes, and who takes its place."""
        found = []
        if key.replaces is not None:
            found.append(
                format_html("takes over from {}", link(KEY_PAGE, key.replaces_id, str(key.replaces)))
            )
        others = key.successors.order_by("created_at")
        words = "is to take its place" if key.state == KeyState.ACTIVE else "has taken its place"
        found += [format_html("{} {}", link(KEY_PAGE, one.pk, str(one)), words) for one in others]
        return format_html_join(BREAK, "{}", ((one,) for one in found)) or "nothing"

    @display(description="Waits for approval")
    def shown_question(self, key: Key) -> str:
        """Return what people are asked about the key now."""
        kinds = (QuestionKind.KEY, QuestionKind.COMMAND)
        question = Question.objects.filter(key=key, kind__in=kinds, state=QuestionState.OPEN).first()
        if question is None:
            return "nothing"
        return link("admin:keyguard_question_change", question.pk, asked_of(question))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Key]:
        """Return the keys, with whether they are sealed."""
        rows: QuerySet[Key] = super().get_queryset(request)
        return rows.annotate(is_sealed=sealing_of(OuterRef("backend")))

    def has_suspend_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, KeyState.SUSPENDED)

    def has_reactivate_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, KeyState.ACTIVE)

    def has_retire_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, KeyState.RETIRED)

    def has_compromised_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, KeyState.COMPROMISED)

    def has_destroy_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, KeyState.DESTROYED)

    def has_rotate_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        key = row_at(Key, object_id).first()
        active = key is not None and key.state == KeyState.ACTIVE
        return active and self._may(request, object_id, KeyState.RETIRED)

    def has_validity_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, KeyState.RETIRED)

    @staticmethod
    def _may(request: HttpRequest, object_id: Any, state: KeyState) -> bool:
        """Return whether this person may bring the key to this state, and it can be."""
        key = row_at(Key, object_id).first()
        fits = key is not None and state in KEY_TRANSITIONS[key.state]
        return fits and bool(request.user.has_perm("keyguard.change_key"))

    @action(description="Suspend", url_path="suspend", icon="pause_circle", permissions=["suspend"])
    def suspend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Have it sign nothing for now."""
        return self._act(request, object_id, KeyVerb.SUSPEND)

    @action(
        description="Give back to work", url_path="reactivate", icon="play_circle", permissions=["reactivate"]
    )
    def reactivate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Have it sign again."""
        return self._act(request, object_id, KeyVerb.REACTIVATE)

    @action(description="Set validity", url_path="validity", icon="event", permissions=["validity"])
    def validity(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say from when until when it signs."""
        key = self.row(request, object_id)
        initial = {"not_before": key.not_before, "not_after": key.not_after}
        form = ValidityForm(request.POST or None, person=request.user, initial=initial)
        return self._act(request, object_id, KeyVerb.VALIDITY, form)

    @action(description="Hand over", url_path="rotate", icon="autorenew", permissions=["rotate"])
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Start the run that makes a key which takes over."""

        def act(pk: Any, *, actor: str, reason: str, fund_wei: Any = None) -> None:
            amount = None if fund_wei is None else int(fund_wei)
            try:
                started = start_rotation(Key.objects.get(pk=pk), actor, reason, fund_wei=amount)
            except KeyguardError as error:
                raise RefusedError(error) from error
            if isinstance(started, Question):
                _say_asked(request)
            else:
                messages.info(
                    request,
                    format_html("Begun: {}", link("admin:workflows_run_change", started.pk, "its run")),
                )

        form = RotateForm(request.POST or None, person=request.user)
        text = TEXTS[KeyVerb.ROTATE]
        return self.ask(request, object_id, "Hand over to a new key", text, act, form)

    @action(description="Destroy", url_path="destroy", icon="delete_forever", permissions=["destroy"])
    def destroy(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Destroy what it signs with."""
        return self._act(request, object_id, KeyVerb.DESTROY)

    @action(description="Retire", url_path="retire", icon="logout", permissions=["retire"])
    def retire(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Have it sign nothing any more."""
        return self._act(request, object_id, KeyVerb.RETIRE)

    @action(description="Compromised", url_path="compromised", icon="dangerous", permissions=["compromised"])
    def compromised(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say that somebody else may have it."""
        return self._act(request, object_id, KeyVerb.COMPROMISED)

    def _act(
        self, request: HttpRequest, object_id: str, verb: KeyVerb, form: forms.Form | None = None
    ) -> HttpResponse:
        def act(pk: Any, *, actor: str, reason: str, **times: Any) -> None:
            try:
                asked = lifecycle.act(Key.objects.get(pk=pk), verb, actor, reason, **times)
            except KeyguardError as error:
                raise RefusedError(error) from error
            if asked:
                _say_asked(request)

        form = form or ActForm(request.POST or None, person=request.user)
        danger = verb in (KeyVerb.RETIRE, KeyVerb.COMPROMISED, KeyVerb.DESTROY)
        title = str(verb.label)[0].upper() + str(verb.label)[1:]
        return self.ask(request, object_id, title, TEXTS[verb], act, form, danger=danger)


def _shown_seal(key: Any) -> str:
    """Return the way to the seals when one of them keeps the key from signing."""
    if not key.is_sealed or key.state != KeyState.ACTIVE:
        return ""
    seals = reverse("admin:keyguard_sealing_changelist")
    return format_html(
        '{} <a class="text-primary-600 underline" href="{}">signs nothing now</a>', badge("SEALED"), seals
    )


def _say_asked(request: HttpRequest) -> None:
    group = settings.KEYGUARD_OPERATIONS_GROUP
    messages.info(request, f"Nothing has changed yet: members of {group} are asked to approve it.")
