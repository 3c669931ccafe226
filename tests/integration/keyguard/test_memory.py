"""What is left of a key in the memory of a process that has signed with it, and in what is said of an error meanwhile."""

import base64
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from traceback import TracebackException, walk_tb
from typing import Any

import pytest
import sentry_sdk
from coincurve._libsecp256k1 import ffi, lib
from django.core.management import load_command_class

import dalp.sentry
from keyguard import curve, import_key, scrub_secrets, sign_message
from keyguard.errors import SigningDeniedError
from keyguard.management.key_command import KeyCommand
from tests.conftest import SERVICES
from tests.services import Live
from tests.unit.dalp.test_sentry import Recorder

SIGNATURES, BATCH = 1000, 50
SECRET = bytes.fromhex("7d1f0e5ab92c4466803355d1f0c9ae217be4e19d0a5f4c3b92d86e07f1a3c55d")
SCRIPT = f"""
import django
django.setup()
from keyguard import curve, sign_transactions, sign_message
from tests.integration.keyguard.requests import request
for start in range(0, {SIGNATURES}, {BATCH}):
    batch = [request("ADDRESS", f"r{{number}}", nonce=number) for number in range(start, start + {BATCH})]
    sign_transactions(batch)
class Failing:
    def __init__(self, lib):
        self.lib = lib
    def __getattr__(self, name):
        return getattr(self.lib, name)
    def secp256k1_ecdsa_sign_recoverable(self, *arguments):
        raise OSError("with the key open")
curve.lib = Failing(curve.lib)
try:
    sign_message("ADDRESS", b"hello", "m")
except Exception as error:
    kept = error  # with its traceback and all that its frames hold
print("signed, then", type(kept).__name__, "for", type(kept.__context__).__name__, flush=True)
input()
"""


def memory(pid: int) -> Iterator[bytes]:
    """Read what the process may write to, a region at a time."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as everything:
        for line in maps:
            span = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if span is None or "[v" in line:
                continue
            begin, end = (int(part, 16) for part in span.groups())
            everything.seek(begin)
            try:
                yield everything.read(end - begin)
            except OSError:
                continue


def copies(pid: int, pattern: bytes) -> int:
    return sum(region.count(pattern) for region in memory(pid))


@pytest.mark.case("K53")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_of_a_key_is_left_in_memory_after_a_thousand_signatures(fresh_db: str) -> None:
    key = import_key("treasury", bytearray(SECRET))
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("ADDRESS", key.address)],
        env={**os.environ, **SERVICES.environment(fresh_db)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        while "signed" not in (line := process.stdout.readline()):
            assert line, "it ended before it had signed"
        assert line == "signed, then SigningDeniedError for OSError\n"
        # The address is there, so what is searched is the memory of the process that signed.
        assert copies(process.pid, key.address.encode()) > 0
        forms = [SECRET, SECRET[::-1], SECRET.hex().encode(), SECRET[:16], SECRET[16:], SECRET[:16][::-1]]
        assert [copies(process.pid, form) for form in forms] == [0] * len(forms)
    finally:
        process.communicate("\n", timeout=30)


class Failing:
    """libsecp256k1 that fails when it is to sign, says with what, and remembers whether it had the key."""

    def __init__(self) -> None:
        self.had_the_key = False
        self.trace = ""  # as Python would write it then, with all variables

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def secp256k1_ecdsa_sign_recoverable(
        self, _context: Any, _made: Any, _digest: bytes, view: Any, *_: Any
    ) -> int:
        self.had_the_key = bytes(ffi.buffer(view)) == SECRET
        raise RuntimeError(f"cannot sign with {bytes(ffi.buffer(view)).hex()}")


@pytest.fixture
def sentry(settings: Any) -> Iterator[Recorder]:
    settings.SENTRY_DSN = "https://key@sentry.invalid/1"
    recorder = Recorder()
    dalp.sentry.configure(transport=recorder)
    yield recorder
    sentry_sdk.get_client().close()
    sentry_sdk.init()


def pieces_in(text: str) -> list[str]:
    """Return which parts of 8 bytes of the key stand in the text, in a form that people or programs write."""
    parts = [SECRET[start : start + 8] for start in range(0, 32, 8)]
    forms = [form for part in parts for form in (part.hex(), repr(part)[2:-1], str([*part])[1:-1])]
    return [
        form for form in (*forms, base64.b64encode(SECRET).decode()) if form in text.lower() or form in text
    ]


@pytest.mark.case("K53")
def test_error_while_a_key_is_open_shows_nothing_of_it(
    db: None, sentry: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = import_key("treasury", bytearray(SECRET))
    failing, sign = Failing(), curve.sign

    def reported(secret: bytearray, digest: bytes) -> bytes:
        """Have it reported at once, by a frame that has the key in a variable."""
        try:
            return sign(secret, digest)
        except RuntimeError as error:
            failing.trace = "".join(TracebackException.from_exception(error, capture_locals=True).format())
            sentry_sdk.capture_exception(error)
            raise

    monkeypatch.setattr(curve, "lib", failing)
    monkeypatch.setattr(curve, "sign", reported)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(SigningDeniedError) as caught:
        sign_message(key.address, b"hello", "message")
    assert failing.had_the_key
    sentry_sdk.capture_exception(caught.value)

    # It would have been shown, in the error's text and in a variable.
    assert len(pieces_in(failing.trace)) >= 8
    assert pieces_in(scrub_secrets(failing.trace)) == []
    late = TracebackException.from_exception(caught.value, capture_locals=True)
    assert pieces_in("".join([str(caught.value), repr(caught.value), *late.format()])) == []
    assert len(sentry.events) >= 2
    assert pieces_in(json.dumps(sentry.events, default=str)) == []
    assert "signing_denied" in caplog.text
    assert pieces_in(caplog.text) == []
    met = caught.value.__context__
    assert isinstance(met, RuntimeError)
    variables = [pair for frame, _ in walk_tb(met.__traceback__) for pair in frame.f_locals.items()]
    opened = [value for name, value in variables if name == "secret"]
    assert opened, "the frames that had it open are still there, and what they had is zeros"
    assert all(value == bytes(32) for value in opened)


@pytest.mark.case("K53")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_leave_no_core_dump(live: Live) -> None:
    worker = live.start_worker(concurrency=1, pool="prefork")
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    for pid in (str(worker.pid), *children):
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
    assert children


@pytest.mark.case("K53")
@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
@pytest.mark.parametrize(
    "name",
    [
        "create_kek",
        "create_key",
        "destroy_kek",
        "destroy_key",
        "import_key",
        "kek_ceremony",
        "rotate_kek",
        "try_hsm_pin",
        "wrap_key",
    ],
)
def test_command_that_holds_keys_cannot_be_read_by_its_users_others(name: str) -> None:
    command = load_command_class("keyguard", name)
    assert isinstance(command, KeyCommand)


@pytest.mark.case("K53")
@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_hardened_process_cannot_be_read_by_its_users_others() -> None:
    script = (
        "import ctypes; from keyguard.management.key_command import KeyCommand\n"
        "class Command(KeyCommand):\n"
        "    requires_system_checks = []\n"
        "    def handle(self, *args, **options): print(ctypes.CDLL(None).prctl(3))\n"
        "Command().run_from_argv(['manage.py', 'command'])"
    )
    environment = {
        "DJANGO_SETTINGS_MODULE": "dalp.settings",
        "DEBUG": "true",
        "DATABASE_URL": "sqlite://:memory:",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "0\n", "PR_GET_DUMPABLE"
