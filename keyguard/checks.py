"""Start-up checks: what the settings of KEKs and backends must be before the first key is used."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error

from keyguard.audit.codes import current_key
from keyguard.errors import AuditKeyError
from keyguard.kek_providers import PROVIDERS, configured

LOOPBACK = ("localhost", "127.0.0.1", "::1")
NEEDED = {
    "env": ("KEYGUARD_KEK",),
    "pkcs11": ("KEYGUARD_HSM_MODULE", "KEYGUARD_HSM_TOKEN", "KEYGUARD_HSM_PIN"),
    "vault": ("KEYGUARD_VAULT_URL", "KEYGUARD_VAULT_ROLE_ID", "KEYGUARD_VAULT_SECRET_ID"),
}


def check_keepers(app_configs: Sequence[Any] | None = None, **_: Any) -> list[CheckMessage]:
    """Return what is wrong with the settings of who keeps KEKs and keys; opens no connection."""
    return [*(_provider() if settings.KEYGUARD_SIGNS else []), *_vault_without_tls(), *_audit_keys()]


def _audit_keys() -> list[CheckMessage]:
    try:
        current_key()
    except AuditKeyError as error:
        return [Error(error.message, hint=error.remedy, id="keyguard.E006")]
    return []


def _provider() -> list[CheckMessage]:
    name = configured()
    if name not in PROVIDERS:
        hint = f"Set it to one of {', '.join(sorted(PROVIDERS))}."
        return [Error("KEYGUARD_KEK_PROVIDER names no KEK provider.", hint=hint, id="keyguard.E001")]
    # Of `env` the platform's own checks say more.
    missing = [setting for setting in NEEDED[name] if name != "env" and not getattr(settings, setting, "")]
    return [
        Error(
            f"{setting} is missing, which the KEK provider {name} needs.",
            hint="See docs/deploy/vault.md." if name == "vault" else "See docs/deploy/hsm.md.",
            id="keyguard.E002",
        )
        for setting in missing
    ]


def _vault_without_tls() -> list[CheckMessage]:
    url = urlsplit(str(getattr(settings, "KEYGUARD_VAULT_URL", "") or ""))
    if settings.DEBUG or not url.netloc or url.scheme == "https" or url.hostname in LOOPBACK:
        return []
    return [
        Error(
            "KEYGUARD_VAULT_URL is not https: tokens and DEKs would cross the network as they are.",
            hint="Use https, or Vault Agent on this machine.",
            id="keyguard.E003",
        )
    ]
