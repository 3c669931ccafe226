"""A key's place as a URI: what is printed is read as the same, and what is none is refused with words that help."""

import pytest

from keyguard.backends import BACKENDS
from keyguard.custodians import CUSTODIANS
from keyguard.errors import BackendUnknownError, KeyUriInvalidError
from keyguard.models import Key
from keyguard.uris import KeyUri, backend_in, parse

CKA_ID = "7b0c00ff4f5c4d6ea2d3a1b2c3d4e5f6"


@pytest.mark.parametrize(
    ("text", "backend", "reference"),
    [
        ("database:", "database", ""),
        (f"vault:keyguard/keys/{CKA_ID}", "vault", f"keyguard/keys/{CKA_ID}"),
        ("pkcs11:id=%7B%0C%00%FF", "pkcs11", "7b0c00ff"),
        ("fireblocks:7/ETH_TEST5", "fireblocks", "7/ETH_TEST5"),
        ("dfns:key-2a-b", "dfns", "key-2a-b"),
    ],
)
def test_uri_of_each_backend_is_read_and_printed_as_the_same(text: str, backend: str, reference: str) -> None:
    assert parse(text) == KeyUri(backend, reference)
    assert str(Key(backend=backend, backend_ref=reference).uri) == text


def test_every_backend_has_a_scheme_and_small_digits_are_read_too() -> None:
    for name in {*BACKENDS, *CUSTODIANS}:
        with pytest.raises(KeyUriInvalidError, match=f"as {name}:"):
            parse(f"{name}:a b")
    assert parse("pkcs11:id=%7b%0c") == KeyUri("pkcs11", "7b0c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7/ETH", "has no colon"),
        ("", "has no colon"),
        ("database:1", "'1' is no reference of database: the URI is as database:"),
        ("vault:", "the URI is as vault:keyguard"),
        ("vault:/keys", "no reference of vault"),
        ("vault:keys/../other", "no reference of vault"),
        ("vault:" + "k" * 101, "101 characters, 100 at most"),
        ("pkcs11:7b0c", "the URI is as pkcs11:id=%7B%0C"),
        ("pkcs11:id=%7", "no reference of pkcs11"),
        ("pkcs11:id=%7B;object=treasury", "no reference of pkcs11"),
        ("fireblocks:../7/ETH", "the URI is as fireblocks:7/ETH"),
        ("fireblocks:7/ETH\n", "no reference of fireblocks"),
        ("dfns:../../wallets", "no reference of dfns"),
    ],
)
def test_what_is_no_reference_of_its_backend_is_refused_with_one_that_is(text: str, words: str) -> None:
    with pytest.raises(KeyUriInvalidError) as caught:
        parse(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["moon:1", "DATABASE:", ":1", "http://vault/1"])
def test_unknown_scheme_is_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(BackendUnknownError, match="use database:, dfns:, fireblocks:, pkcs11:, vault:"):
        parse(text)


def test_key_that_is_to_be_made_is_given_a_backend_and_no_reference() -> None:
    assert backend_in("vault") == backend_in("vault:") == "vault"
    with pytest.raises(KeyUriInvalidError, match="say vault: alone"):
        backend_in("vault:keyguard/keys/mine")
