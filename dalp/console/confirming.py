"""Dangerous acts: whoever is logged in says once more who they are, by the password and a code of their second factor.

Upholds: a screen that was left open, or a stolen session, puts nothing in force and approves nothing; a stolen password
neither, of whoever has a second factor. After five wrong tries of a person none is looked at for a quarter of an hour, the
right one neither. What is said of a wrong try does not tell which of the two was wrong.
"""

from datetime import timedelta
from typing import Any

import structlog
from django import forms
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.db import transaction
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.views.decorators.debug import sensitive_post_parameters
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from dalp import second_factor
from dalp.factor_sealing import FactorUnreadableError
from dalp.models import WrongPassword
from keyguard import KeyguardError
from keyguard.errors import VoteInvalidError
from workflows import WorkflowError

log = structlog.get_logger()

WRONG_ALLOWED = 5
WINDOW = timedelta(minutes=15)
LOCKED = "There were five wrong tries. None is looked at for up to 15 minutes. Was it you?"
WRONG = "This is not your password."
WRONG_EITHER = (
    "The password or the code is wrong, or the code was used before. Wait for the next code, then try again."
)
REFUSED_UNTIL = "There were many wrong codes in a row. None is looked at until {:%H:%M:%S} UTC. Was it you?"
UNREADABLE = (
    "Your second factor cannot be read any more: SECRET_KEY was changed. Use a backup code to replace it, "
    "or have it reset (manage.py reset_second_factor)."
)
WITHOUT = (
    "You have no password here, so you cannot confirm this. Somebody who manages people can give you one."
)


class RefusedError(WorkflowError):
    """Keyguard's refusal, as the form of an act shows it."""

    code = VoteInvalidError.code
    remedy = "Nothing was changed."

    def __init__(self, error: KeyguardError) -> None:
        super().__init__(error.message)


def why_unconfirmed(person: AbstractBaseUser | AnonymousUser, password: str, one_time_code: str = "") -> str:
    """Return why this does not confirm who it is; nothing when it does. A wrong try is counted."""
    with transaction.atomic():
        # Tries of one person go one by one: many at once would all be looked at before any is counted, and one code
        # would do for several.
        user = second_factor.locked(person.get_username())
        if not user.has_usable_password():
            return WITHOUT
        wrong = WrongPassword.objects.filter(user=user)
        if wrong.filter(at__gt=Now() - WINDOW).count() >= WRONG_ALLOWED:
            return LOCKED
        has_factor = second_factor.has_one(user)
        if has_factor and (until := second_factor.refused_until(user, one_time_code)):
            return REFUSED_UNTIL.format(until)
        try:
            if _is_right(user, password, one_time_code if has_factor else None):
                return ""
        except FactorUnreadableError:
            return UNREADABLE
        wrong.filter(at__lte=Now() - WINDOW).delete()
        wrong.create(user=user)
    log.warning("confirmation_wrong", person=user.get_username(), has_second_factor=has_factor)
    return WRONG_EITHER if has_factor else WRONG


def _is_right(user: User, password: str, one_time_code: str | None) -> bool:
    """Return whether both are right. Both are always looked at: how long it takes tells nothing."""
    knows = user.check_password(password)
    if one_time_code is None:
        return knows
    with transaction.atomic():
        has = second_factor.verify(user, one_time_code)
        if has and not knows:
            transaction.set_rollback(True)  # a code that confirmed nothing is not used up
    return knows and has


def enrolment_link(words: str) -> str:
    """Return a link to the page where a second factor is set up."""
    return format_html('<a class="underline" href="{}">{}</a>', reverse("second_factor"), words)


class CodeWidget(UnfoldAdminTextInputWidget):  # type: ignore[misc]
    """A code, which is never sent back into the page."""

    def __init__(self) -> None:
        super().__init__(attrs={"autocomplete": "one-time-code", "spellcheck": "false"})

    def format_value(self, value: Any) -> None:
        """Return nothing to begin with."""


class OwnField(forms.CharField):
    """What a person says to confirm, and no change of the row that a form edits."""

    def has_changed(self, initial: Any, data: Any) -> bool:
        return False


