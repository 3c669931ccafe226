"""Acts of people: a page that says what will happen, asks why, does it, and says what came of it."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from workflows.errors import WorkflowError

Act = Callable[..., Any]


class ReasonForm(forms.Form):
    """Why a person intervenes; goes into the history."""

    reason = forms.CharField(
        max_length=1000,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="What was wrong, what has changed. It is kept with your name.",
    )
    field_order: Any = None


class SignalForm(ReasonForm):
    """A signal to a run."""

    name = forms.CharField(max_length=100, widget=UnfoldAdminTextInputWidget())
    payload = forms.JSONField(
        required=False, widget=UnfoldAdminTextareaWidget(attrs={"rows": 4}), help_text="JSON"
    )
    field_order = ("name", "payload", "reason")


class ForkForm(ReasonForm):
    """Where a fork begins."""

    from_step = forms.ChoiceField(label="Begin at", widget=UnfoldAdminSelectWidget())
    field_order = ("from_step", "reason")

    def __init__(self, *args: Any, steps: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["from_step"].choices = [(step, step) for step in steps]  # type: ignore[attr-defined]


class ValueForm(ReasonForm):
    """The output that a person gives to a step."""

    value = forms.JSONField(
        required=False, widget=UnfoldAdminTextareaWidget(attrs={"rows": 6}), help_text="JSON"
    )
    field_order = ("value", "reason")


class InputForm(ReasonForm):
    """A run's input, to be corrected."""

    input = forms.JSONField(widget=UnfoldAdminTextareaWidget(attrs={"rows": 12}), help_text="JSON")
    field_order = ("input", "reason")


class LimitForm(ReasonForm):
    """How many at once, and how often."""

    concurrency = forms.IntegerField(
        min_value=1,
        required=False,
        widget=UnfoldAdminIntegerFieldWidget(),
        help_text="runs at once; empty: any number",
    )
    rate = forms.IntegerField(
        min_value=1,
        required=False,
        widget=UnfoldAdminIntegerFieldWidget(),
        help_text="turns in the window; empty: any number",
    )
    per_seconds = forms.IntegerField(
        min_value=1, initial=1, widget=UnfoldAdminIntegerFieldWidget(), help_text="the window, in seconds"
    )
    field_order: Any = ("concurrency", "rate", "per_seconds", "reason")


class ScopeForm(LimitForm):
    """What is limited."""

    KINDS = (("queue", "queue"), ("workflow", "workflow"), ("key", "key of a virtual object"))
    kind = forms.ChoiceField(choices=KINDS, widget=UnfoldAdminSelectWidget())
    name = forms.CharField(max_length=250, widget=UnfoldAdminTextInputWidget())
    paused = forms.BooleanField(required=False, help_text="let nothing of it go on")
    field_order = ("kind", "name", "paused", "concurrency", "rate", "per_seconds", "reason")


class Acting:
    """An admin with acts on its rows."""

    def ask(
        self,
        request: HttpRequest,
        object_id: str,
        title: str,
        text: str,
        act: Act,
        form: ReasonForm | None = None,
        *,
        danger: bool = False,
    ) -> HttpResponse:
        """Show the form; when it is filled in, call `act(object_id, actor=, reason=, …)` and go back to the row."""
        form = ReasonForm(request.POST or None) if form is None else form
        row = self.get_object(request, object_id)  # type: ignore[attr-defined]
        if request.method == "POST" and form.is_valid() and carry_out(request, title, act, object_id, form):
            return redirect(request.path.rsplit("/", 2)[0] + "/change/")
        context = {
            **self.admin_site.each_context(request),  # type: ignore[attr-defined]
            "title": title,
            "opts": self.model._meta,  # type: ignore[attr-defined]
            "row": row,
            "text": text,
            "form": form,
            "danger": danger,
            "back": request.path.rsplit("/", 2)[0] + "/change/",
        }
        return render(request, "workflows/act.html", context)


def carry_out(request: HttpRequest, title: str, act: Act, target: Any, form: ReasonForm) -> bool:
    """Do what was asked, and say what came of it; return whether it was done."""
    if not request.user.is_authenticated:
        raise PermissionDenied
    try:
        act(target, actor=request.user.get_username(), **form.cleaned_data)
    except WorkflowError as error:
        form.add_error(None, f"{error.message}. {error.remedy}")
        return False
    messages.success(request, f"{title}: done.")
    return True
