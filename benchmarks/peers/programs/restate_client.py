"""Restate: send every run without waiting for it, then wait for each one's result.

Plain HTTP over connections that stay open, without a client library: a heavier one takes a visible part of two cores.
"""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import urlsplit

from benchmarks.peers.programs.task import SENDERS, Task, answer


def main() -> None:
    task = Task.from_command_line()
    ingress = Ingress(task.url)
    with ThreadPoolExecutor(SENDERS) as senders:
        run(ingress, senders, task.warm_up)
        answer(*run(ingress, senders, task.runs))


def run(ingress: "Ingress", senders: ThreadPoolExecutor, runs: int) -> tuple[float, float]:
    """Return the seconds until all are finished, and until all were sent."""
    began = time.perf_counter()
    invocations = list(senders.map(lambda _: ingress.send(), range(runs)))
    submitted = time.perf_counter()
    for invocation in invocations:
        ingress.attach(invocation)
    return time.perf_counter() - began, submitted - began


class Ingress:
    """The server's door for requests, with a connection per thread."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url).netloc
        self._local = threading.local()

    def send(self) -> str:
        return json.loads(self._request("POST", "/TenSteps/run/send"))["invocationId"]

    def attach(self, invocation: str) -> None:
        """Wait for the end; raises RuntimeError when the run failed."""
        self._request("GET", f"/restate/invocation/{invocation}/attach")

    def _request(self, method: str, path: str) -> bytes:
        if not hasattr(self._local, "connection"):
            self._local.connection = HTTPConnection(self.address, timeout=60)
        self._local.connection.request(method, path)
        response = self._local.connection.getresponse()
        body = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {body.decode(errors='replace')}")
        return body


if __name__ == "__main__":
    main()
