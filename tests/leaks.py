"""K55 over the whole run: what tests, and the processes that they start, write is searched for secrets that they know.

A test fails, when it is over, in whose log records, stdout or stderr, or in the log of a process of whose, stands: a
private key that this process made or imported, a PIN, a token that a fake or the API has issued, the KEK, or any private
key as PEM. Known secrets are looked for, not patterns: hashes look like keys. A secret is not repeated in the message.
What is not searched: what a test captures itself (`capsys`, the output of `subprocess.run`) and what anvil writes,
which prints its well-known keys.
"""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HEX = re.compile(r"[0-9a-fA-F]{64,}")
BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{43}=")
PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
DISTINCT = 16  # different bytes of 32: fewer, and it is a number such as 1, which no log can do without
WORD_LENGTH = 8
OVERLAP = 4096


class Watch:
    """The secrets that this process knows, and where it has looked for them."""

    def __init__(self) -> None:
        self.keys: set[str] = set()  # in hex
        self.words: dict[str, str] = {}  # the secret, and what it is
        self._logs: dict[Path, int] = {}
        self._found: list[str] = []

    def learn_key(self, secret: bytes | bytearray) -> None:
        if len(secret) == 32 and len(set(secret)) >= DISTINCT:
            self.keys.add(bytes(secret).hex())

    def learn(self, what: str, *words: str) -> None:
        self.words |= {word: what for word in words if len(word) >= WORD_LENGTH}

    def secrets_in(self, text: str) -> set[str]:
        """Return what of it stands in the text, in words."""
        found = {what for word, what in self.words.items() if word in text}
        if PEM.search(text):
            found.add("a private key as PEM")
        if any(self._is_key(run) for run in _texts_of_keys(text)):
            found.add("a private key that was made or imported here")
        return found

    def _is_key(self, run: str) -> bool:
        if run.endswith("="):
            return base64.urlsafe_b64decode(run.replace("+", "-").replace("/", "_")).hex() in self.keys
        run = run.lower()
        return any(run[at : at + 64] in self.keys for at in range(len(run) - 63))

    def follow(self, log: Path) -> None:
        self._logs.setdefault(log, 0)

    def look(self, log: Path) -> None:
        """Search what has been added to a log, with the end of what was searched before: a secret may lie across."""
        if log not in self._logs or not log.exists():
            return
        begin = self._logs[log]
        with log.open("rb") as file:
            file.seek(max(begin - OVERLAP, 0))
            text = file.read().decode(errors="replace")
            self._logs[log] = file.tell()
        self._found += [f"{what} stands in {log}" for what in sorted(self.secrets_in(text))]

    def found(self) -> list[str]:
        """Return what the logs of processes had since the last time."""
        for log in list(self._logs):
            self.look(log)
        found, self._found = self._found, []
        return found


def _texts_of_keys(text: str) -> Iterator[str]:
    for pattern in (HEX, BASE64):
        for match in pattern.finditer(text):
            yield match[0]


WATCH = Watch()


def begin(watch: Watch = WATCH) -> None:
    """Learn of each private key that keyguard makes or takes over from here on, and of each process that is started."""
    from dalp.local.processes import Process
    from keyguard import curve

    is_secret, start, kill = curve.is_secret, Process.__init__, Process.kill

    def learning(secret: bytearray) -> bool:
        watch.learn_key(secret)
        return is_secret(secret)

    def following(self: Process, name: str, *arguments: Any, log: Path, **options: Any) -> None:
        if name != "anvil":
            watch.follow(log)
        start(self, name, *arguments, log=log, **options)

    def looking(self: Process) -> None:
        kill(self)
        watch.look(self.log)  # its directory may be gone when the test is over

    curve.is_secret = learning
    Process.__init__, Process.kill = following, looking  # type: ignore[method-assign]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield  # type: ignore[misc]
    if call.when == "teardown":
        found = WATCH.found()
        for when, kind, text in item._report_sections:
            found += [f"{what} stands in the {kind} of its {when}" for what in sorted(WATCH.secrets_in(text))]
        if found:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} leaks: {'; '.join(found)} (tests/leaks.py)"
    return report
