"""The types of what people send in: checked to the last digit before anything is stored.

Amounts are whole numbers of a token's base unit. A JSON number that is not an integer is never rounded into one.
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from django.core.exceptions import ValidationError
from django.core.validators import EmailValidator
from eth_utils.address import to_checksum_address
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from dalp.assets.countries import COUNTRIES

AMOUNT_MAX = 2**256 - 1
ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
DIGITS = re.compile(r"[0-9]{1,78}")
ZERO_ADDRESS = "0x" + "0" * 40


class Input(BaseModel):
    """The base of every input: immutable, and a misspelt field is an error, not a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Output(BaseModel):
    """The base of what steps hand on."""

    model_config = ConfigDict(frozen=True)


def _integer(value: Any) -> int:
    """Accept an integer or its decimal digits; True, 1.0 and "1e3" are none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and DIGITS.fullmatch(value):
        return int(value)
    raise ValueError("must be an integer, or a string of decimal digits")


def _checksummed(value: str) -> str:
    if not ADDRESS.fullmatch(value):
        raise ValueError("must be 0x and 40 hexadecimal digits")
    if value == ZERO_ADDRESS:
        raise ValueError("must not be the zero address")
    checksummed = to_checksum_address(value)
    digits = value[2:]
    # Mixed case is a checksum (EIP-55), and a wrong checksum is a mistyped address.
    if digits not in (digits.lower(), digits.upper()) and value != checksummed:
        raise ValueError("has a wrong checksum (EIP-55)")
    return checksummed


def _known_country(value: int) -> int:
    if value not in COUNTRIES:
        raise ValueError("must be a numeric country code of ISO 3166-1, such as 250")
    return value


def _printable(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("must be printable, without blanks at its ends")
    return value


def _mail_address(value: str) -> str:
    try:
        EmailValidator()(value)
    except ValidationError:
        raise ValueError("must be an e-mail address") from None
    return value


def distinct(what: str, key: Callable[[Any], Any] = lambda item: item) -> AfterValidator:
    """Refuse a list that names the same thing twice."""

    def check(items: Sequence[Any]) -> Sequence[Any]:
        keys = [key(item) for item in items]
        twice = sorted({str(k) for k in keys if keys.count(k) > 1})
        if twice:
            raise ValueError(f"{what} given twice: {', '.join(twice)}")
        return items

    return AfterValidator(check)


Address = Annotated[
    str,
    AfterValidator(_checksummed),
    Field(max_length=42, json_schema_extra={"pattern": "^0x[0-9a-fA-F]{40}$"}),
]
# Decimal strings in JSON: most readers of JSON would round a number above 2^53.
Amount = Annotated[
    int,
    Field(ge=1, le=AMOUNT_MAX),
    BeforeValidator(_integer),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema(
        {"type": "string", "pattern": "^[0-9]{1,78}$", "description": "1 to 2^256 - 1, in base units"}
    ),
]
ChainId = Annotated[int, Field(strict=True, ge=1, le=2**63 - 1)]
Country = Annotated[
    int, Field(strict=True, description="ISO 3166-1 numeric, such as 250"), AfterValidator(_known_country)
]
Email = Annotated[
    str, Field(max_length=254, json_schema_extra={"format": "email"}), AfterValidator(_mail_address)
]
KeyName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]
Symbol = Annotated[
    str, Field(pattern=r"^[A-Z][A-Z0-9.\-]{0,15}$", description="A-Z, 0-9, dot and dash; up to 16")
]
