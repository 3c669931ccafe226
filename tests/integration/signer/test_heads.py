"""New blocks announced over WebSocket: they end a pause early, and a source that does not work costs nothing."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from django.core.management import CommandError, call_command

from dalp.local.servers import AnvilServer, free_port
from signer.models import Chain, Endpoint
from signer.rpc import announcements
from signer.rpc.heads import heads
from tests.integration.signer.stage import Stage


def ws(anvil: AnvilServer) -> str:
    return anvil.url.replace("http://", "ws://")


def waited(next_head: object, seconds: float) -> float:
    began = time.monotonic()
    next_head.wait(seconds)  # type: ignore[attr-defined]
    return time.monotonic() - began


@pytest.fixture(autouse=True)
def unused_sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The threads of a test end with it."""
    monkeypatch.setattr(announcements, "LOOK_SECONDS", 0.1)
    yield
    while announcements._sources:
        announcements._sources.popitem()[1].stop()


@pytest.mark.parametrize("with_a_dead_one_before_it", [False, True])
def test_announced_head_ends_the_wait(manual: Stage, with_a_dead_one_before_it: bool) -> None:
    Endpoint.objects.update(heads_url=ws(manual.anvil), position=1)
    if with_a_dead_one_before_it:
        dead = f"ws://127.0.0.1:{free_port()}"
        Endpoint.objects.create(chain=manual.chain, url=f"{manual.anvil.url}/", heads_url=dead, position=0)
    with heads(manual.chain) as next_head:
        deadline = time.monotonic() + 20
        # Until the subscription stands, a head may go by unheard.
        while waited(next_head, 0.5) > 0.4 and time.monotonic() < deadline:
            manual.mine()
        while waited(next_head, 0.5) < 0.4:  # what was announced by then
            pass
        mining = threading.Timer(0.3, manual.anvil.mine)
        mining.start()
        assert waited(next_head, 10) < 8
        mining.join()


def test_source_is_kept_between_two_slices(manual: Stage) -> None:
    Endpoint.objects.update(heads_url=ws(manual.anvil))
    for _ in range(2):
        with heads(manual.chain) as next_head:
            next_head.wait(0.05)
    assert sum(thread.name == "heads" for thread in threading.enumerate()) == 1


def test_without_a_source_the_wait_is_the_pause(manual: Stage) -> None:
    with heads(manual.chain) as next_head:
        manual.mine()
        assert 0.2 <= waited(next_head, 0.2) < 1


@pytest.mark.parametrize("kind", ["nobody", "silent", "no subscriptions"])
def test_source_that_does_not_work_slows_nothing(
    manual: Stage, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(announcements, "OPEN_SECONDS", 0.5)
    if kind == "nobody":
        Endpoint.objects.update(heads_url=f"ws://127.0.0.1:{free_port()}")
    elif kind == "no subscriptions":
        monkeypatch.setattr(announcements, "SUBSCRIPTION", ("eth_subscribe", ["nothing"]))
        Endpoint.objects.update(heads_url=ws(manual.anvil))
    with socket.create_server(("127.0.0.1", 0)) as server:
        if kind == "silent":
            Endpoint.objects.update(heads_url=f"ws://127.0.0.1:{server.getsockname()[1]}")
        with heads(manual.chain) as next_head:
            for _ in range(4):
                assert waited(next_head, 0.1) < 0.3
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    row.refresh_from_db()
    assert row.state == "COMPLETED"


def test_add_chain_takes_a_websocket_url_as_the_heads_of_the_node_before_it(
    fresh_db: str, anvil: AnvilServer
) -> None:
    arguments = ["--chain-id", "31337", "--name", "local", "--block-time", "1"]
    call_command("add_chain", *arguments, "--rpc", anvil.url, "--rpc", ws(anvil))
    [row] = Endpoint.objects.all()
    assert (row.url, row.heads_url) == (anvil.url, ws(anvil))
    with pytest.raises(CommandError, match="at least one http"):
        call_command("add_chain", *arguments, "--rpc", ws(anvil))


def test_add_chain_says_how_the_chain_is_used_and_keeps_what_it_is_not_told(
    fresh_db: str, anvil: AnvilServer
) -> None:
    arguments = ["--chain-id", "31337", "--name", "local", "--rpc", anvil.url]
    how = "--finality finalized --max-fee-gwei 30.5 --ceiling-percent 300 --max-in-flight-adaptive 64 --foreign-nonces adopt"
    call_command("add_chain", *arguments, *how.split(), "--l1-fee-oracle", "0x" + "42" * 20)
    call_command("add_chain", *arguments)
    chain = Chain.objects.get()
    assert (chain.finality, chain.max_in_flight_adaptive, chain.foreign_nonces) == ("FINALIZED", 64, "ADOPT")
    assert (int(chain.max_fee_per_gas_wei), chain.ceiling_percent) == (30_500_000_000, 300)
    assert chain.l1_fee_oracle == "0x" + "42" * 20
    for wrong in (["--ceiling-percent", "112"], ["--l1-fee-oracle", "0x12"], ["--max-fee-gwei", "0"]):
        with pytest.raises(CommandError, match=wrong[0]):
            call_command("add_chain", *arguments, *wrong)


def test_add_chain_asks_a_websocket_who_it_is(
    fresh_db: str, anvil: AnvilServer, start_anvil: Callable[..., AnvilServer]
) -> None:
    stranger = start_anvil(chain_id=5)
    secret = f"ws://127.0.0.1:{free_port()}/0123456789abcdef"
    for url, words in ((ws(stranger), "serves chain 5"), (secret, "127.0.0.1")):
        with pytest.raises(CommandError, match=words) as refused:
            call_command("add_chain", "--chain-id", "31337", "--name", "x", "--rpc", anvil.url, "--rpc", url)
        assert "0123456789abcdef" not in str(refused.value)
    assert not Chain.objects.exists()


def test_no_log_line_shows_the_key_in_the_url(manual: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secret = "0123456789abcdef0123456789abcdef"
    Endpoint.objects.update(heads_url=f"{ws(manual.anvil)}/{secret}")
    with heads(manual.chain) as next_head, suppress(Exception):
        next_head.wait(0.5)
    assert secret not in caplog.text
