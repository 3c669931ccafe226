"""The small pure parts of the API and the console."""

import uuid
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalp.api.idempotency import digest
from dalp.api.pagination import decode_cursor, encode_cursor
from dalp.api.problems import ProblemError, by_field
from dalp.api.transactions import amount


@given(st.uuids())
def test_a_cursor_leads_back_to_its_id(identifier: uuid.UUID) -> None:
    assert decode_cursor(encode_cursor(identifier)) == identifier


@given(st.text(max_size=40))
def test_any_other_text_is_refused_as_a_cursor_or_is_one(text: str) -> None:
    with suppress(ProblemError):
        assert isinstance(decode_cursor(text), uuid.UUID)


@given(st.integers(min_value=0, max_value=10**78 - 1))
def test_amounts_are_never_rounded(number: int) -> None:
    assert amount(str(number)) == amount(number) == number


@pytest.mark.parametrize(
    "given", [-1, "-1", 1.0, "1.0", True, None, "", " 1", "1_000", "0x1", "１", "1e3", [1]]
)
def test_what_is_no_whole_amount_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="whole number of wei"):
        amount(given)


def test_errors_are_bounded_and_hold_no_values() -> None:
    errors = [{"loc": ("items", n, "x" * 500), "msg": "bad " * 1000, "input": "secret"} for n in range(1000)]
    found = by_field(errors, ("input",))
    assert len(found) == 100
    assert max(map(len, found)) <= 200
    assert "secret" not in str(found)


def test_the_digest_of_a_body_ignores_the_order_of_names() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})
