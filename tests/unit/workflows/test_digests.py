"""What is hashed is the same whichever database it comes back from."""

import json
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from workflows.history.digests import canonical

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def as_postgresql_returns_it(value: Any) -> Any:
    """Return what comes back from a jsonb column: numbers are decimals there, written without an exponent."""

    def number(text: str) -> Any:
        digits = format(Decimal(text), "f")
        return float(digits) if "." in digits else int(digits)

    return json.loads(json.dumps(value), parse_float=number)


@given(values)
def test_text_is_the_same_after_the_way_through_jsonb(value: Any) -> None:
    assert canonical(as_postgresql_returns_it(value)) == canonical(value)


@given(values)
def test_text_is_the_same_after_the_way_through_json(value: Any) -> None:
    assert canonical(json.loads(json.dumps(value))) == canonical(value)


@given(values, values)
def test_different_values_have_different_texts(one: Any, other: Any) -> None:
    if canonical(one) == canonical(other):
        assert one == other
