"""SoftHSM2: a token of its own in a directory of its own, for this process and those that it starts."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
MISSING = "WARNING: NOTHING IS TESTED ON AN HSM. SoftHSM2 is missing: install Debian's package softhsm2."
PIN = "4711-of-the-tests"
SO_PIN = "0815-of-the-tests"


@dataclass(frozen=True)
class SoftToken:
    """An initialised token."""

    module: str
    directory: Path
    label: str

    @property
    def configuration(self) -> Path:
        return self.directory / "softhsm2.conf"

    @property
    def tokens(self) -> Path:
        return self.directory / "tokens"

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a process that uses this token."""
        return {
            "SOFTHSM2_CONF": str(self.configuration),
            "KEYGUARD_HSM_MODULE": self.module,
            "KEYGUARD_HSM_TOKEN": self.label,
            "KEYGUARD_HSM_PIN": PIN,
        }


def missing() -> str:
    """Return what to say when SoftHSM2 is not there, or nothing."""
    return "" if shutil.which("softhsm2-util") and _module() else MISSING


def _module() -> str:
    return next((path for path in MODULES if Path(path).exists()), "")


def make_token(directory: Path, label: str = "dalp-tests") -> SoftToken:
    """Initialise a token in `directory`."""
    if missing():
        raise RuntimeError(MISSING)
    token = SoftToken(_module(), directory, label)
    token.tokens.mkdir(parents=True)
    # reset_on_fork: what a parent opened is of no use to its child, as with real HSMs.
    token.configuration.write_text(
        f"directories.tokendir = {token.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        "slots.removable = false\nlibrary.reset_on_fork = true\n"
    )
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN],
        env={**os.environ, "SOFTHSM2_CONF": str(token.configuration)},
        check=True,
        capture_output=True,
        timeout=30,
    )
    return token


@contextmanager
def in_use(token: SoftToken) -> Iterator[None]:
    """Have this process's module look at this token: it reads its configuration when it is initialised."""
    from keyguard import hsm

    hsm.close()
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(token.configuration)
    try:
        yield
    finally:
        hsm.close()
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before
