"""A key, a token in SoftHSM2 and a Vault, for the tests that want one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import softhsm
from tests.fakes.vault import FakeVault

if TYPE_CHECKING:
    from keyguard.models import Key

VAULT_ROLE, VAULT_SECRET = "role-of-the-tests", "secret-id-of-the-tests"
# What docs/deploy/vault.md tells an operator to allow; a test holds the page to it.
VAULT_POLICY = {
    "secret/data/dalp/keys/*": "create read",
    "secret/metadata/dalp/keys/*": "delete",
    "transit/keys/dalp-kek-*": "create update read",
    "transit/encrypt/dalp-kek-*": "update",
    "transit/decrypt/dalp-kek-*": "update",
}


@pytest.fixture
def key(db: None) -> "Key":
    # Where pytest is given this directory, it reads this file before Django is set up.
    from keyguard import create_key

    return create_key("treasury")


@pytest.fixture(scope="session")
def soft_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[softhsm.SoftToken]:
    if softhsm.missing():
        pytest.skip(softhsm.MISSING)
    token = softhsm.make_token(tmp_path_factory.mktemp("softhsm") / "shared")
    with softhsm.in_use(token):
        yield token


@pytest.fixture
def hsm(soft_token: softhsm.SoftToken, settings: Any) -> softhsm.SoftToken:
    """The settings of a process that uses the tests' token."""
    for name, value in soft_token.environment.items():
        if name.startswith("KEYGUARD_"):
            setattr(settings, name, value)
    return soft_token


@pytest.fixture
def fresh_hsm(tmp_path: Path, settings: Any) -> Iterator[softhsm.SoftToken]:
    """A token of this test's own, which it may spoil."""
    if softhsm.missing():
        pytest.skip(softhsm.MISSING)
    token = softhsm.make_token(tmp_path / "softhsm", label=f"fresh-{tmp_path.name}"[:32])
    for name, value in token.environment.items():
        if name.startswith("KEYGUARD_"):
            setattr(settings, name, value)
    with softhsm.in_use(token):
        yield token


@pytest.fixture
def vault(settings: Any) -> Iterator[FakeVault]:
    """A Vault with our role and its policy, and the settings of a process that uses it."""
    from keyguard import kek, vault_client

    server = FakeVault()
    server.allow(VAULT_ROLE, VAULT_SECRET, VAULT_POLICY)
    for name, value in vault_environment(server).items():
        setattr(settings, name, value)
    settings.KEYGUARD_VAULT_TIMEOUT_SECONDS = 2.0
    yield server
    vault_client.forget()
    kek.forget()
    server.stop()


def vault_environment(server: FakeVault) -> dict[str, str]:
    return {
        "KEYGUARD_VAULT_URL": server.url,
        "KEYGUARD_VAULT_ROLE_ID": VAULT_ROLE,
        "KEYGUARD_VAULT_SECRET_ID": VAULT_SECRET,
    }


@pytest.fixture
def die(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the process die at a crash point from now on; at none, when its name is empty."""
    from keyguard import crashpoints
    from tests.integration.keyguard.trail import Died

    def at(point: str) -> None:
        def reached(name: str) -> None:
            if name == point:
                raise Died

        monkeypatch.setattr(crashpoints, "_reached", [reached] if point else [])

    return at
