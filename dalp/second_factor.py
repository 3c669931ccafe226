"""Second factors of people: an authenticator that shows codes (TOTP, RFC 6238), and backup codes.

Upholds: a code confirms once, in whichever process, and so does a backup code. Each enrolment, removal and reset is in the
log and among the entries of Django's admin on that person (/admin/auth/user/<id>/history/). Whoever calls holds the person's row: see
`locked`.
"""

import base64
import secrets
from datetime import datetime
from typing import cast

import structlog
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.db import transaction
from django_otp.oath import TOTP

from dalp import factor_sealing
from dalp.models import Authenticator, BackupCodes

log = structlog.get_logger()

SECRET_BYTES = 20
CODES, CODE_BYTES = 10, 10
DIGITS = 6
# So many wrong codes one after another, and it is said until when none is looked at. Before that waiting takes seconds.
MANY_WRONG = 5


class FactorChangedError(Exception):
    """Somebody enrolled or removed a device of the person meanwhile."""


def locked(username: str) -> User:
    """Return the person, so that whatever else looks at their password and devices waits. In a transaction."""
    return User.objects.select_for_update(no_key=True).get(username=username)


def authenticator(person: User) -> Authenticator | None:
    """Return the person's authenticator."""
    found: Authenticator | None = Authenticator.objects.filter(user=person, confirmed=True).first()
    return found


def has_one(person: User) -> bool:
    """Return whether the person has a second factor."""
    return authenticator(person) is not None


def codes_left(person: User) -> int:
    """Return how many backup codes are left."""
    return sum(codes.token_set.count() for codes in BackupCodes.objects.filter(user=person))


def verify(person: User, given: str) -> bool:
    """Return whether this is a code of the person's, unused; it is used then. A wrong one is counted.

    Raises FactorUnreadableError.
    """
    device, code = _device_of(person, given)
    is_right = device is not None and bool(device.verify_token(code))
    if is_right and isinstance(device, BackupCodes):
        log.warning("backup_code_used", person=person.get_username(), left=device.token_set.count())
    return is_right


def refused_until(person: User, given: str) -> datetime | None:
    """Return until when no code of this kind is looked at, where many in a row were wrong."""
    device, _ = _device_of(person, given)
    allowed, why = (True, None) if device is None else device.verify_is_allowed()
    if allowed or why is None or why["failure_count"] < MANY_WRONG:
        return None
    return cast("datetime", why["locked_until"])


def _device_of(person: User, given: str) -> tuple[Authenticator | BackupCodes | None, str]:
    """Return the device that a code of this form would be of, and the code without spaces and dashes."""
    code = "".join(given.split()).replace("-", "").lower()
    if len(code) == DIGITS and code.isdecimal():
        return authenticator(person), code
    return BackupCodes.objects.filter(user=person).first(), code


def new_secret(person: User) -> str:
    """Return a secret for a new authenticator, sealed. It is stored nowhere until a code shows that somebody has it."""
    return factor_sealing.seal(secrets.token_bytes(SECRET_BYTES), person.pk)


def to_scan(person: User, sealed: str) -> tuple[str, str]:
    """Return what the QR code says, and the secret for whoever types it. Raises FactorUnreadableError."""
    device = Authenticator(user=person, key=sealed)
    text = base64.b32encode(device.bin_key).decode()
    return device.config_url, " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def state_after(person: User, sealed: str, code: str) -> TOTP | None:
    """Return the state of a new authenticator after this code, None when it is none of its codes now."""
    digits = "".join(code.split())
    totp = TOTP(factor_sealing.unseal(sealed, person.pk))
    if len(digits) == DIGITS and digits.isdecimal() and totp.verify(int(digits), tolerance=1):
        return totp
    return None


def enrol(person: User, sealed: str, used: TOTP, replaced: int | None) -> list[str]:
    """Give the person this authenticator and no other; return ten backup codes.

    used: the state after the code that was shown; it confirms nothing else. replaced: the device that was confirmed
    with, if there was one. Raises FactorChangedError.
    """
    with transaction.atomic():
        person = locked(person.get_username())
        present = authenticator(person)
        if (present.pk if present else None) != replaced:
            raise FactorChangedError
        _delete(person)
        Authenticator.objects.create(
            user=person, name="Authenticator", key=sealed, last_t=used.t(), drift=used.drift
        )
        codes = _new_codes(person)
        _record(person, "Replaced the second factor." if replaced else "Enrolled a second factor.")
    log.info("second_factor_enrolled", person=person.get_username(), replaced=bool(replaced))
    return codes


def renew_codes(person: User) -> list[str]:
    """Return ten new backup codes; the earlier ones are worth nothing."""
    with transaction.atomic():
        person = locked(person.get_username())
        if not has_one(person):
            raise FactorChangedError
        codes = _new_codes(person)
        _record(person, "Made new backup codes.")
    log.info("backup_codes_renewed", person=person.get_username())
    return codes


def remove(person: User) -> None:
    """Take the person's second factor away, as they asked."""
    with transaction.atomic():
        person = locked(person.get_username())
        _delete(person)
        _record(person, "Removed the second factor.")
    log.info("second_factor_removed", person=person.get_username())


def reset(person: User, actor: str, reason: str) -> bool:
    """Take it away from somebody who has lost it; return whether there was one."""
    with transaction.atomic():
        person = locked(person.get_username())
        if not _delete(person):
            return False
        # Of the person: whoever is at the shell is nobody whom Django knows.
        _record(person, f"Second factor reset by {actor}: {reason}")
    log.warning("second_factor_reset", person=person.get_username(), actor=actor, reason=reason)
    return True


def _new_codes(person: User) -> list[str]:
    BackupCodes.objects.filter(user=person).delete()
    device = BackupCodes.objects.create(user=person, name="Backup codes")
    codes = [base64.b32encode(secrets.token_bytes(CODE_BYTES)).decode().lower() for _ in range(CODES)]
    for code in codes:
        device.token_set.create(token=BackupCodes.digest(code))
    return ["-".join(code[at : at + 4] for at in range(0, len(code), 4)) for code in codes]


def _delete(person: User) -> bool:
    found = Authenticator.objects.filter(user=person).delete()[0]
    return bool(BackupCodes.objects.filter(user=person).delete()[0] + found)


def _record(person: User, words: str) -> None:
    LogEntry.objects.log_actions(person.pk, [person], CHANGE, words, single_object=True)
