"""The settings DFNS_*."""

from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from django.conf import settings

from keyguard.backends import configuring
from keyguard.backends.configuring import Problem, text

MARKS = ("DFNS_AUTH_TOKEN", "DFNS_CREDENTIAL_ID", "DFNS_CREDENTIAL_KEY")
KEYS = (Ed25519PrivateKey, EllipticCurvePrivateKey, RSAPrivateKey)


@dataclass(frozen=True, slots=True)
class Config:
    """What the client needs."""

    base_url: str
    auth_token: str = field(repr=False)
    credential_id: str
    credential_key: Any = field(repr=False)
    networks: dict[int, str]  # by chain id
    allow_raw: frozenset[str]  # ids of keys
    requests_per_second: float


def is_configured() -> bool:
    """Tell whether DFNS is meant to be used; `problems` says whether it can be."""
    return any(text(name) for name in MARKS)


def can_ask() -> bool:
    """Tell whether this process has all that asking DFNS takes. Web processes have none."""
    return all(text(name) for name in MARKS)


def problems() -> list[Problem]:
    """Return what is wrong, setting by setting; nothing when nothing is configured."""
    if not is_configured():
        return []
    found = configuring.missing(MARKS)
    if text("DFNS_CREDENTIAL_KEY"):
        found += configuring.key_problem(
            "DFNS_CREDENTIAL_KEY", lambda key: isinstance(key, KEYS), "an Ed25519, EC or RSA key"
        )
    found += configuring.url_problem("DFNS_BASE_URL")
    found += configuring.chains_problem("DFNS_NETWORKS")
    return found + configuring.rate_problem("DFNS_REQUESTS_PER_SECOND")


def read() -> Config:
    """Return the settings. Raises CustodyMisconfiguredError."""
    configuring.require(problems() or ([] if is_configured() else configuring.missing(MARKS)))
    return Config(
        base_url=text("DFNS_BASE_URL").rstrip("/"),
        auth_token=text("DFNS_AUTH_TOKEN"),
        credential_id=text("DFNS_CREDENTIAL_ID"),
        credential_key=configuring.private_key("DFNS_CREDENTIAL_KEY"),
        networks=configuring.names_by_chain("DFNS_NETWORKS"),
        allow_raw=frozenset(settings.DFNS_ALLOW_RAW),
        requests_per_second=settings.DFNS_REQUESTS_PER_SECOND,
    )
