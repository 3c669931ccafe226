"""Dangerous acts: whoever is logged in says once more who they are.

Upholds: a screen that was left open, or a stolen session, puts nothing in force and approves nothing. After five wrong
passwords of a person none is looked at for a quarter of an hour, the right one neither.
"""

from datetime import timedelta
from typing import Any

import structlog
from django import forms
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.db import transaction
from django.db.models.functions import Now
from unfold.widgets import UnfoldAdminPasswordWidget

from dalp.models import WrongPassword
from keyguard import KeyguardError
from keyguard.errors import VoteInvalidError
from workflows import WorkflowError

log = structlog.get_logger()

WRONG_ALLOWED = 5
WINDOW = timedelta(minutes=15)
LOCKED = "There were five wrong passwords. None is looked at for up to 15 minutes. Was it you?"
WRONG = "This is not your password."
WITHOUT = (
    "You have no password here, so you cannot confirm this. Somebody who manages people can give you one."
)


class RefusedError(WorkflowError):
    """Keyguard's refusal, as the form of an act shows it."""

    code = VoteInvalidError.code
    remedy = "Nothing was changed."

    def __init__(self, error: KeyguardError) -> None:
        super().__init__(error.message)


def why_unconfirmed(person: AbstractBaseUser | AnonymousUser, password: str) -> str:
    """Return why this does not confirm who it is; nothing when it does. A wrong password is counted."""
    with transaction.atomic():
        # Tries of one person go one by one: many at once would all be looked at before any is counted.
        user = User.objects.select_for_update(no_key=True).get(username=person.get_username())
        if not user.has_usable_password():
            return WITHOUT
        wrong = WrongPassword.objects.filter(user=user)
        if wrong.filter(at__gt=Now() - WINDOW).count() >= WRONG_ALLOWED:
            return LOCKED
        if user.check_password(password):
            return ""
        wrong.filter(at__lte=Now() - WINDOW).delete()
        wrong.create(user=user)
    log.warning("password_wrong", person=user.get_username())
    return WRONG


class ConfirmForm(forms.Form):
    """The person's own password, which goes nowhere from here."""

    password = forms.CharField(
        label="Your password",
        strip=False,
        max_length=4096,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "current-password"}),
        help_text="Once more, so that it is you and not somebody at your screen.",
    )

    def __init__(self, *args: Any, person: AbstractBaseUser | AnonymousUser, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.person = person

    def clean(self) -> dict[str, Any]:
        """Check the password when all else is right, and hand on everything but it."""
        given = super().clean() or self.cleaned_data
        password = given.pop("password", "")
        if not self.errors and (why := why_unconfirmed(self.person, password)):
            self.add_error("password", why)
        return given
