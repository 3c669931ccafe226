"""A person's own second factor: whether there is one, setting one up, new backup codes, taking it away. Nobody else's."""

from collections.abc import Sequence
from typing import Any

import segno
from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite, site
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.views.decorators.debug import sensitive_post_parameters

from dalp import second_factor
from dalp.console.confirming import CodeWidget, ConfirmForm
from dalp.factor_sealing import FactorUnreadableError
from dalp.second_factor import FactorChangedError

CHANGED = "It was changed in another window meanwhile. Go back and look at what there is."
ENROL = (
    "Scan the QR code with an authenticator app on your phone, or type the secret into it. It then shows a new code every "
    "half minute. From the first one on, the login and dangerous acts ask you for such a code beside your password."
)
REPLACE = " The authenticator and the backup codes that you have now are worth nothing afterwards."
REMOVE = "The login then asks for your password alone. Dangerous acts are confirmed by it alone, or refused where a second factor is required. The backup codes are worth nothing any more."
CODES = "The backup codes that you have now are worth nothing afterwards."


class EnrolForm(ConfirmForm):
    """The first code of a new authenticator, the password, and a code of the present one if there is one."""

    # The secret of this very page, encrypted for this person. It is nowhere else until a code comes with it.
    sealed = forms.CharField(widget=forms.HiddenInput(), max_length=80)
    first_code = forms.CharField(
        label="Code that the new authenticator shows",
        max_length=12,
        widget=CodeWidget(),
        help_text="Six digits. It shows that the secret has arrived there.",
    )
    field_order = ("sealed", "first_code", "password", "one_time_code")
    wants_factor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        present = second_factor.authenticator(self.person)
        self.replaced = present.pk if present else None
        if self.replaced:
            self.fields["one_time_code"].label = "Code of your present second factor"

    def clean(self) -> dict[str, Any]:
        """Look at the new authenticator's code first: it costs nothing to type another one."""
        if not self.errors:
            given = self.cleaned_data
            self.used = second_factor.state_after(self.person, given["sealed"], given["first_code"])
            if self.used is None:
                why = "The new authenticator shows no such code now. Is the clock of your phone right?"
                self.add_error("first_code", why)
        return super().clean()


def page(request: HttpRequest) -> HttpResponse:
    """Show whether this person has a second factor, and what they may do with it."""
    person = _person(request)
    context = {
        **site.each_context(request),
        "title": "Your second factor",
        "device": second_factor.authenticator(person),
        "left": second_factor.codes_left(person),
        "is_refused": ConfirmForm(person=person).is_refused(),
    }
    return render(request, "console/second_factor.html", context)


@sensitive_post_parameters()
def enrol(request: HttpRequest) -> HttpResponse:
    """Show a new secret; with its first code, the password and a code of the present one, it takes its place."""
    person = _person(request)
    posted = request.method == "POST"
    sealed = request.POST.get("sealed", "") if posted else second_factor.new_secret(person)
    try:
        uri, secret = second_factor.to_scan(person, sealed)
    except FactorUnreadableError:
        messages.error(request, "That page was too old. This one has another secret: scan it anew.")
        return redirect("second_factor_enrol")
    form = EnrolForm(request.POST or None, person=person, initial={"sealed": sealed})
    if posted and form.is_valid() and form.used is not None:
        try:
            return _show(request, second_factor.enrol(person, sealed, form.used, form.replaced))
        except FactorChangedError:
            form.add_error(None, CHANGED)
    picture = segno.make(uri, micro=False).svg_data_uri(scale=5, border=4, dark="#000", light="#fff")
    facts = [
        ("QR code", format_html('<img src="{}" alt="the secret as a QR code" width="265">', picture)),
        ("The secret, to type", format_html('<code class="font-mono">{}</code>', secret)),
    ]
    title = "Replace your second factor" if form.replaced else "Set up a second factor"
    return _ask(request, title, ENROL + (REPLACE if form.replaced else ""), form, facts=facts)


@sensitive_post_parameters()
def codes(request: HttpRequest) -> HttpResponse:
    """Make new backup codes."""
    form = _form(request)
    if form is None:
        return redirect("second_factor")
    if request.method == "POST" and form.is_valid():
        try:
            return _show(request, second_factor.renew_codes(form.person))
        except FactorChangedError:
            form.add_error(None, CHANGED)
    return _ask(request, "Make new backup codes", CODES, form)


@sensitive_post_parameters()
def remove(request: HttpRequest) -> HttpResponse:
    """Take the second factor away."""
    form = _form(request)
    if form is None:
        return redirect("second_factor")
    if request.method == "POST" and form.is_valid():
        second_factor.remove(form.person)
        messages.success(request, "You have no second factor any more.")
        return redirect("second_factor")
    return _ask(request, "Remove your second factor", REMOVE, form, danger=True)


def urls(admin_site: AdminSite) -> list[URLPattern]:
    """Return the addresses of these pages; whoever may open the console may open them, of their own."""
    views = {"": page, "enrol/": enrol, "codes/": codes, "remove/": remove}
    return [
        path(
            f"admin/second-factor/{end}",
            admin_site.admin_view(view),
            name=f"second_factor_{end}".strip("_/"),
        )
        for end, view in views.items()
    ]


def _person(request: HttpRequest) -> User:
    return User.objects.get(username=request.user.get_username())


def _form(request: HttpRequest) -> ConfirmForm | None:
    """Return what confirms it; nothing where there is no second factor to change."""
    form = ConfirmForm(request.POST or None, person=request.user)
    return form if "one_time_code" in form.fields else None


def _ask(
    request: HttpRequest,
    title: str,
    text: str,
    form: ConfirmForm,
    *,
    danger: bool = False,
    facts: Sequence[tuple[str, str]] = (),
) -> HttpResponse:
    context = {
        **site.each_context(request),
        "title": title,
        "row": f"Second factor of {form.person.get_username()}",
        "facts": facts,
        "text": text,
        "form": form,
        "danger": danger,
        "back": reverse("second_factor"),
    }
    return render(request, "workflows/act.html", context)


def _show(request: HttpRequest, backup_codes: list[str]) -> HttpResponse:
    """Show the codes, this once."""
    lines = format_html_join("", "<li><code>{}</code></li>", ((code,) for code in backup_codes))
    words = (
        "The login and dangerous acts ask you for a code. Keep these backup codes where your phone is not: each stands in for a code of "
        "the authenticator, once. They are shown this one time."
    )
    context = {
        **site.each_context(request),
        "title": "Your backup codes",
        "row": f"Second factor of {request.user.get_username()}",
        "body": format_html('<p class="mb-4">{}</p><ol class="mb-4">{}</ol>', words, lines),
        "back": reverse("second_factor"),
    }
    return render(request, "console/page.html", context)
