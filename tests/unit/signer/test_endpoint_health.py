"""When an endpoint is left alone, for how long, and who is behind; by a clock that only the test moves."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from signer.chains import sorted_urls
from signer.errors import (
    CallRevertedError,
    ChainMismatchError,
    RpcError,
    RpcNodeError,
    RpcRejectedError,
    RpcTooLargeError,
    RpcTransportError,
)
from signer.rpc import breaker, health
from signer.rpc.answers import node_error
from signer.rpc.contacts import Contact, Identity, Reply
from signer.rpc.freshness import Head, behind
from signer.rpc.health import Health
from signer.rpc.methods import HEAVY, LIGHT, ORDINARY, share
from signer.rpc.pauses import Standing, unreachable_since
from signer.rpc.transport import Node
from signer.states import PauseKind

LOST = RpcTransportError("timeout")
GENESIS = "0x" + "ab" * 32


class Clock:
    """Stands for `time` in the modules under test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("signer.rpc.contacts.time", clock)
    return clock


@pytest.fixture
def contact() -> Contact:
    return Contact(1, Node("http://node.example/key"), Identity(1, GENESIS), Health(), proof_seconds=30)


def hears(contact: Contact, *answers: Any, is_lone: bool = False) -> None:
    contact.note(Reply(list(answers), 0.1, LIGHT), is_lone=is_lone, pause_seconds=60)


def test_three_failures_in_a_row_pause_and_a_success_between_does_not(contact: Contact, clock: Clock) -> None:
    hears(contact, LOST)
    hears(contact, LOST)
    hears(contact, "0x1")
    hears(contact, LOST)
    hears(contact, LOST)
    assert contact.health.is_usable()
    hears(contact, LOST)
    assert not contact.health.is_usable()
    assert [pause.kind for pause in contact.health.unwritten] == [PauseKind.FAILING]  # type: ignore[union-attr]


def test_pause_ends_with_a_probe_and_not_by_itself(contact: Contact, clock: Clock) -> None:
    for _ in range(3):
        hears(contact, LOST)
    clock.now += 59
    assert contact.health.is_paused(clock.now)
    clock.now += 2
    assert not contact.health.is_paused(clock.now)
    assert not contact.health.is_usable()
    contact.resume()
    assert contact.health.is_usable()


def test_last_endpoint_is_tried_again_sooner(contact: Contact, clock: Clock) -> None:
    for _ in range(3):
        hears(contact, LOST, is_lone=True)
    assert contact.health.paused_until - clock.now == breaker.LONE_PAUSE_SECONDS


@pytest.mark.case("S40")
@pytest.mark.parametrize(
    "error",
    [
        {"code": -32603, "message": "Internal error", "data": {"message": "nonce too low"}},
        {"code": -32603, "message": "internal error"},
        {"code": -32000, "message": "execution reverted: too many requests"},
        {"code": 3, "message": "execution reverted: quota exceeded"},
        {"code": -32000, "message": "sender is forbidden"},
        {"code": -32005, "message": "limit exceeded"},
    ],
)
def test_error_answer_never_pauses(contact: Contact, clock: Clock, error: dict[str, Any]) -> None:
    for _ in range(10):
        hears(contact, node_error(error))
    assert contact.health.is_usable()


@pytest.mark.case("S50")
@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RpcRejectedError("HTTP 429", 429, 17.0), 17.0),
        (RpcRejectedError("HTTP 429", 429), breaker.RATE_PAUSE_SECONDS),
        (RpcRejectedError("HTTP 403", 403), 60.0),
        (RpcNodeError("Too Many Requests", rpc_code=429), breaker.RATE_PAUSE_SECONDS),
        (RpcNodeError("daily request rate limit reached", rpc_code=-32005), breaker.RATE_PAUSE_SECONDS),
    ],
)
def test_being_turned_away_pauses_at_once(
    contact: Contact, clock: Clock, error: RpcError, seconds: float
) -> None:
    hears(contact, "0x1", error)
    assert contact.health.pause is not None
    assert contact.health.pause.kind == PauseKind.TURNED_AWAY
    assert contact.health.paused_until - clock.now == seconds


def test_too_large_a_batch_is_nobodys_failure(contact: Contact, clock: Clock) -> None:
    for _ in range(5):
        hears(contact, RpcTooLargeError("batch too large"))
    assert contact.health.is_usable()


@pytest.mark.case("S49", "PC10")
def test_another_chain_pauses_at_once(contact: Contact, clock: Clock) -> None:
    hears(contact, ChainMismatchError("serves chain 5, not 1"))
    assert contact.health.pause is not None
    assert contact.health.pause.kind == PauseKind.WRONG_CHAIN


