"""How many calls go into one request."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from signer.rpc.door import REQUEST_BYTES, Call, portion


def raw(size: int) -> Call:
    return ("eth_sendRawTransaction", ["0x" + "00" * (size // 2 - 1)])


def test_small_calls_are_bounded_by_their_number() -> None:
    calls: list[Call] = [("eth_getBalance", ["0x" + "11" * 20, "latest"])] * 250
    assert len(portion(calls, 100)) == 100


def test_large_calls_are_bounded_by_their_bytes_wherever_these_are() -> None:
    assert len(portion([raw(400_000)] * 10, 100)) == 2
    estimate: Call = ("eth_estimateGas", [{"from": "0x", "data": "0x" + "00" * 200_000}, "latest"])
    assert len(portion([estimate] * 10, 100)) == 2


@given(st.lists(st.integers(2, 2 * REQUEST_BYTES), min_size=1, max_size=20), st.integers(1, 10))
def test_every_call_is_asked_once_and_in_order(sizes: list[int], size: int) -> None:
    calls: Any = [("eth_sendRawTransaction", ["x" * each]) for each in sizes]
    asked: list[Call] = []
    while len(asked) < len(calls):
        part = portion(calls[len(asked) :], size)
        assert 1 <= len(part) <= size
        assert len(part) == 1 or sum(len(params[0]) for _, params in part) <= REQUEST_BYTES
        asked += part
    assert asked == calls
