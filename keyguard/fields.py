"""A column for an unsigned 256-bit integer that loses no digit on either database."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

DIGITS = 78  # of 2^256 - 1

if TYPE_CHECKING:
    _Column = models.Field[int | None, int | None]
else:
    _Column = models.Field  # not subscriptable when it runs


class Uint256Field(_Column):
    """An int from 0 to 2^256 - 1: NUMERIC(78, 0) on PostgreSQL, zero-padded text on SQLite.

    SQLite turns a NUMERIC above 2^63 into a float, and Django reads a decimal there with 15 digits: a DecimalField
    gives 9000000000000000000 back for 9000000000000000001. Padded text keeps every digit, and the order.
    """

    description = "Unsigned 256-bit integer"

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return f"numeric({DIGITS}, 0)" if connection.vendor == "postgresql" else f"varchar({DIGITS})"

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        if value is None:
            return None
        number = self.to_python(value)
        return Decimal(number) if connection.vendor == "postgresql" else f"{number:0{DIGITS}d}"

    def from_db_value(self, value: Any, *_: Any) -> int | None:
        return None if value is None else int(value)

    def to_python(self, value: Any) -> Any:
        if value is None:
            return None
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise ValidationError("Not an integer.") from None
        if not 0 <= number < 2**256:
            raise ValidationError("Not in 0 to 2^256 - 1.")
        return number
