"""Settings of custodies: read, checked, and turned into what the clients need. No SDK is loaded here, nobody is asked."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings

from keyguard.errors import CustodyMisconfiguredError

Problem = tuple[str, str]  # the setting, and what is wrong with it


def text(name: str) -> str:
    """Return a setting's text, without the blanks around it."""
    return str(getattr(settings, name, "") or "").strip()


def private_key(name: str) -> Any:
    """Return the private key in a setting that holds PEM. Raises CustodyMisconfiguredError, which shows none of it."""
    pem = text(name).replace("\\n", "\n")  # some systems cannot hold a newline in a variable
    try:
        return load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CustodyMisconfiguredError(f"{name} is not a private key in PEM without a passphrase") from None


def key_problem(name: str, is_right: Callable[[Any], bool], what: str) -> list[Problem]:
    """Return what is wrong with a private key."""
    try:
        key = private_key(name)
    except CustodyMisconfiguredError as error:
        return [(name, error.message.removeprefix(f"{name} "))]
    return [] if is_right(key) else [(name, f"is not {what}")]


def missing(names: Sequence[str]) -> list[Problem]:
    """Return those of the settings that are empty."""
    return [(name, "is not set") for name in names if not text(name)]


def names_by_chain(name: str) -> dict[int, str]:
    """Return what a custody calls each chain, from `11155111=ETH_TEST5` and the like. Raises CustodyMisconfiguredError."""
    found: dict[int, str] = {}
    for entry in getattr(settings, name, ()):
        chain, equals, called = str(entry).strip().partition("=")
        if (
            not equals
            or not chain.isascii()
            or not chain.isdigit()
            or not called.strip()
            or int(chain) in found
        ):
            raise CustodyMisconfiguredError(
                f"{name} has {entry!r}, which is no CHAIN_ID=NAME or names a chain twice"
            )
        found[int(chain)] = called.strip()
    return found


def chains_problem(name: str) -> list[Problem]:
    """Return what is wrong with the names of the chains."""
    try:
        return [] if names_by_chain(name) else [(name, "names no chain")]
    except CustodyMisconfiguredError as error:
        return [(name, error.message.removeprefix(f"{name} "))]


def url_problem(name: str) -> list[Problem]:
    """Return what is wrong with an address: what is secret goes over TLS, except on one's own machine."""
    parts = urlsplit(text(name))
    is_local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not parts.hostname or parts.scheme not in (("http", "https") if is_local else ("https",)):
        return [(name, "is no https address")]
    if parts.query or parts.username:
        return [(name, "must be without a query and without a password")]
    return []


def rate_problem(name: str) -> list[Problem]:
    """Return what is wrong with a number of requests per second."""
    return [] if 0 < float(getattr(settings, name, 0)) <= 1000 else [(name, "must be above 0, at most 1000")]


def require(problems: Sequence[Problem]) -> None:
    """Raise CustodyMisconfiguredError when there is a problem."""
    if problems:
        raise CustodyMisconfiguredError(", ".join(f"{name} {what}" for name, what in problems))


def called(chain_id: int, names: Mapping[int, str], setting: str) -> str:
    """Return what the custody calls the chain. Raises CustodyMisconfiguredError."""
    if chain_id not in names:
        raise CustodyMisconfiguredError(f"{setting} does not name chain {chain_id}")
    return names[chain_id]
