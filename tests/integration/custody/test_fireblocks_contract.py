"""Requests of our client, and answers of the fake, are valid by Fireblocks' own OpenAPI document: Prism stands between.

For nights: `make contract-fireblocks SPEC=/path/to/api-spec-v2.yaml`, with the document of
github.com/fireblocks/fireblocks-openapi-spec. Prism writes bodies anew, so their hash is not looked at here.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import keyguard
from keyguard import CustodyState, HandOverRequest
from keyguard.backends import custodies
from keyguard.backends.remote import DigestPayload, MessagePayload, remote_signer_of
from tests.fakes.credentials import VAULT
from tests.fakes.fireblocks import FakeFireblocks
from tests.integration.custody.asking import TO

SPEC, PRISM = os.environ.get("FIREBLOCKS_SPEC", ""), os.environ.get("PRISM", "")
START_SECONDS = 60

pytestmark = [
    pytest.mark.skipif(not SPEC or not PRISM, reason="for nights: make contract-fireblocks SPEC=..."),
    pytest.mark.timeout(300),
]


@pytest.fixture
def proxied(fireblocks: FakeFireblocks, settings: Any, tmp_path: Path) -> Iterator[FakeFireblocks]:
    """The fake behind Prism, which answers 4xx or 5xx itself where either side breaks the document."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PRISM, "proxy", SPEC, fireblocks.url, "--errors", "--port", str(port), "--host", "127.0.0.1"]
    fireblocks.checks_body_and_uri = False
    with (tmp_path / "prism.log").open("wb") as log:
        prism = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            assert prism.poll() is None, (tmp_path / "prism.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "Prism does not listen"
            time.sleep(0.2)
        settings.FIREBLOCKS_BASE_URL = f"http://127.0.0.1:{port}"
        custodies.forget()
        yield fireblocks
    finally:
        prism.terminate()
        prism.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.case("K56")
def test_both_directions_keep_to_the_document(fresh_db: str, proxied: FakeFireblocks, settings: Any) -> None:
    settings.FIREBLOCKS_ALLOW_RAW = [VAULT]
    key = keyguard.bind_key("vault", "fireblocks", VAULT)
    proxied.keep = True
    for external_id, data in (("pay", "0x"), ("call", "0xa9059cbb")):
        call = {"chainId": 31337, "from": key.address, "to": TO, "value": 1, "data": data}
        report = keyguard.hand_over(HandOverRequest(external_id, key.address, call), timeout_seconds=20)
        assert report.state == CustodyState.WORKING
        assert keyguard.custody_status(external_id, timeout_seconds=20).state == CustodyState.WORKING
    assert keyguard.call_off("call", timeout_seconds=20).state == CustodyState.REFUSED
    proxied.keep = False
    signer = remote_signer_of("fireblocks")
    for payload in (MessagePayload(b"hello"), DigestPayload(bytes(range(32)))):
        external_id = type(payload).__name__
        signer.submit(key, external_id, payload, timeout_seconds=20)
        assert isinstance(signer.find(key, external_id, payload, timeout_seconds=20), bytes)