@pytest.mark.case("S49", "S68", "PC10")
@pytest.mark.parametrize(
    ("proof", "error"),
    [
        (["0x5", {"hash": GENESIS}], ChainMismatchError),
        (["0x1", {"hash": "0x" + "cd" * 32}], ChainMismatchError),
        (["0x1", None], RpcTransportError),
        (["0x1", {}], RpcTransportError),
        ([None, {"hash": GENESIS}], RpcTransportError),
        (["0x1", LOST], RpcTransportError),
        ([RpcNodeError("method not found"), {"hash": GENESIS}], RpcTransportError),
        ([RpcRejectedError("HTTP 429"), RpcRejectedError("HTTP 429")], RpcRejectedError),
    ],
)
def test_only_a_whole_proof_is_one(proof: list[Any], error: type[RpcError]) -> None:
    identity = Identity(1, GENESIS)
    identity.check("node", ["0x1", {"hash": GENESIS.upper().replace("X", "x")}])
    with pytest.raises(error) as failed:
        identity.check("node", proof)
    assert type(failed.value) is error


def test_proof_is_due_at_first_after_a_pause_and_every_now_and_then(contact: Contact, clock: Clock) -> None:
    assert contact.proof_is_due()
    contact.health.proven_at = clock.now
    clock.now += 29
    assert not contact.proof_is_due()
    clock.now += 1
    assert contact.proof_is_due()
    contact.health.proven_at = clock.now
    hears(contact, RpcRejectedError("HTTP 429"))
    assert contact.proof_is_due()


@pytest.mark.case("S50")
def test_only_what_is_no_answer_is_asked_of_another() -> None:
    assert [
        breaker.wants_another(answer)
        for answer in (
            LOST,
            RpcRejectedError("HTTP 403"),
            ChainMismatchError("x"),
            RpcNodeError("rate limit"),
        )
    ] == [True] * 4
    assert [
        breaker.wants_another(answer)
        for answer in (
            None,
            "0x1",
            RpcNodeError("nonce too low"),
            CallRevertedError("quota"),
            RpcNodeError("?"),
        )
    ] == [False] * 5


# --- Patience ---------------------------------------------------------------------------------------------------


def test_patience_grows_with_what_is_usual_and_has_an_end() -> None:
    known = Health()
    assert known.patience(LIGHT, 1.0) == 1.0
    for _ in range(30):
        known.answered(0.6, LIGHT)
    assert known.patience(LIGHT, 1.0) == pytest.approx(1.8)
    assert known.patience(ORDINARY, 1.0) == 1.0
    known.waited_in_vain(9.0, LIGHT)
    assert known.patience(LIGHT, 1.0) == health.PATIENCE_SECONDS_MAX


def test_batch_takes_as_long_as_its_slowest_method() -> None:
    assert share([("eth_chainId", [])]) == LIGHT
    assert share([("eth_chainId", []), ("eth_sendRawTransaction", ["0x"])]) == ORDINARY
    assert share([("eth_chainId", []), ("eth_estimateGas", [{}])]) == HEAVY


# --- Heads ------------------------------------------------------------------------------------------------------


@pytest.mark.case("PC11", "S46")
def test_who_is_more_than_a_few_blocks_back_is_behind() -> None:
    heads = {"a": Head(100), "b": Head(97), "c": Head(96)}
    assert behind(heads, block_seconds=12) == {"c"}
    # Many blocks of a fast chain are a moment.
    assert behind(heads, block_seconds=0.25) == set()
    assert behind({"a": Head(100), "b": Head(79)}, block_seconds=0.25) == {"b"}


@pytest.mark.case("PC11")
def test_head_that_stands_still_for_long_is_behind() -> None:
    assert behind({"a": Head(100, 61)}, block_seconds=1) == {"a"}
    assert behind({"a": Head(100, 61)}, block_seconds=12) == set()
    assert behind({"a": Head(100, 241)}, block_seconds=12) == {"a"}


def test_head_that_nobody_looked_at_has_not_stood_still() -> None:
    known = Health()
    assert known.saw_head(5, 0.0)
    assert not known.saw_head(5, 20.0)
    assert known.head_moved_at == 0.0
    assert not known.saw_head(5, 600.0)
    assert known.head_moved_at == 600.0


# --- Telling people ---------------------------------------------------------------------------------------------

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def test_chain_is_unreachable_when_its_last_endpoint_has_been_for_a_while() -> None:
    def since(*minutes: int | None) -> datetime | None:
        standings = [
            Standing("h", None if m is None else NOON - timedelta(minutes=m), "FAILING", "") for m in minutes
        ]
        return unreachable_since(standings, NOON, patience_seconds=90)

    assert since(5, None) is None
    assert since(5, 1) is None
    assert since(5, 2) == NOON - timedelta(minutes=2)
    assert since() is None


def test_websocket_url_belongs_to_the_node_before_it() -> None:
    assert sorted_urls(["http://a", "ws://b", "https://c"]) == [("http://a", "ws://b"), ("https://c", "")]
    assert sorted_urls(["wss://b", "http://a"]) == [("http://a", "wss://b")]
    with pytest.raises(ValueError, match="at least one"):
        sorted_urls(["ws://b"])