def password_field() -> OwnField:
    """Return the field for the person's own password."""
    return OwnField(
        label="Your password",
        strip=False,
        max_length=4096,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "current-password"}),
        help_text="Once more, so that it is you and not somebody at your screen.",
    )


def code_field() -> OwnField:
    """Return the field for a code of the person's second factor."""
    return OwnField(
        label="Code of your second factor",
        max_length=40,
        widget=CodeWidget(),
        help_text="The six digits that your authenticator shows now, or one of your backup codes.",
    )


class Confirmed(forms.BaseForm):
    """Of a form with these two fields: it does nothing before they are right. Neither goes anywhere from here."""

    person: User  # who is logged in
    password_name = "password"  # noqa: S105 - a name
    # Where a second factor is set up nobody can be asked for one.
    wants_factor = True

    def ask_to_confirm(self) -> None:
        """Ask for what this person has."""
        if not second_factor.has_one(self.person):
            self.fields.pop("one_time_code", None)
            if self.is_refused():
                self.fields[self.password_name].help_text = self.why_refused()

    def is_refused(self) -> bool:
        """Return whether this person confirms nothing for want of a second factor. Whatever is not "offered" is strict."""
        required = settings.CONSOLE_SECOND_FACTOR != "offered"
        return self.wants_factor and required and not second_factor.has_one(self.person)

    @staticmethod
    def why_refused() -> str:
        """Return what to do first."""
        return format_html(
            "Dangerous acts want a second factor here, and you have none. {}",
            enrolment_link("Set one up first."),
        )

    def clean(self) -> dict[str, Any]:
        """Check password and code when all else is right, and hand on everything but them."""
        given: dict[str, Any] = super().clean() or self.cleaned_data
        password, code = given.pop(self.password_name, ""), given.pop("one_time_code", "")
        if self.is_refused():
            self.add_error(None, self.why_refused())
        elif not self.errors and (why := why_unconfirmed(self.person, password, code)):
            self.add_error(None if "one_time_code" in self.fields else self.password_name, why)
        return given


class ConfirmForm(Confirmed, forms.Form):
    """The person's own password, and a code of their second factor where they have one."""

    password = password_field()
    one_time_code = code_field()

    def __init__(self, *args: Any, person: AbstractBaseUser | AnonymousUser, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.person = User.objects.get(username=person.get_username())
        self.ask_to_confirm()


class ConfirmedEdit(Confirmed):
    """A form of the admin that asks for both beside what it edits. Of a person the row has a password, too."""

    password_name = "your_password"  # noqa: S105 - a name

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ask_to_confirm()


def _fields_for(person: User) -> dict[str, forms.Field]:
    both: dict[str, forms.Field] = {ConfirmedEdit.password_name: password_field()}
    return {**both, "one_time_code": code_field()} if second_factor.has_one(person) else both


def confirmed(form: type[Any], user: AbstractBaseUser | AnonymousUser) -> type[Any]:
    """Return the form as this person confirms it, with the fields for that at its end."""
    person = User.objects.get(username=user.get_username())
    body = {**_fields_for(person), "person": person}
    made: type[Any] = type(form)(form.__name__, (ConfirmedEdit, form), body)  # type: ignore[misc]
    return made


class ConfirmedEdits:
    """An admin whose rows say what people may do: whoever changes one confirms that it is them."""

    form: type[Any]

    def _is_edit(self, request: HttpRequest, obj: Any) -> bool:
        return obj is not None and bool(self.has_change_permission(request, obj))  # type: ignore[attr-defined]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Return the form, with the two fields."""
        if self._is_edit(request, obj):
            kwargs["form"] = confirmed(self.form, request.user)
        return super().get_form(request, obj, change=change, **kwargs)  # type: ignore[misc]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what is shown: the two fields last."""
        shown = super().get_fieldsets(request, obj)  # type: ignore[misc]
        if not self._is_edit(request, obj):
            return shown
        names = _fields_for(User.objects.get(username=request.user.get_username()))
        return [*shown, ("So that it is you", {"fields": list(names)})]

    @method_decorator(sensitive_post_parameters())
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show or take the form. No error report tells what was typed into it."""
        answer: HttpResponse = super().changeform_view(request, *args, **kwargs)  # type: ignore[misc]
        return answer
