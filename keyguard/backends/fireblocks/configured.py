"""The settings FIREBLOCKS_*."""

from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from django.conf import settings

from keyguard.backends import configuring
from keyguard.backends.configuring import Problem, text

MARKS = ("FIREBLOCKS_API_KEY", "FIREBLOCKS_SECRET_KEY")
MIN_KEY_BITS = 2048


@dataclass(frozen=True, slots=True)
class Config:
    """What the client needs."""

    base_url: str
    api_key: str = field(repr=False)
    secret_key: Any = field(repr=False)
    assets: dict[int, str]  # by chain id
    allow_raw: frozenset[str]  # references of keys
    requests_per_second: float


def is_configured() -> bool:
    """Tell whether Fireblocks is meant to be used; `problems` says whether it can be."""
    return any(text(name) for name in MARKS)


def can_ask() -> bool:
    """Tell whether this process has all that asking Fireblocks takes. Web processes have the first one alone."""
    return all(text(name) for name in MARKS)


def problems() -> list[Problem]:
    """Return what is wrong, setting by setting; nothing when nothing is configured."""
    if not is_configured():
        return []
    found = configuring.missing(MARKS)
    if text("FIREBLOCKS_SECRET_KEY"):
        found += configuring.key_problem(
            "FIREBLOCKS_SECRET_KEY",
            lambda key: isinstance(key, RSAPrivateKey) and key.key_size >= MIN_KEY_BITS,
            f"an RSA key of {MIN_KEY_BITS} bits or more",
        )
    found += configuring.url_problem("FIREBLOCKS_BASE_URL")
    if text("FIREBLOCKS_WEBHOOK_JWKS_URL"):
        found += configuring.url_problem("FIREBLOCKS_WEBHOOK_JWKS_URL")
    found += configuring.chains_problem("FIREBLOCKS_ASSETS")
    return found + configuring.rate_problem("FIREBLOCKS_REQUESTS_PER_SECOND")


def read() -> Config:
    """Return the settings. Raises CustodyMisconfiguredError."""
    configuring.require(problems() or ([] if is_configured() else configuring.missing(MARKS)))
    return Config(
        base_url=text("FIREBLOCKS_BASE_URL").rstrip("/"),
        api_key=text("FIREBLOCKS_API_KEY"),
        secret_key=configuring.private_key("FIREBLOCKS_SECRET_KEY"),
        assets=configuring.names_by_chain("FIREBLOCKS_ASSETS"),
        allow_raw=frozenset(settings.FIREBLOCKS_ALLOW_RAW),
        requests_per_second=settings.FIREBLOCKS_REQUESTS_PER_SECOND,
    )
