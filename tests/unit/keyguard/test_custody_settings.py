"""Settings of custodies that are half there are named one by one; nothing of a custody is loaded before it is needed."""

import subprocess
import sys
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from keyguard.backends import configuring, custodies
from keyguard.backends.dfns import configured as dfns
from keyguard.backends.fireblocks import configured as fireblocks
from keyguard.errors import CustodyMisconfiguredError
from tests.fakes.credentials import pem

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
LOCKED = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")).decode()
RIGHT = {
    "FIREBLOCKS_API_KEY": "api-key-1",
    "FIREBLOCKS_SECRET_KEY": pem(RSA),
    "FIREBLOCKS_ASSETS": ["1=ETH"],
    "DFNS_AUTH_TOKEN": "token",
    "DFNS_CREDENTIAL_ID": "cr-1",
    "DFNS_CREDENTIAL_KEY": pem(EC),
    "DFNS_NETWORKS": ["1=Ethereum"],
}


def found() -> list[str]:
    return [str(message.msg) for message in custodies.check_custodies()]


@pytest.fixture
def right(settings: Any) -> Any:
    for name, value in RIGHT.items():
        setattr(settings, name, value)
    return settings


def test_nothing_is_wrong_with_what_is_not_configured_or_whole(settings: Any, right: Any) -> None:
    assert found() == []
    for name, value in RIGHT.items():
        setattr(right, name, type(value)())
    assert found() == []
    right.FIREBLOCKS_ASSETS = ["nonsense"]
    assert found() == [], "without a secret it is off"
    for module in (fireblocks, dfns):
        with pytest.raises(CustodyMisconfiguredError, match="is not set"):
            module.read()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FIREBLOCKS_API_KEY", "", "FIREBLOCKS_API_KEY is not set."),
        ("FIREBLOCKS_SECRET_KEY", " ", "FIREBLOCKS_SECRET_KEY is not set."),
        (
            "FIREBLOCKS_SECRET_KEY",
            "MIIEv-secret",
            "FIREBLOCKS_SECRET_KEY is not a private key in PEM without a passphrase.",
        ),
        (
            "FIREBLOCKS_SECRET_KEY",
            LOCKED,
            "FIREBLOCKS_SECRET_KEY is not a private key in PEM without a passphrase.",
        ),
        ("FIREBLOCKS_SECRET_KEY", pem(EC), "FIREBLOCKS_SECRET_KEY is not an RSA key of 2048 bits or more."),
        ("FIREBLOCKS_BASE_URL", "http://api.fireblocks.io/v1", "FIREBLOCKS_BASE_URL is no https address."),
        ("FIREBLOCKS_BASE_URL", "api.fireblocks.io", "FIREBLOCKS_BASE_URL is no https address."),
        (
            "FIREBLOCKS_BASE_URL",
            "https://a:b@api.fireblocks.io",
            "FIREBLOCKS_BASE_URL must be without a query and without a password.",
        ),
        (
            "FIREBLOCKS_WEBHOOK_JWKS_URL",
            "http://keys.example/jwks",
            "FIREBLOCKS_WEBHOOK_JWKS_URL is no https address.",
        ),
        ("FIREBLOCKS_ASSETS", [], "FIREBLOCKS_ASSETS names no chain."),
        (
            "FIREBLOCKS_ASSETS",
            ["ETH"],
            "FIREBLOCKS_ASSETS has 'ETH', which is no CHAIN_ID=NAME or names a chain twice.",
        ),
        (
            "FIREBLOCKS_ASSETS",
            ["1=ETH", "1=X"],
            "FIREBLOCKS_ASSETS has '1=X', which is no CHAIN_ID=NAME or names a chain twice.",
        ),
        (
            "FIREBLOCKS_REQUESTS_PER_SECOND",
            0.0,
            "FIREBLOCKS_REQUESTS_PER_SECOND must be above 0, at most 1000.",
        ),
        ("DFNS_AUTH_TOKEN", "", "DFNS_AUTH_TOKEN is not set."),
        ("DFNS_CREDENTIAL_ID", "", "DFNS_CREDENTIAL_ID is not set."),
        ("DFNS_CREDENTIAL_KEY", "", "DFNS_CREDENTIAL_KEY is not set."),
        (
            "DFNS_CREDENTIAL_KEY",
            "x",
            "DFNS_CREDENTIAL_KEY is not a private key in PEM without a passphrase.",
        ),
        ("DFNS_NETWORKS", [], "DFNS_NETWORKS names no chain."),
        ("DFNS_BASE_URL", "ftp://api.dfns.io", "DFNS_BASE_URL is no https address."),
        ("DFNS_REQUESTS_PER_SECOND", -1.0, "DFNS_REQUESTS_PER_SECOND must be above 0, at most 1000."),
    ],
)
def test_each_setting_that_is_wrong_is_named_and_not_shown(
    right: Any, name: str, value: Any, message: str
) -> None:
    setattr(right, name, value)
    assert found() == [message]
    assert "secret" not in message or "SECRET" in name
    module = fireblocks if name.startswith("FIREBLOCKS") else dfns
    with pytest.raises(CustodyMisconfiguredError) as caught:
        module.read()
    assert "MIIE" not in str(caught.value)


def test_key_may_have_its_newlines_written_out(right: Any) -> None:
    right.FIREBLOCKS_SECRET_KEY = pem(RSA).replace("\n", "\\n")
    assert found() == []
    assert configuring.private_key("FIREBLOCKS_SECRET_KEY").private_numbers() == RSA.private_numbers()


@pytest.mark.parametrize("configured", [False, True])
def test_start_knows_the_custodies_and_loads_no_sdk_and_no_client(configured: bool) -> None:
    code = (
        "import sys, django; django.setup(); from keyguard.custodians import CUSTODIANS; print({name: CUSTODIANS[name]().can_cancel for name in sorted(CUSTODIANS)});"
        "print([name for name in ('fireblocks', 'httpx', 'jwt') if name in sys.modules])"
    )
    secrets = {"FIREBLOCKS_API_KEY": "a", "DFNS_AUTH_TOKEN": "t"} if configured else {}
    environment = {
        "DJANGO_SETTINGS_MODULE": "dalp.settings",
        "DEBUG": "true",
        "DATABASE_URL": "sqlite://:memory:",
        "PATH": "",
        **secrets,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str({"dfns": False, "fireblocks": True}), "[]"]
