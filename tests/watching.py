"""What tests and their processes know that no log may tell, and where it is looked for: see tests/leaks.py.

Without pytest: the processes that tests start learn by it, too, and write what they have learned into a file of the tests.
"""

import base64
import binascii
import contextlib
import hmac
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

HEX = re.compile(r"[0-9a-fA-F]{64,}")
BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{43}=")
PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
# Of three parts: what a request to Fireblocks is authorised with. A webhook's has an empty one in the middle.
JWT = re.compile(r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}", re.ASCII)
DISTINCT = 16  # different bytes of 32: fewer, and it is a number such as 1, which no log can do without
WORD_LENGTH = 8
KEY_MADE_HERE = "a key that was made or imported here"  # a private key, a DEK, a KEK
OVERLAP = 4096
LOGS = (".log", ".out", ".err", ".json", ".jsonl")
# In the environment of a process: the file into which it writes which keys it has made.
TOLD = "DALP_TEST_SECRETS"
# Settings that are secrets, and what they are called when they are found. Of 32 bytes, in base64 or hex: keys.
KEYS_IN_SETTINGS = {
    "KEYGUARD_KEK": "a KEK",
    "KEYGUARD_KEK_FALLBACKS": "a KEK",
    "KEYGUARD_AUDIT_KEY": "an audit key",
    "KEYGUARD_AUDIT_KEY_FALLBACKS": "an audit key",
}
WORDS_IN_SETTINGS = {
    "KEYGUARD_HSM_PIN": "a PIN",
    "KEYGUARD_VAULT_SECRET_ID": "a secret id of Vault",
    "FIREBLOCKS_API_KEY": "the API key of Fireblocks",
    "DFNS_AUTH_TOKEN": "a token of DFNS",
    "DFNS_WEBHOOK_SECRET": "the secret of DFNS' webhooks",
}
SETTINGS = (*KEYS_IN_SETTINGS, *WORDS_IN_SETTINGS, "SECRET_KEY")


class Watch:
    """The secrets that this process knows, and where it has looked for them."""

    def __init__(self) -> None:
        self.keys: set[str] = set()  # in hex
        self.words: dict[str, str] = {}  # the secret, and what it is
        self.told: Path | None = None  # where processes that tests start say what they have made
        self._heard = 0
        self._logs: dict[Path, int] = {}
        self._found: list[str] = []

    def learn_key(self, secret: bytes | bytearray) -> None:
        if len(secret) == 32 and len(set(secret)) >= DISTINCT:
            self.keys.add(bytes(secret).hex())

    def learn_setting(self, name: str, value: Any) -> None:
        """Learn what a setting has, or had: some tests have others than the rest."""
        if name not in SETTINGS:
            return
        for text in [value] if isinstance(value, str) else list(value or ()):
            if name in WORDS_IN_SETTINGS:
                self.learn(WORDS_IN_SETTINGS[name], text)
            elif name in KEYS_IN_SETTINGS and len(set(key := _decoded(text))) >= DISTINCT:
                self.learn_key(key)
                self.learn(KEYS_IN_SETTINGS[name], text)
            elif name == "SECRET_KEY":  # without a key of its own the audit trail has this one
                self.learn_key(hmac.digest(text.encode(), b"keyguard audit trail", "sha256"))

    def learn_settings(self, given: Mapping[str, Any]) -> None:
        for name in SETTINGS:
            value = given.get(name)
            # In an environment several are one text.
            self.learn_setting(name, value.split(",") if isinstance(value, str) else value)

    def hear(self) -> None:
        """Learn what other processes have made since the last time."""
        if self.told is None or not self.told.exists():
            return
        with self.told.open() as file:
            file.seek(self._heard)
            whole = file.read().rpartition("\n")[0]  # the last line may not be whole yet
        self._heard += len(whole) + 1 if whole else 0
        self.keys |= set(whole.split())

    def learn(self, what: str, *words: str) -> None:
        self.words |= {word: what for word in words if len(word) >= WORD_LENGTH}

    def secrets_in(self, text: str) -> set[str]:
        """Return what of it stands in the text, in words."""
        found = {what for word, what in self.words.items() if word in text}
        if PEM.search(text):
            found.add("a private key as PEM")
        if JWT.search(text):
            found.add("a JWT")
        if any(self._is_key(run) for run in _texts_of_keys(text)):
            found.add(KEY_MADE_HERE)
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
        self.hear()
        begin = self._logs[log]
        if log.stat().st_size == begin:
            return
        with log.open("rb") as file:
            file.seek(max(begin - OVERLAP, 0))
            text = file.read().decode(errors="replace")
            self._logs[log] = file.tell()
        self._found += [f"{what} stands in {log}" for what in sorted(self.secrets_in(text))]

    def found(self) -> list[str]:
        """Return what the logs of processes had since the last time."""
        for log in list(self._logs):
            self.look(log)
        found, self._found = list(dict.fromkeys(self._found)), []
        return found

    def look_at(self, text: Any, where: str) -> None:
        """Search what a test takes for itself: no report of pytest has it."""
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        if isinstance(text, str) and text:
            self.hear()
            self._found += [f"{what} stands in {where}" for what in sorted(self.secrets_in(text))]

    def look_into(self, directory: Path) -> None:
        """Search what else has been written there that looks like a log."""
        for file in directory.rglob("*"):
            if file.suffix in LOGS and file not in self._logs and file.is_file():
                self.look_at(file.read_bytes(), str(file))


def _texts_of_keys(text: str) -> Iterator[str]:
    for pattern in (HEX, BASE64):
        for match in pattern.finditer(text):
            yield match[0]


def _decoded(text: str) -> bytes:
    with contextlib.suppress(ValueError):
        return bytes.fromhex(text)
    with contextlib.suppress(ValueError, binascii.Error):
        return base64.b64decode(text, validate=True)
    return b""


WATCH = Watch()


def learn_what_is_made(learn: Callable[[bytearray], None]) -> None:
    """Have `learn` be told each secret that keyguard makes or takes over from here on: private keys, DEKs, proofs of KEKs."""
    from keyguard import curve

    is_secret, random_bytes = curve.is_secret, curve.random_bytes

    def examined(secret: bytearray) -> bool:
        learn(secret)
        return is_secret(secret)

    def drawn(size: int) -> bytearray:
        made = random_bytes(size)
        learn(made)
        return made

    # Whoever has it by name from there, and what is imported from here on.
    for name, module in list(sys.modules.items()):
        if name.startswith("keyguard") and getattr(module, "random_bytes", None) is random_bytes:
            module.random_bytes = drawn  # type: ignore[attr-defined]
    curve.is_secret = examined


def tell() -> None:
    """Write into the file of the tests, where there is one, what this process makes."""
    if not (path := os.environ.get(TOLD)):
        return
    watch = Watch()

    def learn(secret: bytearray) -> None:
        known = len(watch.keys)
        watch.learn_key(secret)
        if len(watch.keys) > known:
            # At once, in one write: the process may be killed the next moment, and others write, too.
            with open(path, "ab", buffering=0) as file:
                file.write(f"{bytes(secret).hex()}\n".encode())

    learn_what_is_made(learn)
