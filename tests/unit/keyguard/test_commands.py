"""Reading a private key without leaving copies of it."""

import pytest

from keyguard.errors import SecretInvalidError
from keyguard.management.commands.import_key import parse_hex

HEX = b"00fF" + b"1a" * 30


@pytest.mark.parametrize(
    "text", [HEX, b"0x" + HEX, b"0X" + HEX + b"\n", b"  " + HEX + b"\r\n\0\0\0", HEX.upper()]
)
def test_private_key_is_read_from_hex(text: bytes) -> None:
    assert parse_hex(bytearray(text)) == bytes.fromhex(HEX.decode())


@pytest.mark.parametrize(
    "text", [b"", b"0x", HEX[:-1], HEX + b"0", HEX[:-1] + b"g", HEX[:32] + b" " + HEX[32:], b"\0" * 256]
)
def test_what_is_not_64_hex_digits_is_refused_without_being_shown(text: bytes) -> None:
    with pytest.raises(SecretInvalidError) as caught:
        parse_hex(bytearray(text))
    assert "1a1a" not in str(caught.value)
