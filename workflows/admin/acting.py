"""Acts of people: a page that says what will happen, asks why, does it, and says what came of it."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from workflows.admin.data import listed_errors
from workflows.errors import InvalidInputError, WorkflowError

Act = Callable[..., Any]


class JsonField(forms.JSONField):
    """A JSON value as a person reads it: indented, in any script."""

    def __init__(self, *, rows: int, help_text: str = "JSON", **kwargs: Any) -> None:
        widget = UnfoldAdminTextareaWidget(attrs={"rows": rows, "class": "font-mono text-xs"})
        super().__init__(widget=widget, help_text=help_text, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        """Return the text to edit; what was typed and is no JSON, as it was typed."""
        if value is None:
            return ""
        is_typed = isinstance(value, forms.fields.InvalidJSONInput)
        return value if is_typed else json.dumps(value, indent=2, ensure_ascii=False)


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
    payload = JsonField(required=False, rows=4, help_text="JSON; empty: nothing")
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

    value = JsonField(required=False, rows=6)
    field_order = ("value", "reason")


class InputForm(ReasonForm):
    """A run's input, to be corrected."""

    input = JsonField(rows=12)
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
        help_text="how many are taken up in the window; empty: any number",
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


def row_at(model: type[Model], object_id: Any) -> "QuerySet[Any]":
    """Return the row that an address names, as a queryset; an empty one where there can be no such row."""
    assert model._meta.pk is not None
    try:
        key = model._meta.pk.to_python(unquote(str(object_id)))
    except ValidationError:
        return model._default_manager.none()
    return model._default_manager.filter(pk=key)


class Acting:
    """An admin with acts on its rows."""

    def ask(
        self,
        request: HttpRequest,
        object_id: str,
        title: str,
        text: str,
        act: Act,
        form: forms.Form | None = None,
        *,
        danger: bool = False,
        facts: Sequence[tuple[str, str]] = (),
    ) -> HttpResponse:
        """Show the form; when it is filled in, call `act(row's key, actor=, reason=, …)` and go back to the row.

        facts: what a person has to see in order to decide, each with its name.
        """
        form = ReasonForm(request.POST or None) if form is None else form
        row = self.row(request, object_id)
        if request.method == "POST" and form.is_valid() and carry_out(request, title, act, row.pk, form):
            return redirect(request.path.rsplit("/", 2)[0] + "/change/")
        context = {
            **self.admin_site.each_context(request),  # type: ignore[attr-defined]
            "title": title,
            "opts": self.model._meta,  # type: ignore[attr-defined]
            "row": row,
            "facts": facts,
            "text": text,
            "form": form,
            "danger": danger,
            "back": request.path.rsplit("/", 2)[0] + "/change/",
        }
        return render(request, "workflows/act.html", context)

    def row(self, request: HttpRequest, object_id: str) -> Any:
        """Return the row that an address names. Raises Http404."""
        row = self.get_object(request, unquote(object_id))  # type: ignore[attr-defined]
        if row is None:
            raise Http404(f"there is no {self.model._meta.verbose_name} {object_id}")  # type: ignore[attr-defined]
        return row


def carry_out(request: HttpRequest, title: str, act: Act, target: Any, form: forms.Form) -> bool:
    """Do what was asked, and say what came of it; return whether it was done."""
    if not request.user.is_authenticated:
        raise PermissionDenied
    try:
        act(target, actor=request.user.get_username(), **form.cleaned_data)
    except WorkflowError as error:
        wrong = listed_errors(error.errors) if isinstance(error, InvalidInputError) else []
        # The errors say themselves which fields to correct; everything else says what helps.
        form.add_error(None, f"{error.message}. {'; '.join(wrong) or error.remedy}")
        return False
    messages.success(request, f"{title}: done.")
    return True
