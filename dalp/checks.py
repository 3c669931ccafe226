"""Start-up checks: what must be right before the first request or task, each with what to do about it."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError

from keyguard.checks import check_keepers

DEVELOPMENT_HINT = "On your own machine, set DEBUG=1 to use the development secrets."


def unsafe_secrets() -> list[CheckMessage]:
    """Return an error for each secret that production must not start with."""
    if settings.DEBUG:
        return []
    found: list[CheckMessage] = []
    if settings.SECRET_KEY == settings.DEVELOPMENT_SECRET_KEY:
        found.append(
            Error(
                "SECRET_KEY is missing or the development one.",
                hint=f"Set SECRET_KEY (or SECRET_KEY_FILE) to 50 or more random characters. {DEVELOPMENT_HINT}",
                id="dalp.E001",
            )
        )
    if settings.DEVELOPMENT_KEK in _keks():
        found.append(
            Error(
                "KEYGUARD_KEK is missing or the development one.",
                hint=f"Set KEYGUARD_KEK (or KEYGUARD_KEK_FILE): `openssl rand -base64 32`. {DEVELOPMENT_HINT}",
                id="dalp.E002",
            )
        )
    if settings.DALP_TEST_DISABLE_FENCE:
        found.append(
            Error(
                "DALP_TEST_DISABLE_FENCE is set: two workers could do the same work twice.",
                hint="Unset it. Only the test suite uses it, with DEBUG on.",
                id="dalp.E003",
            )
        )
    return found


def malformed_secrets() -> list[CheckMessage]:
    """Return an error when the key-encryption key cannot be one, in any mode."""
    if all(_is_kek(text) for text in _keks()):
        return []
    return [
        Error(
            "KEYGUARD_KEK, or one of KEYGUARD_KEK_FALLBACKS, is not 32 bytes in base64.",
            hint="Make one: `openssl rand -base64 32`. Keep the old one as long as keys are wrapped by it.",
            id="dalp.E004",
        )
    ]


def unknown_second_factor() -> list[CheckMessage]:
    """Return an error when nobody can tell whether a second factor is required, in any mode."""
    if settings.CONSOLE_SECOND_FACTOR in ("offered", "required"):
        return []
    return [
        Error(
            "CONSOLE_SECOND_FACTOR is neither offered nor required.",
            hint="Set it to required, or to offered, or leave it out.",
            id="dalp.E005",
        )
    ]


def _keks() -> list[str]:
    """Return the KEKs from the settings. Where somebody else keeps the KEK, KEYGUARD_KEK is not needed."""
    if not settings.KEYGUARD_SIGNS:
        return []
    own = [settings.KEYGUARD_KEK] if settings.KEYGUARD_KEK_PROVIDER == "env" else []
    return [*own, *settings.KEYGUARD_KEK_FALLBACKS]


def _is_kek(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except (binascii.Error, ValueError):
        return False


def check_secrets(app_configs: Sequence[Any] | None = None, **_: Any) -> list[CheckMessage]:
    """Return what is wrong with the secrets, and with what guards them; `manage.py` refuses to run a command when there is anything."""
    return [*unsafe_secrets(), *malformed_secrets(), *unknown_second_factor(), *check_keepers()]


def check_database(app_configs: Sequence[Any] | None = None, **_: Any) -> list[CheckMessage]:
    """Return a warning when production runs on SQLite."""
    if settings.DEBUG or "sqlite" not in settings.DATABASES["default"]["ENGINE"]:
        return []
    return [
        checks.Warning(
            "Production runs on SQLite: one writer at a time, one machine, and a power cut may lose the last commits.",
            hint="Set DATABASE_URL to a PostgreSQL database.",
            id="dalp.W001",
        )
    ]


def check_policy(app_configs: Sequence[Any] | None = None, **_: Any) -> list[CheckMessage]:
    """Return warnings about who decides what is signed in production. With `check --deploy` alone: it asks the database."""
    if settings.DEBUG:
        return []
    try:
        return [*plain_imports(), *starter_policy(), *approving_groups()]
    except DatabaseError:
        return []  # not there, or not migrated: other checks and `doctor` say so


def starter_policy() -> list[CheckMessage]:
    """Return a warning while the policy that a new system begins with decides."""
    from keyguard.policies.deciding import active_policy

    active = active_policy()
    if active is None or (active.number, active.author) != (1, "DALP"):
        return []
    return [
        checks.Warning(
            "The starter policy is in force: every request that passes the hard floor is signed.",
            hint="Write a policy (console: Policies) and put it in force; docs/policies.md says how.",
            id="dalp.W002",
        )
    ]


def plain_imports() -> list[CheckMessage]:
    """Return a warning when whoever may run commands can bring a private key in that others have seen."""
    if settings.KEYGUARD_IMPORT == "wrapped":
        return []
    return [
        checks.Warning(
            "KEYGUARD_IMPORT is not `wrapped`: import_key takes private keys as they are.",
            hint="Set it, and import keys wrapped to a one-time key; docs/keys.md says how.",
            id="dalp.W006",
        )
    ]


def approving_groups() -> list[CheckMessage]:
    """Return a warning when one person can change the policy, and for each group that is too small to approve anything."""
    from django.contrib.auth.models import User

    from keyguard.policies.guarding import guarded

    found: list[CheckMessage] = []
    if not settings.KEYGUARD_POLICY_GROUP:
        found.append(
            checks.Warning(
                "KEYGUARD_POLICY_GROUP is empty: one person puts a policy in force alone.",
                hint="Name a group whose members approve a change of policy; docs/policies.md.",
                id="dalp.W003",
            )
        )
    for group, needed in guarded().items():
        members = User.objects.filter(groups__name=group, is_active=True).count()
        if members < needed:
            found.append(
                checks.Warning(
                    f"{needed} of the group {group} must approve, and it has {members} active members: "
                    "nothing that asks for it is ever approved.",
                    hint="manage.py add_approver --first adds people to it, or correct the rule or setting that names it.",
                    id="dalp.W004",
                )
            )
    return found


def check_second_factor(app_configs: Sequence[Any] | None = None, **_: Any) -> list[CheckMessage]:
    """Return a warning when dangerous acts can be confirmed in production by a password alone."""
    if settings.DEBUG or settings.CONSOLE_SECOND_FACTOR != "offered":
        return []
    return [
        checks.Warning(
            "Dangerous acts in the console do not require a second factor.",
            hint="Have people set one up (console: Your second factor), then set CONSOLE_SECOND_FACTOR=required.",
            id="dalp.W005",
        )
    ]


def register() -> None:
    """Register the checks with Django."""
    checks.register(check_secrets)
    checks.register(check_database)
    checks.register(check_policy, deploy=True)
    checks.register(check_second_factor, deploy=True)


def stop_if_unsafe() -> None:
    """Raise ImproperlyConfigured when a check finds an error. For the processes in which Django runs no checks."""
    errors = check_secrets()
    if errors:
        lines = [f"{error.msg} {error.hint} ({error.id})" for error in errors]
        raise ImproperlyConfigured("DALP does not start:\n" + "\n".join(lines))
