"""One answer out of several endpoints' answers to the same transaction."""

from typing import Any

import pytest
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from signer.errors import RpcError, RpcNodeError, RpcRejectedError, RpcTransportError, RpcUnavailableError
from signer.rpc.merging import ORDER, RANK, merge
from signer.rpc_errors import ErrorClass, classify

RAW = "0x02f8"
HASH = "0x" + keccak(hexstr=RAW).hex()
WORDS = {
    ErrorClass.PERMANENT: "intrinsic gas too low",
    ErrorClass.KNOWN: "already known",
    ErrorClass.NONCE_LOW: "nonce too low",
    ErrorClass.NONCE_HIGH: "nonce too high",
    ErrorClass.UNDERPRICED_REPLACEMENT: "replacement transaction underpriced",
    ErrorClass.UNDERPRICED: "transaction underpriced",
    ErrorClass.FUNDS: "insufficient funds",
    ErrorClass.LIMIT: "txpool is full",
    ErrorClass.FEE_CAP: "tx fee exceeds the configured cap",
    ErrorClass.AMBIGUOUS: "something new",
}
REFUSALS = [RpcNodeError(text) for text in WORDS.values()]
TROUBLES: list[RpcError] = [
    RpcTransportError("timeout"),
    RpcRejectedError("HTTP 429"),
    RpcUnavailableError("paused"),
]
answers = st.lists(st.sampled_from([HASH, "0x" + "de" * 32, *REFUSALS, *TROUBLES]), min_size=1, max_size=5)


def meaning(answer: Any) -> ErrorClass | None:
    return classify(answer) if isinstance(answer, RpcError) else None


def test_every_class_has_its_place() -> None:
    assert set(ORDER) == set(ErrorClass)
    assert {classify(error) for error in [*REFUSALS, *TROUBLES]} == set(ErrorClass)


@pytest.mark.case("S45")
@given(answers)
def test_any_success_wins(given: list[Any]) -> None:
    merged = merge(RAW, given)
    taken = [answer for answer in given if isinstance(answer, str)]
    assert (merged in taken) if taken else isinstance(merged, RpcError)
    if HASH in taken:
        assert merged == HASH


@given(answers)
def test_order_of_the_endpoints_does_not_matter(given: list[Any]) -> None:
    assert meaning(merge(RAW, given)) == meaning(merge(RAW, given[::-1]))


@given(answers)
def test_refused_for_good_only_when_all_say_so(given: list[Any]) -> None:
    if meaning(merge(RAW, given)) is ErrorClass.PERMANENT:
        assert {meaning(answer) for answer in given} == {ErrorClass.PERMANENT}


@given(answers)
def test_possibly_sent_beats_every_refusal(given: list[Any]) -> None:
    meanings = {meaning(answer) for answer in given}
    if ErrorClass.AMBIGUOUS in meanings and not meanings & {None, ErrorClass.KNOWN}:
        assert meaning(merge(RAW, given)) is ErrorClass.AMBIGUOUS


@pytest.mark.case("S27")
def test_already_known_beats_what_failed_elsewhere() -> None:
    known = RpcNodeError("already known")
    assert merge(RAW, [RpcTransportError("timeout"), RpcNodeError("nonce too low"), known]) is known


def test_somebody_who_was_not_heard_might_take_it() -> None:
    refused, turned_away = RpcNodeError("intrinsic gas too low"), RpcRejectedError("HTTP 429")
    assert merge(RAW, [refused, turned_away]) is turned_away


def test_ranks_are_the_order() -> None:
    assert sorted(RANK, key=lambda error_class: RANK[error_class]) == list(ORDER)
