"""The client against the small identity provider, and against servers that misbehave. Real sockets."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from dalp.assets import registration
from dalp.assets.identity_provider import IdentityProvider
from dalp.assets.registration import register_holders
from dalp.local import servers
from workflows import PermanentError, TransientError

BODY = {"token": "0x1", "holders": [{"wallet": "0x2", "amount": "5"}]}


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    server = IdentityProvider()
    with serving(server):
        yield server


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None: ...

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def reply(status: int, body: bytes = b"{}", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_asking_twice_with_one_key_registers_once(provider: IdentityProvider) -> None:
    first = register_holders(provider.url, BODY, "run:step#0")
    assert register_holders(provider.url + "/", BODY, "run:step#0") == first
    assert register_holders(provider.url, BODY, "run:other#0") != first
    listed = requests.get(provider.url + "/registrations", timeout=5).json()["registrations"]
    assert [(each["key"], each["requests"], each["body"]) for each in listed] == [
        ("run:step#0", 2, BODY),
        ("run:other#0", 1, BODY),
    ]


def test_one_key_for_two_bodies_is_refused_for_good(provider: IdentityProvider) -> None:
    register_holders(provider.url, BODY, "key")
    with pytest.raises(PermanentError, match="422") as refused:
        register_holders(provider.url, {"token": "0x9"}, "key")
    assert refused.value.code == "IDENTITY_PROVIDER_REFUSED"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_final(status: int) -> None:
    with (
        answering(reply(status, b'{"detail": "unknown holder"}')) as url,
        pytest.raises(PermanentError, match="unknown"),
    ):
        register_holders(url, BODY, "key")


@pytest.mark.parametrize("status", [302, 408, 409, 425, 429, 500, 502, 503])
def test_everything_else_is_tried_again(status: int) -> None:
    with answering(reply(status, Location="http://127.0.0.1:1/")) as url, pytest.raises(TransientError):
        register_holders(url, BODY, "key")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"id": 5}', b'{"id": ""}', b"\xff\xfe"])
def test_an_answer_without_an_id_is_tried_again(body: bytes) -> None:
    with answering(reply(200, body)) as url, pytest.raises(TransientError) as unclear:
        register_holders(url, BODY, "key")
    assert unclear.value.code == "IDENTITY_PROVIDER_UNCLEAR"


def test_a_provider_that_hangs_or_is_down_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "TIMEOUT_SECONDS", (0.2, 0.2))
    released = threading.Event()
    with answering(lambda handler: released.wait(5) and None) as url:
        with pytest.raises(TransientError, match="Timeout"):
            register_holders(url, BODY, "key")
        released.set()
    with pytest.raises(TransientError) as down:
        register_holders(f"http://127.0.0.1:{servers.free_port()}", BODY, "key")
    assert down.value.code == "IDENTITY_PROVIDER_UNREACHABLE"


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"{}", 400),
        ({"Idempotency-Key": "k"}, b"not json", 400),
        ({"Idempotency-Key": "k"}, b"[]", 400),
        ({"Idempotency-Key": "k"}, b'"' + b"x" * 1024 * 1024 + b'"', 413),
    ],
)
def test_the_provider_stores_nothing_of_a_bad_request(
    provider: IdentityProvider, headers: dict[str, str], body: bytes, status: int
) -> None:
    try:
        answer = requests.post(provider.url + "/registrations", data=body, headers=headers, timeout=5)
    except requests.ConnectionError:
        # It need not read a megabyte to refuse it.
        assert status == 413
    else:
        assert answer.status_code == status
    assert provider.registry.all() == []
