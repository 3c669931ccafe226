"""Edits that say why: what was changed, by whom and for what reason is on record."""

from typing import Any

from django import forms
from django.http import HttpRequest
from unfold.widgets import UnfoldAdminTextareaWidget

from signer import acts


class ReasonedForm(forms.ModelForm):  # type: ignore[type-arg]
    """An edit that says why."""

    reason = forms.CharField(
        max_length=1000,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        help_text="It is kept with your name.",
    )


class Reasoned:
    """An admin whose edits are on record, and which writes only what was edited: workers write the rest."""

    verb: str

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Store what was entered, and who changed what, and why."""
        changed = [name for name in form.changed_data if name != "reason"]
        if change:
            obj.save(update_fields=changed)
        else:
            self.before_adding(request, obj)
            obj.save()
        acts.note(
            request.user.get_username(),
            self.verb,
            form.cleaned_data["reason"],
            lane=getattr(obj, "lane", None),
            details={name: str(getattr(obj, name)) for name in changed} | self.about(obj),
        )

    def about(self, obj: Any) -> dict[str, str]:
        """Return what the record has to name besides, where it is not a lane's."""
        return {}

    def before_adding(self, request: HttpRequest, obj: Any) -> None:
        """Set what is set once."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
