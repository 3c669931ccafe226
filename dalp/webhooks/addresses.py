"""Where webhooks may go: nowhere inside. Whoever may register one must not be able to make this system ask its neighbours.

Upheld: the host is resolved at the registration and again for each sending, every address of the answer must be public,
and the connection goes to one of the addresses that were checked: a second lookup could tell another.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.conf import settings

URL_LENGTH_MAX = 2000
# Printable ASCII: anything else is read differently by different programs.
PLAIN = re.compile(r"[\x21-\x7e]+", re.ASCII)
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9.])?|[0-9A-Fa-f:.]+", re.ASCII)
PORTS = {"https": 443, "http": 80}

# IANA's registries of special-purpose addresses, but for the few of them that anybody can be reached at; and the
# addresses beyond them at which clouds tell a machine its credentials.
FORBIDDEN_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's wire server
        "169.254.0.0/16",  # link-local; the metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Of IPv6 only what is given out to the public, so neither ::1, fc00::/7, fe80::/10, ff00::/8 nor any form of an IPv4
# address (::ffff:0:0/96, 64:ff9b::/96); less what is special within it.
ALLOWED_V6 = ipaddress.IPv6Network("2000::/3")
FORBIDDEN_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation
    )
)


class AddressRefusedError(ValueError):
    """Nothing is sent there. Its text says why, without the URL."""


@dataclass(frozen=True)
class Target:
    """The parts of a URL that a request needs."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """The header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def is_public(address: str) -> bool:
    """Return whether everybody can be reached at this address, and not only machines within."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # with a scope, as in fe80::1%eth0
        return False
    if isinstance(found, ipaddress.IPv4Address):
        return not any(found in network for network in FORBIDDEN_V4)
    return found in ALLOWED_V6 and not any(found in network for network in FORBIDDEN_V6)


def parse(url: str) -> Target:
    """Return the parts of a URL that something may be sent to, as far as its text says. Raises AddressRefusedError."""
    if len(url) > URL_LENGTH_MAX or not PLAIN.fullmatch(url) or "\\" in url:
        raise AddressRefusedError(
            f"must be a URL of at most {URL_LENGTH_MAX} characters, others than ASCII encoded"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise AddressRefusedError("is not a URL") from None
    if parts.scheme not in ({"https", "http"} if settings.WEBHOOK_ALLOW_PRIVATE else {"https"}):
        raise AddressRefusedError("must begin with https://")
    if "@" in parts.netloc:
        raise AddressRefusedError("must not hold a user or a password")
    if "#" in url:
        raise AddressRefusedError("must not have a fragment")
    if not HOST.fullmatch(host) or port == 0:
        raise AddressRefusedError("must name a host")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or PORTS[parts.scheme], path)


def resolve(target: Target) -> list[str]:
    """Return the addresses of the host, each of them allowed. Raises AddressRefusedError."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise AddressRefusedError("its host has no address that can be found out") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    # One that is not public is enough: which of them a connection takes is not for the owner of the name to choose.
    if not settings.WEBHOOK_ALLOW_PRIVATE and not all(map(is_public, addresses)):
        raise AddressRefusedError("its host has an address that is not public")
    return addresses


def check(url: str) -> None:
    """Look whether webhooks may be sent to the URL now. Raises AddressRefusedError. Asks the name server."""
    resolve(parse(url))
