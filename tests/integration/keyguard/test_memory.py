"""What is left of a key in the memory of a process that has signed with it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyguard import import_key
from tests.conftest import SERVICES
from tests.services import Live

SIGNATURES, BATCH = 1000, 50
SECRET = bytes.fromhex("7d1f0e5ab92c4466803355d1f0c9ae217be4e19d0a5f4c3b92d86e07f1a3c55d")
SCRIPT = f"""
import django
django.setup()
from keyguard import sign_transactions, sign_message
from tests.integration.keyguard.requests import request
for start in range(0, {SIGNATURES}, {BATCH}):
    batch = [request("ADDRESS", f"r{{number}}", nonce=number) for number in range(start, start + {BATCH})]
    sign_transactions(batch)
try:
    sign_message("ADDRESS", "no bytes", "m")
except Exception as error:
    kept = error  # with its traceback and all that its frames hold
print("signed", flush=True)
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
        # The address is there, so what is searched is the memory of the process that signed.
        assert copies(process.pid, key.address.encode()) > 0
        forms = [SECRET, SECRET[::-1], SECRET.hex().encode(), SECRET[:16], SECRET[16:], SECRET[:16][::-1]]
        assert [copies(process.pid, form) for form in forms] == [0] * len(forms)
    finally:
        process.communicate("\n", timeout=30)


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
def test_hardened_process_cannot_be_read_by_its_users_others() -> None:
    script = (
        "from keyguard.hardening import harden; harden(); import ctypes; print(ctypes.CDLL(None).prctl(3))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\n", "PR_GET_DUMPABLE"
