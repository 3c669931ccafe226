"""Child processes that cannot outlive us: each in its own process group, killed by the kernel when we die."""

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

T = TypeVar("T")

# What starts a process; the tests have a quicker one.
launch: Callable[..., Any] = subprocess.Popen


class LocalError(RuntimeError):
    """Something this machine lacks or that did not start; the message is one sentence for a person."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A running child with its log file. Stopped by its own id and group, never by name."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name, self.log, self.stop_signal = name, log, stop_signal
        self._killed = False
        gid = pwd.getpwnam(user).pw_gid if user else None
        with log.open("ab") as output:
            self.popen: subprocess.Popen[bytes] = launch(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                user=user,
                group=gid,
                extra_groups=[] if user else None,
                # A group of its own: Ctrl-C in the terminal reaches us alone, and a kill reaches its children too.
                start_new_session=True,
                preexec_fn=die_with_parent,  # one C call, no lock, nothing allocated
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def stopped(self) -> bool:
        """Whether it stands still, by SIGSTOP."""
        status = Path(f"/proc/{self.pid}/stat")
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "T"

    @property
    def returncode(self) -> int | None:
        return self.popen.poll()

    def wait(self, timeout: float = 30) -> int:
        """Return the exit code (negative: the signal that ended it); raises LocalError after `timeout` seconds."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            message = f"{self.name} (process {self.pid}) still runs after {timeout:g} s.\n{self.tail()}"
            raise LocalError(message) from None

    def stop(self, timeout: float = 10) -> None:
        """End it cleanly; when it does not go within `timeout` seconds, kill its group."""
        if self.alive:
            self.thaw()
            self.popen.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group, as a lost machine would look."""
        if not self._killed:
            kill_group(self.popen)
        # Once: later the number may belong to somebody else.
        self._killed = True

    def freeze(self) -> None:
        """SIGSTOP to the group: the process neither runs nor knows that time passes."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.output().splitlines()[-lines:])


def kill_group(popen: "subprocess.Popen[bytes]") -> None:
    """SIGKILL a child's process group and reap the child; does nothing when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()


def wait_until(
    predicate: Callable[[], T],
    timeout: float = 30,
    *,
    what: str | Callable[[], str] = "",
    every: float = 0.05,
    alive: Sequence[Process] = (),
) -> T:
    """Return the first truthy value of `predicate`, asked every `every` seconds.

    Raises LocalError when `timeout` seconds have passed, or at once when a process in `alive` has ended; the
    message holds `what` (a text, or a function asked at the end: "run is WAITING") and the log's end.
    """
    deadline = time.monotonic() + timeout
    while True:
        if value := predicate():
            return value
        dead = [process for process in alive if not process.alive]
        if dead or time.monotonic() > deadline:
            wanted = (what() if callable(what) else what) or getattr(predicate, "__name__", "the condition")
            reason = f"{dead[0].name} ended ({dead[0].returncode})" if dead else f"not within {timeout:g} s"
            tails = "".join(f"\n--- {process.name} ---\n{process.tail()}" for process in (dead or alive))
            raise LocalError(f"{wanted}: {reason}.{tails}")
        time.sleep(every)


def start_worker(
    env: Mapping[str, str],
    log: Path,
    *,
    queues: str | Sequence[str] | None = None,
    without: Sequence[str] = (),
    concurrency: int = 4,
    pool: str = "threads",
    fault: str | None = None,
) -> Process:
    """Start a Celery worker that serves `queues`, or all but those `without`; `fault` is a crash point such as "signer.attempts_committed=exit"."""
    # Unique per start: two workers under one node name would answer for each other.
    command = [sys.executable, "-m", "celery", "-A", "dalp", "worker", "-l", "INFO", "-n", f"{log.stem}@%h"]
    command += ["-P", pool, "-c", str(concurrency), "--without-mingle", "--without-gossip"]
    if queues:
        command += ["-Q", queues if isinstance(queues, str) else ",".join(queues)]
    if without:
        command += ["-X", ",".join(without)]
    return Process("worker", command, log=log, env={**env, "DALP_FAULT": fault or ""})


def start_beat(env: Mapping[str, str], log: Path) -> Process:
    """Start Celery beat."""
    command = [sys.executable, "-m", "celery", "-A", "dalp", "beat", "-l", "INFO", "--pidfile="]
    return Process("beat", command, log=log, env=env)


def start_web(env: Mapping[str, str], log: Path, port: int, *, workers: int = 1) -> Process:
    """Start gunicorn on 127.0.0.1:port."""
    command = [sys.executable, "-m", "gunicorn", "dalp.wsgi", "--bind", f"127.0.0.1:{port}"]
    command += ["--workers", str(workers)]
    return Process("web", command, log=log, env=env)


def start_module(name: str, module: str, env: Mapping[str, str], log: Path, *arguments: str) -> Process:
    """Start `python -m module arguments`."""
    return Process(name, [sys.executable, "-m", module, *arguments], log=log, env=env)
