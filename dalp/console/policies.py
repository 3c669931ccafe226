"""Policies in the console: which is in force, what it says, what another one would change, and putting it in force."""

import json
from collections.abc import Mapping
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.forms.renderers import BaseRenderer
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget

from dalp.console.confirming import ConfirmForm, RefusedError
from dalp.console.limits import limits_table
from dalp.console.rehearsing import rehearsal_table
from keyguard import KeyguardError
from keyguard.errors import PolicyInvalidError
from keyguard.policies import describing, publishing
from keyguard.policies.deciding import active_policy
from keyguard.policies.models import Policy, Question
from keyguard.states import PolicyState, QuestionKind, QuestionState
from signer import json_of_others
from workflows.admin.acting import Acting, JsonField, row_at
from workflows.cells import STATE_COLOURS, ReadOnly, badge, code_block, link

STATE_COLOURS.update({"DRAFT": "info", "RETIRED": "default"})
HOW = "docs/policies.md describes every field. Nothing changes by storing a draft."


def rules_table(policy: Policy, before: Policy | None = None) -> str:
    """Return the rules, one line each. before: the version to which what is new, changed or gone is told."""
    marks = describing.changes(before.body["rules"], policy.body["rules"]) if before else {}
    old = {rule["name"]: rule for rule in before.body["rules"]} if before else {}
    gone = [old[name] for name, mark in marks.items() if mark == "gone"]
    rules = [_line(rule, marks, old) for rule in [*policy.body["rules"], *gone]]
    rules.sort(key=lambda rule: not rule["mark"])  # what is other than before comes first
    return render_to_string("console/rules.html", {"rules": rules, "marked": before is not None})


def _line(rule: Mapping[str, Any], marks: Mapping[str, str], old: Mapping[str, Any]) -> dict[str, str]:
    name, mark = rule["name"], marks.get(rule["name"], "")
    return {
        "name": name,
        "words": describing.sentence(rule),
        "note": str(rule.get("note", "")),
        "mark": mark,
        "before": describing.sentence(old[name]) if mark == "changed" else "",
    }


def answer_words(question: Question) -> str:
    """Return how a question stands, in words that fit what it is about."""
    if question.kind == QuestionKind.POLICY and question.state == QuestionState.USED:
        return "approved, and put in force"
    if question.kind != QuestionKind.SIGNATURE and question.state == QuestionState.USED:
        return "approved, and done"
    return str(question.get_state_display())


class RehearsedWidget(UnfoldAdminTextareaWidget):  # type: ignore[misc]
    """The text of a policy with the button that rehearses it."""

    def render(
        self, name: str, value: Any, attrs: dict[str, Any] | None = None, renderer: BaseRenderer | None = None
    ) -> SafeString:
        """Return the area and its button."""
        button = (
            '{}<button type="submit" name="_rehearse" value="1" formnovalidate class="mt-2 px-3 py-2 rounded-default '
            'border border-primary-600 text-primary-600 font-medium">Rehearse, without storing</button>'
        )
        return format_html(button, super().render(name, value, attrs, renderer))


class PolicyField(JsonField):
    """A policy's text. What is wrong with it is told with its place; nothing is guessed."""

    def to_python(self, value: Any) -> Any:
        """Return the JSON. A name that is given twice is refused: the first would be dropped in silence."""
        if value in self.empty_values:
            return None
        try:
            _refuse_depth(value)
            body = json.loads(value, object_pairs_hook=_unique, parse_constant=_refuse)
            if "\x00" in json.dumps(body, ensure_ascii=False).encode().decode() or "\\u0000" in value:
                raise ValueError("it has a character that the database cannot hold")
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(f"This is no JSON: {error}") from None
        return body


def _refuse_depth(text: str) -> None:
    """Refuse what is nested so deeply that Python's own parser would end the process."""
    try:
        json_of_others.parse(text)
    except ValueError as error:
        if "recursion" in str(error):
            raise


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"{next(name for name in names if names.count(name) > 1)[:80]!r} is given twice in one object"
        )
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


class PolicyForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new version. Rehearsed, nothing is stored."""

    body = PolicyField(rows=32, help_text=HOW, label="Rules")

    class Meta:
        model = Policy
        fields = ("body", "note")
        widgets = {"note": UnfoldAdminTextareaWidget(attrs={"rows": 2})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_rehearsal = "_rehearse" in self.data
        attrs = {"rows": 32, "style": "font-family: monospace", "spellcheck": "false"}
        self.fields["body"].widget = RehearsedWidget(attrs=attrs)
        if "note" in self.fields:
            self.fields["note"].required = not self.is_rehearsal

    def is_valid(self) -> bool:
        """Return False for a rehearsal: the form is shown again, with what came of it."""
        return super().is_valid() and not self.is_rehearsal

    def clean_body(self) -> Any:
        """Refuse what is not understood, with its place."""
        body = self.cleaned_data["body"]
        try:
            publishing.check(body)
        except PolicyInvalidError as error:
            raise forms.ValidationError(error.message) from None
        self.instance.is_rehearsed = self.is_rehearsal
        return body


@admin.register(Policy)
class PolicyAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """The versions of the policy. A version never changes: whoever wants another one writes another one."""

    form = PolicyForm
    list_display = ("shown_number", "shown_state", "shown_since", "author", "note", "shown_count")
    list_filter = ("state",)
    search_fields = ("note", "author", "hash__iexact")
    search_help_text = "words of the note, author, hash"
    actions_detail = ("rehearse", "put_in_force")
    readonly_fields = (
        "shown_now", "author", "created_at", "shown_note", "hash", "shown_rules", "shown_limits", "shown_body",
        "shown_rehearsal",
    )  # fmt: skip
    adding = (
        ("The new version", {"fields": ("body", "note")}),
        ("Rehearsal", {"fields": ("shown_rehearsal",)}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Policy | None = None) -> Any:
        """Return what to enter, or what there is."""
        if obj is None:
            return self.adding
        limits = (("Limits now", {"fields": ("shown_limits",)}),) if obj.state == PolicyState.ACTIVE else ()
        return (
            ("Now", {"fields": ("shown_now", "shown_note", "author", "created_at")}),
            ("What it says", {"fields": ("shown_rules",)}),
            *limits,
            ("Its text", {"fields": ("shown_body", "hash")}),
        )

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this person may write versions."""
        return bool(request.user.has_perm("keyguard.add_policy"))

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the editor, with one button that stores."""
        buttons = {"show_save_and_add_another": False, "show_save_and_continue": False}
        answer: HttpResponse = super().add_view(
            request, form_url, {**(extra_context or {}), **buttons, "title": "New version of the policy"}
        )
        return answer

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Return the text in force, which a new version begins with."""
        active = active_policy()
        return {"body": active.body if active else {"rules": []}}

    def save_model(self, request: HttpRequest, obj: Policy, form: Any, change: bool) -> None:
        """Store a draft."""
        stored = publishing.draft(obj.body, request.user.get_username(), obj.note)
        obj.pk, obj.number, obj._state.adding = stored.pk, stored.number, False

    def response_add(self, request: HttpRequest, obj: Policy, post_url_continue: Any = None) -> HttpResponse:
        """Go to the draft."""
        messages.success(
            request, f"{obj} is stored as a draft. It decides nothing yet: rehearse it, then put it in force."
        )
        return redirect("admin:keyguard_policy_change", obj.pk)

    @display(description="Version", ordering="number")
    def shown_number(self, policy: Policy) -> str:
        return f"policy {policy.number}"

    @display(description="State", ordering="state")
    def shown_state(self, policy: Policy) -> str:
        return badge(policy.state)

    @display(description="Since, UTC", ordering="activated_at")
    def shown_since(self, policy: Policy) -> str:
        since = policy.retired_at or policy.activated_at or policy.created_at
        return f"{since:%Y-%m-%d %H:%M:%S}"

    @display(description="Rules")
    def shown_count(self, policy: Policy) -> int:
        return len(policy.body["rules"])

    @display(description="Note")
    def shown_note(self, policy: Policy) -> str:
        return policy.note or "none"

    @display(description="State")
    def shown_now(self, policy: Policy) -> str:
        """Return what it decides, and what it waits for."""
        if policy.state == PolicyState.ACTIVE:
            said = (
                f"in force since {policy.activated_at or policy.created_at:%Y-%m-%d %H:%M:%S} UTC: it decides"
            )
        elif policy.state == PolicyState.RETIRED:
            said = f"decides nothing since {policy.retired_at:%Y-%m-%d %H:%M:%S} UTC"
        else:
            said = "a draft: it decides nothing"
        asked = policy.questions.filter(kind=QuestionKind.POLICY).first()
        if asked is None:
            return format_html("{} {}", badge(policy.state), said)
        words = f"{asked.asked_by} asked to put it in force: {answer_words(asked)}"
        return format_html(
            "{} {}; {}", badge(policy.state), said, link("admin:keyguard_question_change", asked.pk, words)
        )

    @display(description="Rules")
    def shown_rules(self, policy: Policy) -> str:
        """Return the rules in words; of a draft, beside those in force."""
        return rules_table(policy, active_policy() if policy.state == PolicyState.DRAFT else None)

    @display(description="Left")
    def shown_limits(self, policy: Policy) -> str:
        return limits_table(policy)

    @display(description="JSON")
    def shown_body(self, policy: Policy) -> str:
        return code_block(policy.body)

    @display(description="What came of it")
    def shown_rehearsal(self, policy: Policy) -> str:
        """Return what the text that is being written would change."""
        if not getattr(policy, "is_rehearsed", False):
            return "Rehearse the text above: nothing is stored by that."
        return rehearsal_table(policy)

    def has_rehearse_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Whether there is something to rehearse."""
        drafts = row_at(Policy, object_id).filter(state=PolicyState.DRAFT)
        return bool(request.user.has_perm("keyguard.view_policy")) and drafts.exists()

    def has_propose_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Whether this person may put it in force, or ask that it be put in force, and nobody has asked yet."""
        drafts = row_at(Policy, object_id).filter(state=PolicyState.DRAFT)
        free = drafts.exclude(questions__state=QuestionState.OPEN)
        return bool(request.user.has_perm("keyguard.change_policy")) and free.exists()

    @action(description="Rehearse", url_path="rehearse", icon="theaters", permissions=["rehearse"])
    def rehearse(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show what would have been decided otherwise."""
        policy = self.row(request, object_id)
        context = {
            **self.admin_site.each_context(request),
            "title": "Rehearsal",
            "opts": self.model._meta,
            "row": policy,
            "body": rehearsal_table(policy),
            "back": reverse("admin:keyguard_policy_change", args=[policy.pk]),
        }
        return render(request, "console/page.html", context)

    @action(description="Put in force", url_path="in-force", icon="gavel", permissions=["propose"])
    def put_in_force(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Have it decide, or have people asked whether it may."""
        policy, group = self.row(request, object_id), settings.KEYGUARD_POLICY_GROUP
        facts = [
            ("What changes", rules_table(policy, active_policy())),
            ("What would have been decided otherwise", rehearsal_table(policy)),
        ]
        if group:
            text = f"It is not in force by this: {settings.KEYGUARD_POLICY_APPROVALS} of the group {group} must approve it first, neither you nor its author among them."
        else:
            text = "Nobody is asked (KEYGUARD_POLICY_GROUP is empty): it decides about every signature from this moment on."
        form = ConfirmForm(request.POST or None, person=request.user)
        title = "Ask to put it in force" if group else "Put it in force"

        def act(pk: Any, *, actor: str) -> None:
            try:
                asked = publishing.propose(Policy.objects.get(pk=pk), actor)
            except KeyguardError as error:
                raise RefusedError(error) from error
            if asked:
                messages.info(
                    request,
                    f"It waits for {settings.KEYGUARD_POLICY_APPROVALS} of the group {group}, until {asked.expires_at:%Y-%m-%d %H:%M} UTC.",
                )
            else:
                messages.info(request, f"{policy} is in force.")

        return self.ask(request, object_id, title, text, act, form, facts=facts, danger=True)
