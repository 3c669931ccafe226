"""The search for secrets in all that the tests write: it finds them, and a run in which one stands is red."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.watching import KEY_MADE_HERE, WATCH, Watch

ROOT = Path(__file__).parents[3]
KEY = bytes(range(7, 39))
PIN = "4711-of-nobody"

LEAKING = """
import base64
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dalp.local.processes import Process
from keyguard import curve, envelope
from tests.fakes.vault import FakeVault
from tests.watching import WATCH

KEK, AUDIT = bytes(range(60, 92)), bytes(range(90, 122))
WATCH.learn("a PIN", "4711-of-nobody")


class Kek:
    def wrap(self, deks):
        self.dek = bytes(deks[0][0])
        return [envelope.WrappedDek(b"", b"")]


def test_log():
    logging.getLogger("x").warning("made %s", bytes(curve.new_secret()).hex())


def test_stdout():
    secret = curve.new_secret()
    print("0x00" + bytes(secret).hex().upper() + "ff")


def test_dek():
    kek = Kek()
    envelope.seal(bytearray(b"7" * 32), kek, envelope.Binding("t", "k", "a", 1, "e"))
    print(kek.dek.hex())


def test_later_kek():
    WATCH.learn_setting("KEYGUARD_KEK_FALLBACKS", ["", base64.b64encode(KEK).decode()])
    print(KEK.hex())


def test_audit_key():
    WATCH.learn_settings({"KEYGUARD_AUDIT_KEY": AUDIT.hex(), "SECRET_KEY": "s"})
    print(AUDIT.hex())


def test_pin():
    print("tries 4711-of-nobody", file=sys.stderr)


def test_pem():
    print("-----BEGIN EC " + "PRIVATE KEY-----")


def test_jwt():
    print("Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJkYWxwIn0.c2lnbmF0dXJlLW9m")


def test_api_key():
    WATCH.learn_settings({"FIREBLOCKS_API_KEY": "api-key-of-nobody"})
    print("api-key-of-nobody")


def test_secret_id():
    FakeVault(None).allow("role", "secret-id-of-nobody", {})
    print("secret-id-of-nobody")


def test_capsys(capsys):
    print("4711-of-nobody")
    assert capsys.readouterr().out


def test_subprocess():
    subprocess.run([sys.executable, "-c", "print('4711-of-nobody')"], capture_output=True)


def test_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "server.log").write_text("4711-of-nobody")
    (tmp_path / "pin").write_text("4711-of-nobody")


def test_process(tmp_path):
    secret = bytes(curve.new_secret()).hex()
    process = Process("worker", [sys.executable, "-c", f"print({secret!r})"], log=tmp_path / "log")
    process.wait()
    process.kill()
    (tmp_path / "log").unlink()


def test_made_in_a_process(tmp_path):
    code = "from tests import watching; watching.tell(); from keyguard import curve; print(bytes(curve.new_secret()).hex())"
    process = Process("worker", [sys.executable, "-c", code], log=tmp_path / "log")
    assert process.wait() == 0
    process.kill()


def test_hashes_are_no_secrets(capsys):
    print(os.urandom(32).hex() * 3, "4711", "PRIVATE KEY", "eyJhbGciOiJSUzI1NiJ9..c2lnbmF0dXJlLW9m")
    assert capsys.readouterr().out
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
    assert watch.found() == [f"{KEY_MADE_HERE} stands in {log}"]
    log.write_text("x" * 10_000)
    watch.found()
    assert watch.found() == []


@pytest.mark.case("K55")
def test_this_run_knows_the_keys_that_it_makes_and_what_its_servers_have() -> None:
    from keyguard import curve
    from keyguard.envelope import random_bytes

    assert bytes(curve.new_secret()).hex() in WATCH.keys
    assert bytes(random_bytes(32)).hex() in WATCH.keys, "a DEK, say"
    assert {"a PIN", "a KEK"} <= set(WATCH.words.values())


@pytest.mark.case("K55")
def test_a_run_in_which_a_secret_is_written_is_red(tmp_path: Path) -> None:
    (tmp_path / "test_leaking.py").write_text(LEAKING)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:cacheprovider -p no:django -p tests.leaks\n"
    )
    # Into a file: what a test reads of a process is searched, and this one would be red for it.
    with (tmp_path / "output").open("w") as output:
        code = subprocess.call(
            [sys.executable, "-m", "pytest", "-q", "-rE", "-c", str(tmp_path / "pytest.ini"), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=100,
        )
    shown = (tmp_path / "output").read_text()
    assert code == 1, shown
    told = dict(re.findall(r"test_leaking.py::(\w+) leaks: (.+) \(tests/leaks.py\)", shown))
    made, logs = f"{KEY_MADE_HERE} stands in", tempfile_of(shown)
    assert told == {
        "test_log": f"{made} the log of its call",
        "test_stdout": f"{made} the stdout of its call",
        "test_dek": f"{made} the stdout of its call",
        "test_later_kek": f"{made} the stdout of its call",
        "test_audit_key": f"{made} the stdout of its call; an audit key stands in the stdout of its call",
        "test_pin": "a PIN stands in the stderr of its call",
        "test_pem": "a private key as PEM stands in the stdout of its call",
        "test_jwt": "a JWT stands in the stdout of its call",
        "test_api_key": "the API key of Fireblocks stands in the stdout of its call",
        "test_secret_id": "a secret id of Vault stands in the stdout of its call",
        "test_capsys": "a PIN stands in what it has captured",
        "test_subprocess": "a PIN stands in the output of a process that it ran",
        "test_file": f"a PIN stands in {logs}/test_file0/deep/server.log",
        "test_process": f"{made} {logs}/test_process0/log",
        "test_made_in_a_process": f"{made} {logs}/test_made_in_a_process0/log",
    }
    assert "16 passed, 15 errors" in shown


def tempfile_of(output: str) -> str:
    found = re.search(r"(/\S+)/test_process0/log", output)
    assert found, output
    return found[1]


@pytest.mark.case("K55")
def test_what_other_processes_have_made_is_learned_line_by_line(watch: Watch, tmp_path: Path) -> None:
    watch.told = tmp_path / "told"
    watch.hear()
    first, second = (os.urandom(32).hex() for _ in range(2))
    watch.told.write_text(f"{first}\n{second[:40]}")
    watch.hear()
    assert {first} < watch.keys
    with watch.told.open("a") as file:
        file.write(f"{second[40:]}\n")
    watch.hear()
    watch.hear()
    assert {first, second} < watch.keys


@pytest.mark.case("K55")
def test_a_setting_is_known_that_only_one_test_has(settings: Any) -> None:
    kek, audit = base64.b64encode(os.urandom(32)).decode(), os.urandom(32).hex()
    settings.KEYGUARD_KEK_FALLBACKS = [kek]
    settings.KEYGUARD_AUDIT_KEY = audit
    settings.KEYGUARD_VAULT_SECRET_ID = "secret-id-of-this-test"
    known = {"a KEK", "an audit key", "a secret id of Vault", KEY_MADE_HERE}
    assert WATCH.secrets_in(f"{kek} {audit} secret-id-of-this-test") == known
