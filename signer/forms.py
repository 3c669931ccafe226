"""What the admin lets a person enter."""

from typing import Any
from urllib.parse import urlsplit

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

    heads_url = forms.CharField(
        label="Heads URL",
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text="ws:// or wss://, where it announces new blocks. Never shown either; - removes the present one.",
    )
    weight = forms.IntegerField(required=False, min_value=1, help_text="Among those at the same position.")

    class Meta:
        model = Endpoint
        fields = ("url", "heads_url", "position", "weight")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["url"] = self.initial["heads_url"] = ""

    def clean_url(self) -> str:
        url = self.cleaned_data["url"] or self.instance.url
        if not url:
            raise forms.ValidationError("A new endpoint needs a URL.")
        return str(url)

    def clean_heads_url(self) -> str:
        entered = str(self.cleaned_data["heads_url"])
        if entered == "-":
            return ""
        if entered and not (urlsplit(entered).scheme in ("ws", "wss") and urlsplit(entered).hostname):
            raise forms.ValidationError("It begins with ws:// or wss://.")
        return entered or str(self.instance.heads_url)

    def clean_weight(self) -> int:
        return int(self.cleaned_data["weight"] or self.instance.weight)
