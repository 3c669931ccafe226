"""The search for secrets in all that the tests write: it finds them, and a run in which one stands is red."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leaks import WATCH, Watch

ROOT = Path(__file__).parents[3]
KEY = bytes(range(7, 39))
PIN = "4711-of-nobody"

LEAKING = """
import logging
import sys
from pathlib import Path

import pytest
from dalp.local.processes import Process
from keyguard import curve
from tests.leaks import WATCH

WATCH.learn("a PIN", "4711-of-nobody")


def test_log():
    logging.getLogger("x").warning("made %s", bytes(curve.new_secret()).hex())


def test_stdout():
    secret = curve.new_secret()
    print("0x00" + bytes(secret).hex().upper() + "ff")


def test_pin():
    print("tries 4711-of-nobody", file=sys.stderr)


def test_pem():
    print("-----BEGIN EC " + "PRIVATE KEY-----")


def test_process(tmp_path):
    secret = bytes(curve.new_secret()).hex()
    process = Process("worker", [sys.executable, "-c", f"print({secret!r})"], log=tmp_path / "log")
    process.wait()
    process.kill()
    (tmp_path / "log").unlink()


def test_hashes_are_no_secrets():
    print(bytes(curve.random_bytes(32)).hex() * 3, "4711", "PRIVATE KEY")
"""


@pytest.fixture
def watch() -> Watch:
    watch = Watch()
    watch.learn_key(KEY)
    watch.learn("a PIN", PIN)
    return watch


@pytest.mark.case("K55")
@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        f"0x{KEY.hex().upper()}",
        f"raw=0x02{KEY.hex()}{KEY.hex()}",
        f"'{base64.b64encode(KEY).decode()}'",
        f"key: {base64.urlsafe_b64encode(KEY).decode()}\n",
        f"login with {PIN} failed",
        "-----BEGIN PRIVATE KEY-----\nMC4",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----",
    ],
)
def test_a_known_secret_is_found_in_whatever_form_it_stands(watch: Watch, text: str) -> None:
    [found] = watch.secrets_in(f"before {text} after")
    assert KEY.hex() not in found
    assert PIN not in found


@pytest.mark.case("K55")
def test_what_only_looks_like_a_secret_is_none(watch: Watch) -> None:
    watch.learn_key((1).to_bytes(32))
    watch.learn_key(b"short")
    watch.learn("a short word", "1234")
    for text in (
        KEY[::-1].hex(),
        "00" * 31 + "01",
        KEY.hex()[:-1],
        "1234",
        "-----BEGIN PUBLIC KEY-----",
        "a" * 5000,
    ):
        assert watch.secrets_in(text) == set(), text


@pytest.mark.case("K55")
def test_a_log_is_searched_as_it_grows_and_across_what_was_searched_before(
    watch: Watch, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    watch.follow(log)
    assert watch.found() == []
    log.write_text(f"begins {KEY.hex()[:40]}")
    assert watch.found() == []
    with log.open("a") as file:
        file.write(KEY.hex()[40:])
    assert watch.found() == [f"a private key that was made or imported here stands in {log}"]
    log.write_text("x" * 10_000)
    watch.found()
    assert watch.found() == []


@pytest.mark.case("K55")
def test_this_run_knows_the_keys_that_it_makes_and_what_its_servers_have() -> None:
    from keyguard import curve

    assert bytes(curve.new_secret()).hex() in WATCH.keys
    assert {"a PIN", "the KEK"} <= set(WATCH.words.values())


@pytest.mark.case("K55")
def test_a_run_in_which_a_secret_is_written_is_red(tmp_path: Path) -> None:
    (tmp_path / "test_leaking.py").write_text(LEAKING)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:cacheprovider -p no:django -p tests.leaks\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rE", "-c", str(tmp_path / "pytest.ini"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    told = re.findall(r"test_leaking.py::(\w+) leaks: (.+) \(tests/leaks.py\)", run.stdout)
    key = "a private key that was made or imported here stands in"
    assert dict(told) == {
        "test_log": f"{key} the log of its call",
        "test_stdout": f"{key} the stdout of its call",
        "test_pin": "a PIN stands in the stderr of its call",
        "test_pem": "a private key as PEM stands in the stdout of its call",
        "test_process": dict(told)["test_process"],
    }
    assert dict(told)["test_process"].startswith(f"{key} {tempfile_of(run.stdout)}")
    assert "6 passed, 5 errors" in run.stdout


def tempfile_of(output: str) -> str:
    found = re.search(r"(/\S+)/test_process0/log", output)
    assert found, output
    return found[1]
