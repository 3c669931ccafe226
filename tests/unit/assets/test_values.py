"""What people may send: refused with the field named, or taken exactly."""

from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dalp.assets.countries import COUNTRIES
from dalp.assets.values import AMOUNT_MAX, Address, Amount, ChainId, Country, Email, Name, Symbol, distinct

WALLET = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


def refuses(kind: Any, value: object) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return True
    return False


@given(st.integers(1, AMOUNT_MAX))
def test_an_amount_keeps_every_digit_through_json(amount: int) -> None:
    adapter = TypeAdapter(Amount)
    stored = adapter.dump_python(amount, mode="json")
    assert stored == str(amount)
    assert adapter.validate_python(stored) == amount
    assert adapter.validate_python(amount) == amount


NOT_AMOUNTS = (0, -1, AMOUNT_MAX + 1, True, False, 1.0, 1.5, float("inf"), None, [], {}, b"1")
NOT_DIGITS = (
    "",
    " 1",
    "1 ",
    "+1",
    "-1",
    "1.0",
    "1e3",
    "0x10",
    "1_000",
    "１",
    "9" * 79,
    "9" * 100_000,
    str(AMOUNT_MAX + 1),
)


@pytest.mark.parametrize("value", [*NOT_AMOUNTS, *NOT_DIGITS])
def test_what_is_no_whole_positive_amount_is_refused(value: object) -> None:
    assert refuses(Amount, value)


def test_an_address_is_taken_in_three_spellings_and_kept_in_one() -> None:
    adapter = TypeAdapter(Address)
    for spelling in (WALLET, WALLET.lower(), "0x" + WALLET[2:].upper()):
        assert adapter.validate_python(spelling) == WALLET


@pytest.mark.parametrize(
    "value",
    [
        WALLET.replace("f39F", "F39f"),  # a wrong checksum
        WALLET[2:],
        WALLET[:-1],
        WALLET + "0",
        WALLET + "\n",
        "0X" + WALLET[2:],
        "0x" + "0" * 40,
        "0x" + "g" * 40,
        1,
        None,
    ],
)
def test_what_is_no_address_is_refused(value: object) -> None:
    assert refuses(Address, value)


def test_countries_are_those_of_iso_3166() -> None:
    assert len(COUNTRIES) == 249
    assert (COUNTRIES[250], COUNTRIES[276], COUNTRIES[840], COUNTRIES[4]) == ("FR", "DE", "US", "AF")
    assert len(set(COUNTRIES.values())) == 249


@pytest.mark.parametrize("value", [0, 1, -250, 999, 1000, 65786, "250", 250.0, True, None])
def test_what_is_no_country_code_is_refused(value: object) -> None:
    assert refuses(Country, value)


@pytest.mark.parametrize("value", ["", "lb30", "30LB", "L B", "L" * 17, "LB\n", "LBÉ", "../X", 1])
def test_what_is_no_symbol_is_refused(value: object) -> None:
    assert refuses(Symbol, value)


@pytest.mark.parametrize("value", ["", " Bond", "Bond ", "Bo\nnd", "Bo\x00nd", "\u202ebond", "B" * 65, 1])
def test_what_is_no_name_is_refused(value: object) -> None:
    assert refuses(Name, value)


@pytest.mark.parametrize("value", ["", "a", "a@", "a@b", "a@b.c\nBcc: d@e.fr", "a" * 250 + "@b.fr", 1])
def test_what_is_no_mail_address_is_refused(value: object) -> None:
    assert refuses(Email, value)


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", 2**63, None])
def test_what_is_no_chain_id_is_refused(value: object) -> None:
    assert refuses(ChainId, value)


def test_a_list_that_names_one_thing_twice_says_which() -> None:
    with pytest.raises(ValidationError, match="country given twice: 250"):
        TypeAdapter(Annotated[list[int], distinct("country")]).validate_python([250, 276, 250])
