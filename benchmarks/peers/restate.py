"""Restate: a server of its own with its own log on the disk, which calls our service over HTTP/2 for every run."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests

from benchmarks.config import RUNS
from benchmarks.contest import Sample
from benchmarks.peers import program
from benchmarks.peers.environment import python, restate_binary
from benchmarks.stage import CONCURRENCY, Stage
from benchmarks.workflows import STEPS
from dalp.local.processes import Process, wait_until
from dalp.local.servers import HOST, Server, free_port


def measure(stage: Stage) -> Sample:
    """Run the client's program beside a fresh server and a fresh service."""
    with stage.quiet(), running(stage.directory) as server:
        sample = program.measure("restate_client", server.url, stage.directory / "restate_client.log")
        server.verify()
        return sample


@contextmanager
def running(directory: Path) -> Iterator["RestateServer"]:
    with ExitStack() as opened:
        server = RestateServer()
        opened.callback(server.stop)
        server.start()
        service = start_service(directory / "restate_service.log", port := free_port())
        opened.callback(service.stop)
        # All of its processes: else the server's connections, which stay, would all go to the first.
        wait_until(
            lambda: service.output().count("Running on") == CONCURRENCY,
            what="the service is up",
            alive=[service],
        )
        # On a busy machine the server answers before all of its parts are up.
        wait_until(
            lambda: server.register(f"http://{HOST}:{port}"),
            what="the service is registered",
            alive=[service],
        )
        yield server


class RestateServer(Server):
    """One node with everything at its default but addresses, the log's verbosity and telemetry: each record is synced."""

    name = "Restate"

    def __init__(self) -> None:
        super().__init__(None)
        self.admin_port, self.node_port = free_port(), free_port()
        (self.directory / "restate.toml").write_text(
            f"""
            bind-address = "{HOST}:{self.node_port}"
            listen-mode = "tcp"
            log-filter = "warn"
            disable-telemetry = true
            [ingress]
            bind-address = "{HOST}:{self.port}"
            [admin]
            bind-address = "{HOST}:{self.admin_port}"
            """
        )

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        places = ["--config-file", self.directory / "restate.toml", "--base-dir", self.directory / "data"]
        return [restate_binary(), "--no-logo", *places]

    def answers(self) -> bool:
        doors = (f"{self.admin_port}/health", f"{self.port}/restate/health")
        try:
            return all(requests.get(f"http://{HOST}:{door}", timeout=1).ok for door in doors)
        except requests.RequestException:
            return False

    def register(self, service_url: str) -> bool:
        return self.ask("deployments", {"uri": service_url}).ok

    def verify(self) -> None:
        """Raise unless every run has succeeded, every step is in its journal, and the log was synced to the disk."""
        runs = self.count("sys_invocation WHERE completion_result = 'success'")
        steps = self.count("sys_journal WHERE entry_type = 'Command: Run'")
        if steps != runs * STEPS or runs != RUNS + program.WARM_UP:
            raise RuntimeError(f"Restate has {runs} runs and {steps} steps")
        if not self.syncs():
            raise RuntimeError("Restate does not wait for the disk: this would measure another thing")

    def count(self, rows: str) -> int:
        answer = self.ask("query", {"query": f"SELECT count(*) AS found FROM {rows}"})
        answer.raise_for_status()
        return answer.json()["rows"][0]["found"]

    def syncs(self) -> int:
        """Return how many times the server has synced its log."""
        metrics = requests.get(f"http://{HOST}:{self.node_port}/metrics", timeout=10).text
        found = re.search(
            r'^restate_rocksdb_wal_synced_total\{.*db="log-server"\} (\d+)', metrics, re.MULTILINE
        )
        return int(found[1]) if found else 0

    def ask(self, path: str, body: dict[str, str]) -> requests.Response:
        url = f"http://{HOST}:{self.admin_port}/{path}"
        return requests.post(url, json=body, headers={"Accept": "application/json"}, timeout=60)


def start_service(log: Path, port: int) -> Process:
    """Start the service under hypercorn, with the settings that Restate's documentation gives for production."""
    log.unlink(missing_ok=True)  # of the round before: who waits counts the lines that say it is up
    settings = log.with_suffix(".toml")
    settings.write_text(
        f"""
        bind = "{HOST}:{port}"
        workers = {CONCURRENCY}
        h2_max_concurrent_streams = 2147483647
        keep_alive_max_requests = 2147483647
        keep_alive_timeout = 2147483647
        """
    )
    application = "benchmarks.peers.programs.restate_service:app"
    command = [python(), "-m", "hypercorn", "--config", settings, application]
    return Process("Restate service", command, log=log, env={"STEPS": str(STEPS)})
