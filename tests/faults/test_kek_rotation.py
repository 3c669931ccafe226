"""A process dies as by kill -9 at each step of making a key and of rotating the KEK. Whoever comes next finishes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyguard import crashpoints
from tests import softhsm
from tests.fakes.vault import FakeVault
from tests.integration.keyguard.conftest import VAULT_POLICY, VAULT_ROLE, VAULT_SECRET, vault_environment
from tests.integration.keyguard.keks import all_open, current_keks, kek_text, make_keys, set_keks
from tests.services import Live

pytestmark = pytest.mark.timeout(240)

KILLED = 137
A, B, C = kek_text("a"), kek_text("b"), kek_text("c")
# More than one batch, so that there is a step between two.
KEYS = 620

# Where the rotation dies, and at which passing: a batch is passed twice.
STEPS = [
    "keyguard.kek_noted",
    "keyguard.kek_made",
    "keyguard.kek_activated",
    "keyguard.deks_unwrapped@2",
    "keyguard.deks_wrapped@2",
    "keyguard.deks_inserted",
    "keyguard.deks_inserted@2",
    "keyguard.deks_committed",
    "keyguard.kek_idle",
]


def env(current: str, *fallbacks: str) -> dict[str, str]:
    return {"KEYGUARD_KEK": current, "KEYGUARD_KEK_FALLBACKS": ",".join(fallbacks)}


def run(live: Live, *command: str, fault: str = "", **more: str) -> Any:
    name, _, count = fault.partition("@")
    armed = f"{name}=exit@{count or 1}" if fault else ""
    return live.run("manage.py", *command, env={**more, "DALP_FAULT": armed}, timeout=120)


@pytest.mark.case("K6")
@pytest.mark.sqlite_too
@pytest.mark.parametrize("step", STEPS)
def test_rotation_that_is_killed_loses_no_key_and_the_next_one_finishes(
    live: Live, settings: Any, step: str
) -> None:
    from keyguard import sign_message
    from keyguard.models import Kek, KeyMaterial

    set_keks(settings, A)
    keys = make_keys(KEYS)
    set_keks(settings, B, A)
    killed = run(live, "rotate_kek", fault=step, **env(B, A))
    assert killed.returncode == KILLED, killed.output()
    moved = KeyMaterial.objects.filter(seq=2).count()
    assert moved == {
        "keyguard.deks_inserted@2": 500,
        "keyguard.deks_committed": 500,
        "keyguard.kek_idle": KEYS,
    }.get(step, 500 if step.endswith("@2") else 0)
    # Every key signs, wherever it is by now.
    assert all_open(keys)
    for number in (0, 250, KEYS - 1):
        assert sign_message(keys[number].address, b"meanwhile", f"meanwhile-{number}")
    done = run(live, "rotate_kek", **env(B, A))
    assert done.returncode == 0, done.output()
    assert f"{KEYS - moved} keys are under env" in done.output()
    active, retired = Kek.objects.get(state="ACTIVE"), Kek.objects.get(state="RETIRED")
    assert {active, retired} == set(Kek.objects.all())
    assert current_keks(keys) == {active.pk}
    assert KeyMaterial.objects.count() == 2 * KEYS  # each moved once
    set_keks(settings, B)
    assert all_open(keys)


@pytest.mark.case("K8")
def test_destruction_that_is_killed_is_finished_by_the_next_call(
    live: Live, tmp_path: Path, settings: Any
) -> None:
    if softhsm.missing():
        pytest.skip(softhsm.MISSING)
    from keyguard.models import Kek

    token = softhsm.make_token(tmp_path / "token")
    set_keks(settings, B)
    assert run(live, "create_kek", "--provider", "pkcs11", **token.environment).returncode == 0
    old = Kek.objects.get()
    assert run(live, "rotate_kek", "--provider", "env", **token.environment, **env(B)).returncode == 0
    command = ("destroy_kek", str(old.pk), "--backups-before-it-are-gone")
    assert run(live, *command, fault="keyguard.kek_doomed", **token.environment).returncode == KILLED
    old.refresh_from_db()
    assert old.state == "DESTROYED"
    done = run(live, *command, **token.environment)
    assert "gone from the token" in done.output()


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    server = FakeVault()
    server.allow(VAULT_ROLE, VAULT_SECRET, VAULT_POLICY)
    yield server
    server.stop()


@pytest.mark.case("K6")
@pytest.mark.parametrize("step", ["keyguard.kek_noted", "keyguard.kek_made"])
def test_kek_that_was_being_made_in_vault_is_found_and_not_made_twice(
    live: Live, vault: FakeVault, settings: Any, step: str
) -> None:
    from keyguard.models import Kek

    set_keks(settings, A)
    make_keys(3)
    place = vault_environment(vault)
    killed = run(live, "rotate_kek", "--provider", "vault", fault=step, **place, **env(A))
    assert killed.returncode == KILLED, killed.output()
    assert Kek.objects.get(state="ACTIVE").provider == "env"
    done = run(live, "rotate_kek", "--provider", "vault", **place, **env(A))
    assert done.returncode == 0, done.output()
    assert list(vault.transit.keys) == [f"dalp-kek-{Kek.objects.get(state='ACTIVE').pk}"]
    assert Kek.objects.count() == 2


def test_key_that_was_being_made_in_vault_leaves_a_ciphertext_that_nobody_can_open(
    live: Live, vault: FakeVault, settings: Any
) -> None:
    from keyguard import find_key
    from keyguard.models import Key, KeyMaterial

    place = vault_environment(vault)
    command = ("create_key", "--alias", "treasury", "--backend", "vault")
    killed = run(live, *command, fault="keyguard.vault_written", **place, **env(A))
    assert killed.returncode == KILLED, killed.output()
    assert not Key.objects.exists()
    assert not KeyMaterial.objects.exists()  # and so no DEK
    assert len(vault.kv.versions) == 1
    done = run(live, *command, **place, **env(A))
    assert done.returncode == 0, done.output()
    assert find_key("treasury").backend_ref in vault.kv.versions


def test_key_that_was_being_made_in_the_token_is_named_as_a_stranger(live: Live, tmp_path: Path) -> None:
    if softhsm.missing():
        pytest.skip(softhsm.MISSING)
    from keyguard.models import Key

    token = softhsm.make_token(tmp_path / "token")
    command = ("create_key", "--alias", "treasury", "--backend", "pkcs11")
    killed = run(live, *command, fault="keyguard.hsm_key_made", **token.environment)
    assert killed.returncode == KILLED, killed.output()
    assert not Key.objects.exists()
    assert run(live, *command, **token.environment).returncode == 0
    tried = run(live, "try_hsm_pin", **token.environment)
    assert "1 key pairs in the token belong to no key here" in tried.output()


def test_every_crash_point_of_rotation_and_of_making_keys_is_struck_here() -> None:
    source = Path(__file__).read_text()
    ours = ("keyguard.kek_", "keyguard.deks_", "keyguard.hsm_", "keyguard.vault_")
    assert [name for name in crashpoints.NAMES if name.startswith(ours) and f'"{name}' not in source] == []
