"""What the console lets a person enter about a schedule."""

from typing import Any

from django import forms
from django.forms.renderers import BaseRenderer
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from workflows.definition import definitions, find_definition
from workflows.redaction import restored, shown_input
from workflows.schedules.cron import zone_names
from workflows.schedules.models import Schedule


class Suggesting(UnfoldAdminTextInputWidget):  # type: ignore[misc]
    """A text field that offers what may be typed. It takes other text, too, and the check says what is wrong with it."""

    choices: tuple[str, ...] = ()

    def render(
        self, name: str, value: Any, attrs: dict[str, Any] | None = None, renderer: BaseRenderer | None = None
    ) -> SafeString:
        """Return the field with its list."""
        shown = super().render(name, value, {**(attrs or {}), "list": f"{name}-choices"}, renderer)
        options = format_html_join("", '<option value="{}">', ((choice,) for choice in self.choices))
        return format_html('{}<datalist id="{}-choices">{}</datalist>', shown, name, options)


class ScheduleForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a person decides about a schedule, and why. What is sensitive in its input is not shown again."""

    reason = forms.CharField(
        max_length=1000,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        help_text="What this is for, or what has changed. It is kept with your name.",
    )

    class Meta:
        model = Schedule
        fields = Schedule.DECIDED
        widgets = {
            "workflow": Suggesting(attrs={"autocomplete": "off"}),
            "cron": UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
            "timezone": Suggesting(attrs={"autocomplete": "off"}),
            "input": UnfoldAdminTextareaWidget(attrs={"rows": 6}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        workflows = tuple(definition.name for definition in definitions())
        for name, choices in (("workflow", workflows), ("timezone", zone_names())):
            if name in self.fields:  # a person who may only look has none
                self.fields[name].widget.choices = choices
        self.stored = self.instance.input
        if "input" in self.fields:
            # Django adds a hidden copy of a field with a default, and asks that one whether it was changed.
            self.fields["input"].show_hidden_initial = False
        if self.instance.pk:
            self.initial["input"] = shown_input(find_definition(self.instance.workflow), self.stored)

    def clean_input(self) -> Any:
        """Put what was not shown back where it was not touched."""
        try:
            return restored(self.cleaned_data["input"], self.stored)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None
