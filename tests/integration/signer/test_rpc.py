"""The door to a node: asked once, believed only when it answers."""

from collections.abc import Iterator
from typing import Any

import pytest

from dalp.local.servers import AnvilServer
from signer import RpcNodeError, RpcRejectedError, RpcTransportError
from signer.rpc import Node
from tests.integration.signer.lying_node import Call, LyingNode

SEND = "eth_sendRawTransaction"


@pytest.fixture
def node(anvil: AnvilServer) -> Iterator[LyingNode]:
    node = LyingNode(anvil.url)
    yield node
    node.stop()


@pytest.mark.case("PC1")
@pytest.mark.parametrize("count", [1, 3])
def test_server_error_and_timeout_reach_the_node_once(node: LyingNode, count: int) -> None:
    calls = [(SEND, ["0x00"])] * count
    node.lose_answers = True
    answers = Node(node.url).batch(calls)
    assert [type(answer) for answer in answers] == [RpcTransportError] * count
    assert node.seen[SEND] == count
    node.lose_answers = False

    def slow(call: Call) -> None:
        node.seen["slow"] += 1
        __import__("time").sleep(0.6)

    node.lie = slow
    [answer] = Node(node.url, timeout=0.2).batch(calls[:1])
    assert isinstance(answer, RpcTransportError)
    assert node.seen["slow"] == 1


@pytest.mark.case("PC1")
def test_dropped_connection_is_not_tried_again(node: LyingNode) -> None:
    node.lose_requests = True
    rpc = Node(node.url)
    with pytest.raises(RpcTransportError):
        rpc.call("eth_chainId")
    node.lose_requests = False
    assert rpc.call("eth_chainId") == "0x7a69"


def test_large_batch_is_split_and_answers_keep_their_places(node: LyingNode) -> None:
    calls = [("eth_getBlockByNumber", [hex(n), False]) for n in (0, *[5] * 249, 0)]
    answers = Node(node.url).batch(calls)
    assert len(answers) == 251
    assert answers[0] == answers[-1]
    assert answers[0]["number"] == "0x0"
    assert answers[1:-1] == [None] * 249


def test_calls_left_out_of_an_answer_are_errors_and_the_rest_stands(node: LyingNode) -> None:
    node.leave_out = {"eth_gasPrice"}
    chain_id, gas_price, number = Node(node.url).batch(
        [("eth_chainId", []), ("eth_gasPrice", []), ("eth_blockNumber", [])]
    )
    assert (chain_id, number) == ("0x7a69", "0x0")
    assert isinstance(gas_price, RpcTransportError)


def answering(monkeypatch: pytest.MonkeyPatch, reply: Any) -> Node:
    rpc = Node("http://127.0.0.1:1")
    monkeypatch.setattr(rpc, "_post", lambda body: reply)
    return rpc


def test_answers_in_another_order_are_matched_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    rpc = answering(monkeypatch, [{"id": 1, "result": "b"}, {"id": 0, "result": "a"}])
    assert rpc.batch([("x", []), ("y", [])]) == ["a", "b"]


@pytest.mark.case("S51")
@pytest.mark.parametrize(
    "reply",
    [
        None,
        5,
        "text",
        [],
        [None],
        [{"id": 7, "result": 1}],
        {"id": None},
        [{"id": "0", "result": 1}],
        [{"id": True}],
    ],
)
def test_shapeless_answers_are_errors(monkeypatch: pytest.MonkeyPatch, reply: Any) -> None:
    answers = answering(monkeypatch, reply).batch([("x", []), ("y", [])])
    assert [type(answer) for answer in answers] == [RpcTransportError] * 2


def test_one_error_for_a_whole_batch_is_every_calls_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rpc = answering(monkeypatch, {"id": None, "error": {"code": -32600, "message": "batch too large"}})
    assert [type(answer) for answer in rpc.batch([("x", []), ("y", [])])] == [RpcNodeError] * 2


def test_no_error_shows_the_key_in_the_url() -> None:
    secret = "0123456789abcdef0123456789abcdef"
    rpc = Node(f"http://127.0.0.1:1/v3/{secret}")
    assert secret not in repr(rpc)
    with pytest.raises(RpcTransportError) as failed:
        rpc.call("eth_chainId")
    error: BaseException | None = failed.value
    while error is not None:
        if error.__suppress_context__:
            assert secret not in str(error)
        error = error.__cause__
    assert secret not in str(failed.value)


@pytest.mark.case("S50")
@pytest.mark.parametrize("status", [401, 403, 429])
def test_turned_away_is_not_sent(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    from signer import provider as module

    response = requests.Response()
    response.status_code, response.url = status, "http://node.example/key"

    def refuse(self: object, body: bytes) -> bytes:
        raise requests.HTTPError(response=response)

    monkeypatch.setattr(module.Provider, "post", refuse)
    [answer] = Node("http://node.example/key").batch([(SEND, ["0x00"])])
    assert isinstance(answer, RpcRejectedError)
    assert "key" not in answer.message
