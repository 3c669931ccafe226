"""Second factors of people, for tests: a phone that shows codes."""

import re
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db.models import F
from django.test import Client
from django.utils import timezone
from django_otp.oath import TOTP

from dalp import factor_sealing, second_factor
from dalp.models import Authenticator, BackupCodes
from tests.integration.keyguard.people import PASSWORD, text_of

PAGE = "/admin/second-factor/"
ENROL, CODES, REMOVE = (f"{PAGE}{end}/" for end in ("enrol", "codes", "remove"))


def shown(person: User, sealed: str, steps: int = 0) -> str:
    """Return the code that the phone shows, or that it shows so many half minutes later."""
    totp = TOTP(factor_sealing.unseal(sealed, person.pk), drift=steps)
    return f"{totp.token():06}"


def code_of(person: User) -> str:
    """Return the code of the person's authenticator now; one that was used is long ago."""
    long_ago(person)
    return shown(person, Authenticator.objects.get(user=person).key)


def wrong_code_of(person: User) -> str:
    """Return six digits that are no code of this hour."""
    sealed = Authenticator.objects.get(user=person).key
    codes = {shown(person, sealed, steps) for steps in range(-60, 60)}
    return next(code for number in range(1000) if (code := f"{number:06}") not in codes)


def long_ago(person: User) -> None:
    """Let what the devices remember be an hour ago."""
    Authenticator.objects.filter(user=person).update(last_t=F("last_t") - 120, drift=0)
    for model in (Authenticator, BackupCodes):
        model.objects.filter(user=person, throttling_failure_timestamp__isnull=False).update(
            throttling_failure_timestamp=timezone.now() - timedelta(hours=1)
        )


def given(person: User) -> list[str]:
    """Give the person an authenticator, without the console; return the backup codes."""
    sealed = second_factor.new_secret(person)
    used = second_factor.state_after(person, sealed, shown(person, sealed))
    assert used is not None
    return second_factor.enrol(person, sealed, used, None)


def sealed_in(page: str) -> str:
    found = re.search(r'name="sealed" value="([^"]+)"', page)
    assert found is not None
    return found[1]


def enrolled(person: User, client: Client, **changes: str) -> Any:
    """Fill in the page where a second factor is set up; return the answer."""
    sealed = sealed_in(text_of(client.get(ENROL)))
    form = {"sealed": sealed, "first_code": shown(person, sealed), "password": PASSWORD, **changes}
    return client.post(ENROL, form)


def codes_in(page: str) -> list[str]:
    return re.findall(r"<li><code>([a-z2-7-]+)</code></li>", page)
