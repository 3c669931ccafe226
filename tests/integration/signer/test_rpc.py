"""The door to a node: asked once, believed only when it answers."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from dalp.local.servers import AnvilServer
from signer import RpcNodeError, RpcRejectedError, RpcTransportError
from signer.errors import RpcTooLargeError
from signer.rpc import Node
from signer.rpc.answers import match
from signer.rpc.transport import retry_after
from signer.rpc_errors import ErrorClass, classify
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
        time.sleep(0.6)

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


def test_answers_in_another_order_are_matched_by_id() -> None:
    assert match([{"id": 1, "result": "b"}, {"id": 0, "result": "a"}], 2) == ["a", "b"]


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
def test_shapeless_answers_are_errors(reply: Any) -> None:
    assert [type(answer) for answer in match(reply, 2)] == [RpcTransportError] * 2


def test_one_error_for_a_whole_batch_is_every_calls_error() -> None:
    reply = {"id": None, "error": {"code": -32600, "message": "invalid request"}}
    assert [type(answer) for answer in match(reply, 2)] == [RpcNodeError] * 2


@pytest.mark.case("S51")
@pytest.mark.parametrize(
    "body",
    [b"<html>Bad gateway</html>", b"", b"\xff\xfe", b"[1, 2", b"[" * 500_000],
    ids=["html", "empty", "no text", "cut off", "nested so deeply that it would end the process"],
)
def test_body_that_is_not_json_is_possibly_sent(node: LyingNode, body: bytes) -> None:
    node.garble = body
    [answer] = Node(node.url).batch([(SEND, ["0x00"])])
    assert isinstance(answer, RpcTransportError)
    assert classify(answer) is ErrorClass.AMBIGUOUS
    node.garble, node.truncate = None, True
    assert isinstance(Node(node.url).batch([(SEND, ["0x00"])])[0], RpcTransportError)


def test_answer_that_drips_in_is_given_up() -> None:
    """The socket's time-out begins anew with every byte; the request's does not."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            with suppress(OSError), server.accept()[0] as client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while True:
                    client.sendall(b" ")
                    time.sleep(0.05)

        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        began = time.monotonic()
        [answer] = Node(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=0.4).batch(
            [("eth_chainId", [])]
        )
        dripping.join(5)
    assert isinstance(answer, RpcTransportError)
    assert time.monotonic() - began < 2


def test_connections_are_kept(node: LyingNode) -> None:
    rpc = Node(node.url)
    for _ in range(5):
        assert rpc.call("eth_chainId") == "0x7a69"
    assert node.connections == 1


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
def test_turned_away_is_not_sent(node: LyingNode, status: int) -> None:
    node.status, node.retry_after = status, "7"
    [answer] = Node(node.url).batch([(SEND, ["0x00"])])
    assert isinstance(answer, RpcRejectedError)
    assert (answer.status, answer.retry_after_seconds) == (status, 7.0)
    assert classify(answer) is ErrorClass.RATE
    assert node.seen[SEND] == 0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("0", 1.0),
        ("2.5", 2.5),
        ("100000", 300.0),
        ("Thu, 01 Jan 1970 00:01:30 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_honoured_within_reason(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, now=30.0) == seconds


def test_batch_that_is_too_large_is_told_from_other_refusals(node: LyingNode) -> None:
    calls: list[Any] = [("eth_chainId", [])] * 3
    node.batch_max = 2
    assert [type(answer) for answer in Node(node.url).request(calls)] == [RpcTooLargeError] * 3
    node.batch_max, node.status = None, 413
    assert [type(answer) for answer in Node(node.url).request(calls)] == [RpcTooLargeError] * 3
