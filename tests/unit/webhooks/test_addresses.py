"""Where webhooks may go. Whoever registers one must not reach what this machine reaches and he does not."""

import socket
from typing import Any

import pytest

from dalp.webhooks import addresses
from dalp.webhooks.addresses import AddressRefusedError, check, is_public, parse

INSIDE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",  # CGNAT
    "100.100.100.200",  # Alibaba's metadata
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # Azure's
    "169.254.169.254",  # AWS's, GCP's
    "169.254.170.2",  # ECS's
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",  # Oracle's
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",  # IPv4 in IPv6, in its four disguises
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2001::1",  # Teredo
    "2001:db8::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",  # AWS's metadata
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "4000::1",
    "localhost",
]
OUTSIDE = [
    "8.8.8.8",
    "1.1.1.1",
    "172.32.0.1",
    "100.128.0.1",
    "192.0.1.1",
    "2606:4700:4700::1111",
    "2a00:1450::1",
]


@pytest.fixture(autouse=True)
def production(settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the name server says."""
    known: dict[str, list[str]] = {}

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if host not in known:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.mark.case("PE16")
@pytest.mark.parametrize("address", INSIDE)
def test_nothing_within_is_reached(address: str, names: dict[str, list[str]]) -> None:
    assert not is_public(address)
    names["receiver.example"] = [address]
    with pytest.raises(AddressRefusedError, match="not public"):
        check("https://receiver.example/hook")


@pytest.mark.parametrize("address", OUTSIDE)
def test_what_is_public_is_allowed(address: str, names: dict[str, list[str]]) -> None:
    names["receiver.example"] = [address]
    check("https://receiver.example:8443/hook?key=1")


@pytest.mark.case("PE16")
def test_one_address_within_among_others_is_enough(names: dict[str, list[str]]) -> None:
    names["receiver.example"] = ["8.8.8.8", "10.0.0.1"]
    with pytest.raises(AddressRefusedError, match="not public"):
        check("https://receiver.example/")


@pytest.mark.case("PE16")
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://receiver.example/", "https"),
        ("file:///etc/passwd", "https"),
        ("gopher://receiver.example/", "https"),
        ("//receiver.example/", "https"),
        ("receiver.example", "https"),
        ("https://user@receiver.example/", "user"),
        ("https://user:password@receiver.example/", "user"),
        ("https://8.8.8.8@10.0.0.1/", "user"),
        ("https://receiver.example/#part", "fragment"),
        ("https:///hook", "host"),
        ("https://receiver.example:0/", "host"),
        ("https://receiver.example:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://receiver.example\\@10.0.0.1/", "must be a URL"),
        ("https://receiver.example/\r\nX: y", "must be a URL"),
        ("https://receiver.example/ x", "must be a URL"),
        ("https://receiver。example/", "must be a URL"),
        ("https://rec%65iver.example/", "host"),
        ("https://receiver.example/" + "x" * 2000, "at most"),
    ],
)
def test_other_urls_are_refused_before_anybody_is_asked(url: str, why: str) -> None:
    with pytest.raises(AddressRefusedError, match=why) as refused:
        parse(url)
    assert "receiver" not in str(refused.value), "the URL may hold a key"


@pytest.mark.case("PE16")
@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]"])
def test_addresses_in_other_spellings_are_what_the_machine_takes_them_for(host: str) -> None:
    with pytest.raises(AddressRefusedError, match=r"not public|no address"):
        check(f"https://{host}/")


def test_a_name_without_address_is_refused(names: dict[str, list[str]]) -> None:
    with pytest.raises(AddressRefusedError, match="no address"):
        check("https://nowhere.example/")


def test_the_header_host_is_that_of_the_url() -> None:
    assert parse("https://receiver.example/a?b=c").netloc == "receiver.example"
    assert parse("https://receiver.example:8443").netloc == "receiver.example:8443"
    assert parse("https://[2606:4700::1]/x").netloc == "[2606:4700::1]"
    assert parse("https://receiver.example?b=c").path == "/?b=c"


def test_on_ones_own_machine_everything_may_be_allowed(settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    check("http://127.0.0.1:8000/")
