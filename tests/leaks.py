"""K55 over the whole run: what tests, and the processes that they start, write is searched for secrets that they know.

A test fails, when it is over, in whose log records, stdout or stderr, in whose own look at them (`capsys`), in the output
of a process that it has run, in the log of one that it has started, or in another file of its directory that looks like a
log, stands: a private key, a DEK or a KEK that this process made, or a process that tests have started, or imported; a
KEK, an audit key, a PIN, a secret id, a custody's token that the settings or an environment had at any time; a token that
a fake or the API has issued; any private key as PEM; any JWT. Known secrets are looked for, not patterns, but for the
last two: hashes look like keys. A secret is not repeated in the message.
What is not searched: what anvil writes, which prints its well-known keys, and the databases' own files.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.watching import TOLD, WATCH, Watch, learn_what_is_made


def begin(watch: Watch = WATCH) -> None:
    """Learn of each secret that is made from here on, and of each process that is started."""
    if watch.told is not None:
        return
    from dalp.local.processes import Process

    descriptor, path = tempfile.mkstemp(prefix="dalp-tests-secrets-")
    os.close(descriptor)
    watch.told = Path(path)
    learn_what_is_made(watch.learn_key)
    watch.learn_settings(os.environ)
    _watch_processes(watch, Process)
    _watch_captures(watch)


def _watch_processes(watch: Watch, process: Any) -> None:
    start, kill, communicate = process.__init__, process.kill, subprocess.Popen.communicate

    def following(self: Any, name: str, *arguments: Any, log: Path, env: Any = None, **options: Any) -> None:
        if name != "anvil":
            watch.follow(log)
        watch.learn_settings(env or {})
        start(self, name, *arguments, log=log, env={**(env or {}), TOLD: str(watch.told)}, **options)

    def looking(self: Any) -> None:
        kill(self)
        watch.look(self.log)  # its directory may be gone when the test is over

    def searched(self: Any, *arguments: Any, **options: Any) -> Any:
        both = communicate(self, *arguments, **options)
        for text in both:
            watch.look_at(text, "the output of a process that it ran")
        return both

    process.__init__, process.kill = following, looking
    subprocess.Popen.communicate = searched  # type: ignore[method-assign]


def _watch_captures(watch: Watch) -> None:
    readouterr = pytest.CaptureFixture.readouterr

    def searched(self: Any) -> Any:
        both = readouterr(self)
        for text in both:
            watch.look_at(text, "what it has captured")
        return both

    pytest.CaptureFixture.readouterr = searched  # type: ignore[method-assign]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    begin()


def pytest_unconfigure() -> None:
    if WATCH.told is not None:
        WATCH.told.unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield  # type: ignore[misc]
    if call.when == "teardown":
        if directory := getattr(item, "funcargs", {}).get("tmp_path"):
            WATCH.look_into(directory)
        found = WATCH.found()
        for when, kind, text in item._report_sections:
            found += [f"{what} stands in the {kind} of its {when}" for what in sorted(WATCH.secrets_in(text))]
        if found:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} leaks: {'; '.join(found)} (tests/leaks.py)"
    return report
