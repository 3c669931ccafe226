"""Keys in the console: who they are, whether they may sign, and taking one out of service or giving it back."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSplitDateTimeWidget

from dalp.console.confirming import ConfirmForm, RefusedError
from keyguard import KeyguardError, lifecycle
from keyguard.models import Key, KeyAct, KeyMaterial
from keyguard.policies.models import Question
from keyguard.states import KEY_TRANSITIONS, KeyState, KeyVerb, QuestionKind, QuestionState
from workflows.admin.acting import Acting, ReasonForm, row_at
from workflows.cells import STATE_COLOURS, ReadOnly, badge, link

STATE_COLOURS.update({"COMPROMISED": "danger", "SUSPENDED": "warning"})

TEXTS = {
    KeyVerb.SUSPEND: "It signs nothing from this moment on, until it is given back to work. What waits for it waits on.",
    KeyVerb.REACTIVATE: "It signs again from this moment on. Give it back only when it is known why it was suspended.",
    KeyVerb.RETIRE: "It never signs again. Hand its roles over to another key first; what waits for it fails.",
    KeyVerb.COMPROMISED: "It never signs again, by no way. Hand what its address holds over first if there is time: afterwards this key cannot do it.",
    KeyVerb.VALIDITY: "It signs between these instants (UTC) and at no other; an empty one is no limit.",
}


def asked_of(question: Question) -> str:
    """Return an act on a key that people are asked about, in a sentence."""
    shown = question.shown
    times = [
        f"{name.replace('_', ' ')} {shown[name] or 'no limit'}"
        for name in ("not_before", "not_after")
        if name in shown
    ]
    what = f"{KeyVerb(shown['verb']).label}: the key {shown['key']} ({shown['address']})"
    return f"{', '.join([what, *times])}. {question.asked_by} says: {shown['reason']}"


class ActForm(ConfirmForm, ReasonForm):
    """Why, and the password again."""

    field_order: Any = ("reason", "password")


class ValidityForm(ActForm):
    """From when until when."""

    not_before = forms.SplitDateTimeField(required=False, widget=UnfoldAdminSplitDateTimeWidget())
    not_after = forms.SplitDateTimeField(required=False, widget=UnfoldAdminSplitDateTimeWidget())
    field_order = ("not_before", "not_after", "reason", "password")


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
    list_display = ("alias", "address", "shown_state", "not_after", "backend", "origin", "created_at")
    fields = (
        "alias",
        "address",
        "shown_state",
        "shown_question",
        "not_before",
        "not_after",
        "backend",
        "backend_ref",
        "origin",
        "id",
        "created_at",
    )
    readonly_fields = fields
    inlines = (KeyActInline, KeyMaterialInline)
    actions_detail = ("suspend", "reactivate", "validity", "retire", "compromised")

    @display(description="State", ordering="state")
    def shown_state(self, key: Key) -> str:
        """Return the state, and why."""
        return format_html("{} {}", badge(key.state), key.state_reason)

    @display(description="Waits for approval")
    def shown_question(self, key: Key) -> str:
        """Return what people are asked about the key now."""
        question = Question.objects.filter(key=key, kind=QuestionKind.KEY, state=QuestionState.OPEN).first()
        if question is None:
            return "nothing"
        return link("admin:keyguard_question_change", question.pk, asked_of(question))

    def has_suspend_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, KeyState.SUSPENDED)

    def has_reactivate_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, KeyState.ACTIVE)

    def has_retire_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, KeyState.RETIRED)

    def has_compromised_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, KeyState.COMPROMISED)

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
                group = settings.KEYGUARD_OPERATIONS_GROUP
                messages.info(
                    request, f"Nothing has changed yet: members of {group} are asked to approve it."
                )

        form = form or ActForm(request.POST or None, person=request.user)
        danger = verb in (KeyVerb.RETIRE, KeyVerb.COMPROMISED)
        title = str(verb.label)[0].upper() + str(verb.label)[1:]
        return self.ask(request, object_id, title, TEXTS[verb], act, form, danger=danger)
