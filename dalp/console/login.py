"""Logging in to the console: name, password, and a code of whoever has a second factor."""

from typing import Any

import structlog
from django import forms
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import transaction
from unfold.forms import AuthenticationForm

from dalp import second_factor
from dalp.console.confirming import UNREADABLE, CodeWidget
from dalp.factor_sealing import FactorUnreadableError

log = structlog.get_logger()

INVALID = (
    "Name, password or code is wrong, or the code was used before. Wait for the next code, then try again."
)


class LoginForm(AuthenticationForm):  # type: ignore[misc]
    """What is said of a wrong try does not tell what was wrong; wrong codes are counted and slowed down by django-otp."""

    error_messages = {**AuthenticationForm.error_messages, "invalid_login": INVALID}
    one_time_code = forms.CharField(
        label="Code of your second factor",
        required=False,
        max_length=40,
        widget=CodeWidget(),
        help_text="If you have set one up: the six digits that your authenticator shows, or a backup code.",
    )

    def confirm_login_allowed(self, user: AbstractBaseUser) -> None:
        """Refuse whoever has a second factor and does not show it. The password was right."""
        super().confirm_login_allowed(user)
        try:
            with transaction.atomic():
                person = second_factor.locked(user.get_username())
                given: Any = self.cleaned_data.get("one_time_code", "")
                is_right = not second_factor.has_one(person) or second_factor.verify(person, given)
        except FactorUnreadableError:
            raise forms.ValidationError(UNREADABLE) from None
        if not is_right:
            log.warning("login_code_wrong", person=user.get_username())
            raise self.get_invalid_login_error()
