"""Workers that begin with their libraries loaded: forked from a process that has imported them and nothing of ours.

The suite starts some hundred workers. Most of a worker's start is the import of libraries, the same each time, and more
than half of what the suite would cost. What a forked one runs is what `python -m celery ...` runs, with an environment,
a log and a process group of its own; settings and our own modules it reads itself.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from dalp.local.processes import die_with_parent
from tests import watching

# Nothing here may read Django's settings when it is imported.
LIBRARIES = """
    celery.bin.celery celery.bin.worker celery.bin.beat celery.apps.worker celery.apps.beat celery.worker.consumer celery.worker.strategy
    celery.concurrency.prefork celery.concurrency.thread celery.fixups.django celery.backends.redis kombu.transport.redis kombu.pools
    gunicorn.app.wsgiapp gunicorn.workers.gthread
    django.contrib.admin django.core.management django.core.checks django.core.mail django.core.cache django.db.models django.db.models.sql
    django.db.backends.postgresql.base django.db.backends.sqlite3.base django.db.migrations.executor django.forms django.shortcuts
    django.template.loader django.test.client django.urls django.utils.log django.views.generic
    environ sentry_sdk structlog rich.traceback psycopg redis requests urllib3 pydantic websockets.sync.client regex yaml
    web3 eth_abi eth_account rlp Crypto.Hash.keccak coincurve cryptography.hazmat.primitives.ciphers.aead
"""


MESSAGE_BYTES = 100_000


class Child:
    """What `subprocess.Popen` is to a process that somebody else forked."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self._nursery, self.pid = nursery, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ended(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self._nursery.listen(left)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Nursery:
    """The process that forks them, and what it has told of them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._codes: dict[int, int] = {}
        self._started: int | None = None

    def launch(self, command: list[str], **options: Any) -> "Child | subprocess.Popen[bytes]":
        """Start the command as `subprocess.Popen` would, warm when it is one of ours."""
        is_ours = command[0] == sys.executable and (command[1] == "-m" or command[1].endswith(".py"))
        if not is_ours or options["user"]:
            return subprocess.Popen(command, **options)
        order = {
            "arguments": command[1:],
            "log": options["stdout"].name,
            "env": dict(options["env"]),
            "cwd": str(options["cwd"]),
        }
        with self._lock:
            self._open()
            self._started = None
            self._wire.send(json.dumps(order).encode())
            while self._started is None:
                self.listen(None)
            return Child(self, self._started)

    def ended(self, pid: int) -> int | None:
        """Return the child's exit code, None while it runs."""
        with self._lock:
            self.listen(0)
            return self._codes.get(pid)

    def listen(self, seconds: float | None) -> None:
        """Take in what the nursery says, waiting so long for the first word of it."""
        with self._lock:
            if not select.select([self._wire], [], [], seconds)[0]:
                return
            message = self._wire.recv(MESSAGE_BYTES)
            if not message:
                raise RuntimeError("the process that forks workers is gone")
            word = json.loads(message)
            if "started" in word:
                self._started = word["started"]
            else:
                self._codes[word["ended"]] = word["code"]

    def _open(self) -> None:
        if self._process is None:
            self._wire, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one C call
            )
            theirs.close()

    def close(self) -> None:
        """End it, and with it whatever it forked."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._wire.close()


# --- In the process that forks ----------------------------------------------------------------------------


def serve(wire: socket.socket) -> dict[str, Any]:
    """Fork a child for each order; returns the order in the child."""
    for name in LIBRARIES.split():
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    readable, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([wire, readable], [], [])
        if readable in ready:
            os.read(readable, 4096)
            _tell_of_dead(wire)
        if wire in ready:
            message = wire.recv(MESSAGE_BYTES)
            if not message:
                os._exit(0)
            if os.fork() == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.setsid()
                die_with_parent()
                # Not before it has a group of its own, by which it can be stopped.
                wire.send(json.dumps({"started": os.getpid()}).encode())
                for descriptor in (readable, wakeup, wire.detach()):
                    os.close(descriptor)
                order: dict[str, Any] = json.loads(message)
                return order


def _tell_of_dead(wire: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            wire.send(json.dumps({"ended": pid, "code": code}).encode())


def become(order: dict[str, Any]) -> None:
    """Be what Python would have started with these arguments."""
    output = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    watching.tell()
    arguments = order["arguments"]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
