"""Random programs under random faults, for a minute. `make chaos` does so for ten thousand programs."""

import os
import re
import sys
from pathlib import Path

import pytest

from dalp.local.processes import Process

pytestmark = pytest.mark.postgresql("chaos restarts a database server; SQLite has none")
# Its servers are its own: they are restarted, and must keep what they have committed.
PATIENCE_SECONDS = 280


def chaos(directory: Path, *arguments: str, env: dict[str, str] | None = None) -> Process:
    command = [sys.executable, "-m", "tests.chaos", "--directory", str(directory / "chaos"), *arguments]
    process = Process("chaos", command, log=directory / "output", env={**os.environ, **(env or {})})
    try:
        process.wait(PATIENCE_SECONDS)
    finally:
        process.stop()
        print(process.output())
    return process


def figure(process: Process, name: str) -> int:
    found = re.search(rf"^  {name} +(\d+)", process.output(), re.MULTILINE)
    assert found, f"no figure named {name!r}"
    return int(found[1])


@pytest.mark.timeout(300)
@pytest.mark.case("E6", "E7", "E8", "E10", "E12", "E13", "E15", "E17", "E18", "E41", "E43")
def test_nothing_is_lost_or_done_twice_or_stuck_whatever_strikes(tmp_path: Path) -> None:
    process = chaos(tmp_path, "--seconds", "60", "--workers", "2", "--every", "2.5", "--in-flight", "60")
    assert process.returncode == 0
    assert figure(process, "fenced") > 0
    assert figure(process, "recovered") > 0
    assert figure(process, "redelivered") > 0


@pytest.mark.timeout(300)
@pytest.mark.case("E8")
def test_chaos_goes_red_without_the_fence(tmp_path: Path) -> None:
    """It demands that stale workers were fenced. What stops them instead is shown in test_engine."""
    options = ("--seconds", "10", "--workers", "2", "--every", "3", "--only", "frozen", "--in-flight", "30")
    process = chaos(tmp_path, *options, env={"DALP_TEST_DISABLE_FENCE": "true"})
    assert process.returncode == 1
    assert "nothing was fenced" in process.output()
