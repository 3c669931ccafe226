"""The envelope opens for its own row only."""

import os
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from keyguard.curve import new_secret
from keyguard.envelope import Binding, Envelope, LocalCipher, opened, seal
from keyguard.errors import MaterialTamperedError

KEK = LocalCipher(b"k" * 32)
BINDING = Binding("default", UUID(int=1), "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", 1, UUID(int=2))


def test_what_was_sealed_opens_and_is_wiped_afterwards() -> None:
    secret = new_secret()
    sealed = seal(secret, KEK, BINDING)
    with opened(sealed, KEK, BINDING) as plain:
        assert plain == secret
    assert plain == bytearray(32)


def test_secret_is_wiped_when_its_use_fails() -> None:
    sealed = seal(new_secret(), KEK, BINDING)
    seen: list[bytearray] = []

    def fail() -> None:
        with opened(sealed, KEK, BINDING) as plain:
            seen.append(plain)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert seen == [bytearray(32)]


def test_every_seal_uses_its_own_dek_and_nonces() -> None:
    secret = new_secret()
    one, two = (seal(secret, KEK, BINDING) for _ in range(2))
    for name in ("wrapped_dek", "dek_nonce", "nonce", "ciphertext"):
        assert getattr(one, name) != getattr(two, name)


@pytest.mark.case("K1", "K3", "K4")
@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "another"},
        {"key_id": UUID(int=9)},
        {"seq": 2},
        {"address": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"},
        {"kek_id": UUID(int=9)},
    ],
)
def test_envelope_does_not_open_for_another_row(change: dict[str, Any]) -> None:
    sealed = seal(new_secret(), KEK, BINDING)
    with pytest.raises(MaterialTamperedError), opened(sealed, KEK, replace(BINDING, **change)):
        pass


@pytest.mark.case("K2")
@pytest.mark.parametrize("swapped", [("wrapped_dek", "dek_nonce"), ("ciphertext", "nonce"), ("ciphertext",)])
def test_parts_of_two_envelopes_do_not_open_together(swapped: tuple[str, ...]) -> None:
    one, two = (seal(new_secret(), KEK, BINDING) for _ in range(2))
    mixed = replace(one, **{name: getattr(two, name) for name in swapped})
    with pytest.raises(MaterialTamperedError), opened(mixed, KEK, BINDING):
        pass


@pytest.mark.case("K5")
@pytest.mark.parametrize("name", ["wrapped_dek", "dek_nonce", "nonce", "ciphertext"])
def test_one_flipped_bit_anywhere_does_not_open(name: str) -> None:
    sealed = seal(new_secret(), KEK, BINDING)
    for position in range(len(getattr(sealed, name))):
        bent = bytearray(getattr(sealed, name))
        bent[position] ^= 1
        with (
            pytest.raises(MaterialTamperedError),
            opened(replace(sealed, **{name: bytes(bent)}), KEK, BINDING),
        ):
            pass


@pytest.mark.parametrize("name", ["wrapped_dek", "dek_nonce", "nonce", "ciphertext"])
@pytest.mark.parametrize("value", [b"", b"\0", os.urandom(200)])
def test_part_of_another_length_does_not_open(name: str, value: bytes) -> None:
    sealed = replace(seal(new_secret(), KEK, BINDING), **{name: value})
    with pytest.raises(MaterialTamperedError), opened(sealed, KEK, BINDING):
        pass


def test_envelope_shows_nothing_of_itself() -> None:
    sealed = seal(new_secret(), KEK, BINDING)
    assert isinstance(sealed, Envelope)
    assert sealed.ciphertext.hex() not in repr(sealed)
    assert "ciphertext" not in repr(sealed)
