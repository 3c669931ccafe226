"""Words of nodes without what changes each time, and the rules that are suggested for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signer.models.error_rules import NORMALISED_LENGTH, Meaning
from signer.patterns import Pattern
from signer.rpc_errors import ErrorClass
from signer.unknown_texts import normalised, sample_of, suggested_pattern

ADDRESS = "0x" + "aB" * 20


@pytest.mark.case("S43")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("the nonce 5 is odd", "the nonce 1234 is odd"),
        (f"sender {ADDRESS} is  tired", f"sender {'0x' + '12' * 20} is tired"),
        ("tx 0xabcdef was dropped", f"tx 0x{'9' * 64} was dropped"),
        ("busy (request 5e0f7c1a-90aa)", "busy (request 77777777-90ab)"),
        ("see https://a.example/v3/k1", "see https://b.example/?key=k2"),
        ("fee 12.5 below 1,000,000", "fee 3 below 7"),
    ],
)
def test_what_differs_in_numbers_and_names_alone_is_one_text(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)
    suggested = Pattern(suggested_pattern(normalised(one)))
    assert suggested.matches(other)
    assert suggested.matches(sample_of(one)), "what is kept of it is all that a person can try the rule on"


@pytest.mark.parametrize(
    "secret",
    [
        "https://node.example/v3/0123456789abcdef0123456789abcdef",
        "project 0123456789abcdef0123456789abcdef is over its limit",
        "raw 0x" + "f8" * 60,
        "wss://user:hunter2@node.example",
    ],
)
def test_no_secret_is_kept(secret: str) -> None:
    for kept in (normalised(secret), sample_of(secret)):
        assert not [part for part in ("0123456789abcdef", "f8f8f8", "hunter2") if part in kept]


def test_a_sample_keeps_what_helps_a_person() -> None:
    assert sample_of(f"nonce 5 of {ADDRESS}") == f"nonce 5 of {ADDRESS}"


@given(st.text(max_size=2000))
def test_any_text_is_stored_and_read_back(text: str) -> None:
    once = normalised(text)
    assert len(once) <= NORMALISED_LENGTH
    assert "\x00" not in once + sample_of(text)
    Pattern(suggested_pattern(once))


def test_every_class_can_be_chosen() -> None:
    assert {choice.value for choice in Meaning} == {choice.value for choice in ErrorClass}
