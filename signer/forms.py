"""What the admin lets a person enter."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextInputWidget

from signer.models import Endpoint


class EndpointForm(forms.ModelForm):  # type: ignore[type-arg]
    """Takes a URL and shows none."""

    url = forms.URLField(
        label="URL",
        required=False,
        assume_scheme="https",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text="Stored and never shown again. Leave empty to keep the present one.",
    )

    class Meta:
        model = Endpoint
        fields = ("url", "position")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["url"] = ""

    def clean_url(self) -> str:
        url = self.cleaned_data["url"] or self.instance.url
        if not url:
            raise forms.ValidationError("A new endpoint needs a URL.")
        return str(url)
