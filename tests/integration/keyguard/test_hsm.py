"""Keys in a real SoftHSM2: made there, found by their ids, used after a fork, and lost sessions."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import AttributeSensitive

from keyguard import create_key, curve, import_key, sign_message, sign_transactions
from keyguard import hsm as token_module
from keyguard.backend_errors import BackendSettingsError, HsmAbsentError, HsmFailedError, HsmKeyMissingError
from keyguard.backends.pkcs11 import SECP256K1, Pkcs11Backend, is_confined
from keyguard.errors import (
    AliasTakenError,
    BackendError,
    Disposition,
    ImportRefusedError,
    SignatureInvalidError,
)
from keyguard.models import Key, KeyMaterial, SigningRecord
from keyguard.states import RecordState
from tests.integration.keyguard.requests import request
from tests.softhsm import SoftToken

ROOT = Path(__file__).parents[3]
SIGNATURES = 10_000


def digest(number: int) -> bytes:
    from eth_hash.auto import keccak

    return keccak(number.to_bytes(8))


def run_alone(token: SoftToken, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, which may crash."""
    return subprocess.run(
        [sys.executable, "-c", "import django; django.setup()\n" + textwrap.dedent(program)],
        env={**os.environ, **token.environment, "DATABASE_URL": "sqlite://:memory:", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )


# A key that is named by what it is made of: nothing of it is in the database.
IN_MEMORY = """
from keyguard import hsm
from keyguard.backends.pkcs11 import Pkcs11Backend, _make
from keyguard.models import Key
from keyguard import pins
pins.log_in = lambda label, try_pin: try_pin()  # no table here
import os, threading
from uuid import uuid4
def new_key():
    reference = uuid4().bytes
    public = hsm.token().run(lambda session: _make(session, "k", reference), "make")
    return Key(public_key=public, backend="pkcs11", backend_ref=reference.hex())
backend = Pkcs11Backend()
"""


@pytest.mark.django_db
def test_transaction_is_signed_by_a_key_that_was_made_in_the_token(hsm: SoftToken) -> None:
    key = create_key("in the hsm".replace(" ", "-"), "pkcs11")
    (signed,) = sign_transactions([request(key.address)])
    assert Account.recover_transaction(signed.raw) == key.address
    assert (key.backend, key.origin, len(key.backend_ref)) == ("pkcs11", "GENERATED", 32)
    assert not KeyMaterial.objects.exists()
    # Tokens sign with random numbers; the record gives the first answer again.
    assert sign_transactions([request(key.address)]) == [signed]


@pytest.mark.case("K37")
@pytest.mark.django_db
def test_key_cannot_leave_the_token_and_signs_only(hsm: SoftToken) -> None:
    key = create_key("confined", "pkcs11")

    def act(session: token_module.Session) -> None:
        private = session.key(ObjectClass.PRIVATE_KEY, bytes.fromhex(key.backend_ref))
        expected = {
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.LOCAL: True,
            Attribute.SENSITIVE: True,
            Attribute.ALWAYS_SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.NEVER_EXTRACTABLE: True,
            Attribute.SIGN: True,
            Attribute.DERIVE: False,
            Attribute.DECRYPT: False,
            Attribute.UNWRAP: False,
            Attribute.SIGN_RECOVER: False,
        }
        assert {name: private[name] for name in expected} == expected
        with pytest.raises(AttributeSensitive):
            private[Attribute.VALUE]
        loose = session.handle.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: SECP256K1}, local=True
        ).generate_keypair(store=False, mechanism=Mechanism.EC_KEY_PAIR_GEN)[1]
        assert not is_confined(loose)  # the library's defaults let it derive

    token_module.token().run(act, "look")


@pytest.mark.case("K37")
@pytest.mark.django_db
def test_keys_of_one_label_are_told_apart_by_their_ids(hsm: SoftToken) -> None:
    keys = []
    for _ in range(2):
        keys.append(create_key("twin", "pkcs11"))
        Key.objects.filter(pk=keys[-1].pk).update(alias=f"twin-{len(keys)}")

    def labels(session: token_module.Session) -> list[str]:
        found = session.handle.get_objects(
            {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: "twin"}
        )
        return [bytes(one[Attribute.ID]).hex() for one in found]

    assert set(token_module.token().run(labels, "look")) >= {key.backend_ref for key in keys}
    for number, key in enumerate(keys):
        (signed,) = sign_transactions([request(key.address, f"twin-{number}")])
        assert Account.recover_transaction(signed.raw) == key.address


@pytest.mark.django_db
def test_import_is_refused_and_says_why(hsm: SoftToken) -> None:
    with pytest.raises(ImportRefusedError, match="makes its keys itself"):
        import_key("imported", b"\7" * 32, "pkcs11")
    assert not Key.objects.exists()


@pytest.mark.django_db
def test_key_pair_whose_row_is_refused_is_destroyed(hsm: SoftToken) -> None:
    create_key("taken", "pkcs11")
    before = Pkcs11Backend().references()
    with pytest.raises(AliasTakenError):
        create_key("taken", "pkcs11")
    assert Pkcs11Backend().references() == before


@pytest.mark.case("K20")
@pytest.mark.django_db
def test_ten_thousand_signatures_of_the_token_are_low_s_and_recover(hsm: SoftToken) -> None:
    key = create_key("many", "pkcs11")
    digests = [digest(number) for number in range(SIGNATURES)]
    flipped = 0
    for start in range(0, SIGNATURES, 1000):
        batch = digests[start : start + 1000]
        for one, signature in zip(batch, Pkcs11Backend().prepare(key)(batch), strict=True):
            assert int.from_bytes(signature[32:64]) <= curve.HALF_ORDER
            assert curve.recover(signature, one) == bytes(key.public_key)
            flipped += signature[64]
    # Both recovery ids occur, so the trial is one.
    assert 0.4 < flipped / SIGNATURES < 0.6


@pytest.mark.case("K19", "K37")
@pytest.mark.django_db
@pytest.mark.parametrize("length", [0, 20, 31, 33, 64])
def test_digest_of_another_length_does_not_reach_the_token(
    hsm: SoftToken, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    key = create_key("lengths", "pkcs11")
    sign = Pkcs11Backend().prepare(key)
    monkeypatch.setattr(token_module.Token, "run", lambda *_: pytest.fail("the token was asked"))
    with pytest.raises(ValueError, match="32 bytes"):
        sign([b"\1" * length])


@pytest.mark.case("K21")
@pytest.mark.django_db
def test_signature_of_another_key_suspends_the_key(hsm: SoftToken) -> None:
    one, two = create_key("one", "pkcs11"), create_key("two", "pkcs11")
    Key.objects.filter(pk=one.pk).update(backend_ref=two.backend_ref)
    with pytest.raises(SignatureInvalidError):
        sign_transactions([request(one.address)])
    one.refresh_from_db()
    assert one.state == "SUSPENDED"


# Errors told apart, and none of them accuses a key


@pytest.mark.case("K36")
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "value", "error", "disposition"),
    [
        ("KEYGUARD_HSM_TOKEN", "no-such-token", HsmAbsentError, Disposition.RETRY),
        ("KEYGUARD_HSM_TOKEN", "", BackendSettingsError, Disposition.PARK),
        ("KEYGUARD_HSM_MODULE", "/no/such/module.so", HsmAbsentError, Disposition.RETRY),
        ("KEYGUARD_HSM_MODULE", "", BackendSettingsError, Disposition.PARK),
    ],
)
def test_absent_token_signs_nothing_and_harms_no_key(
    hsm: SoftToken, settings: Any, name: str, value: str, error: type[BackendError], disposition: Disposition
) -> None:
    key = create_key("treasury", "pkcs11")
    right = getattr(settings, name)
    setattr(settings, name, value)
    with pytest.raises(error) as caught:
        sign_transactions([request(key.address)])
    assert caught.value.disposition is disposition
    key.refresh_from_db()
    assert key.state == "ACTIVE"
    assert not SigningRecord.objects.exists()
    setattr(settings, name, right)
    assert sign_transactions([request(key.address)])


@pytest.mark.case("K36")
@pytest.mark.django_db
def test_token_that_is_moved_away_is_down_and_works_when_it_is_back(fresh_hsm: SoftToken) -> None:
    key = create_key("treasury", "pkcs11")
    assert sign_message(key.address, b"before", "before")
    away = fresh_hsm.directory / "away"
    shutil.move(fresh_hsm.tokens, away)
    fresh_hsm.tokens.mkdir()
    with pytest.raises(BackendError) as caught:
        sign_message(key.address, b"without", "without")
    assert isinstance(caught.value, HsmAbsentError | HsmKeyMissingError | HsmFailedError)
    # However often it was looked for meanwhile, and by a module that started without it.
    for number in range(3):
        with pytest.raises(BackendError):
            sign_message(key.address, b"without", f"without-{number}")
    key.refresh_from_db()
    assert key.state == "ACTIVE"
    fresh_hsm.tokens.rmdir()
    shutil.move(away, fresh_hsm.tokens)
    assert sign_message(key.address, b"without", "without")


@pytest.mark.django_db
def test_key_that_the_token_lost_is_named_as_that(hsm: SoftToken) -> None:
    key = create_key("lost", "pkcs11")
    Pkcs11Backend().discard(bytes.fromhex(key.backend_ref))
    token_module.close()  # objects that were found are remembered
    with pytest.raises(HsmKeyMissingError) as caught:
        sign_transactions([request(key.address)])
    assert caught.value.disposition is Disposition.PARK
    key.refresh_from_db()
    assert key.state == "ACTIVE"


@pytest.mark.django_db
def test_key_that_the_token_lost_costs_others_their_sessions_once(hsm: SoftToken) -> None:
    lost, well = create_key("lost", "pkcs11"), create_key("well", "pkcs11")
    Pkcs11Backend().discard(bytes.fromhex(lost.backend_ref))
    token_module.close()
    token = token_module.token()
    for number in range(4):
        with pytest.raises(HsmKeyMissingError):
            sign_message(lost.address, b"a", f"lost-{number}")
        assert sign_message(well.address, b"a", f"well-{number}")
    assert token._generation == 1


@pytest.mark.case("K38")
@pytest.mark.django_db
@pytest.mark.parametrize("closed", ["idle sessions", "the login", "everything"])
def test_sessions_that_somebody_else_closed_are_opened_anew_and_no_request_is_lost(
    hsm: SoftToken, closed: str
) -> None:
    key = create_key("treasury", "pkcs11")
    assert sign_message(key.address, b"first", "first")
    token = token_module.token()
    generation = token._generation
    if closed != "the login":
        for session in token._idle:
            session.handle.close()
    if closed != "idle sessions":
        token._login.close()
    assert sign_message(key.address, b"second", "second")
    assert token._generation == generation + 1
    assert SigningRecord.objects.filter(state=RecordState.SIGNED).count() == 2


@pytest.mark.django_db
def test_session_that_is_lost_each_time_is_given_up_after_the_second(
    hsm: SoftToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pkcs11

    key, tries = create_key("treasury", "pkcs11"), []

    def lose(self: Any, kind: Any, reference: bytes) -> Any:
        tries.append(reference)
        raise pkcs11.SessionHandleInvalid

    monkeypatch.setattr(token_module.Session, "key", lose)
    with pytest.raises(HsmFailedError, match="SessionHandleInvalid") as caught:
        sign_transactions([request(key.address)])
    assert (len(tries), caught.value.disposition) == (2, Disposition.RETRY)
    key.refresh_from_db()
    assert key.state == "ACTIVE"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "error", ["DeviceError", "DeviceMemory", "FunctionFailed", "GeneralError", "HostMemory"]
)
def test_failing_device_is_retried_and_accuses_no_key(
    hsm: SoftToken, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    import pkcs11

    key = create_key("treasury", "pkcs11")

    def fail(self: Any, kind: Any, reference: bytes) -> Any:
        raise getattr(pkcs11, error)("its text, which may hold anything")

    with monkeypatch.context() as patched:
        patched.setattr(token_module.Session, "key", fail)
        with pytest.raises(HsmFailedError) as caught:
            sign_transactions([request(key.address)])
    assert "anything" not in str(caught.value)
    assert caught.value.disposition is Disposition.RETRY
    key.refresh_from_db()
    assert key.state == "ACTIVE"
    assert not SigningRecord.objects.exists()
    assert sign_transactions([request(key.address)])


# Threads and processes


@pytest.mark.case("K34")
def test_many_threads_with_sessions_of_their_own_do_not_crash_the_process(soft_token: SoftToken) -> None:
    program = """
    key = new_key()
    def sign(start):
        for number in range(start, start + 200):
            made.append(backend.prepare(key)([number.to_bytes(32)])[0])
    made = []
    threads = [threading.Thread(target=sign, args=(place * 1000 + 1,)) for place in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(len(made), len(hsm.token()._idle))
    """
    process = run_alone(soft_token, IN_MEMORY + textwrap.dedent(program))
    assert process.returncode == 0, process.stderr
    made, sessions = map(int, process.stdout.split())
    assert made == 1200
    assert 2 <= sessions <= 4  # several at once, and no more than the setting says


@pytest.mark.case("K34")
def test_module_is_initialised_with_locks_of_the_operating_system(soft_token: SoftToken) -> None:
    program = """
    import ctypes
    seen = []
    class Spy:
        def __init__(self, path): self.real = ctypes.cdll.LoadLibrary(path)
        def C_Finalize(self, nothing): return self.real.C_Finalize(nothing)
        def C_Initialize(self, given): seen.append(given._obj.flags); return self.real.C_Initialize(given)
    hsm.ctypes = type("C", (), {"CDLL": Spy, "byref": ctypes.byref})
    new_key(); new_key()
    print(seen)
    """
    process = run_alone(soft_token, IN_MEMORY + textwrap.dedent(program))
    assert process.stdout.strip() == "[2]", process.stderr  # once, with CKF_OS_LOCKING_OK


@pytest.mark.case("K35")
def test_forked_process_opens_its_own_sessions_and_leaves_the_parents_alone(soft_token: SoftToken) -> None:
    program = """
    key = new_key()
    assert backend.prepare(key)([b"1" * 32])
    parents = hsm.token()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ours = backend.prepare(key)([b"2" * 32])
        os.write(writing, b"ok" if len(ours) == 1 and hsm.token() is not parents and parents._idle else b"no")
        os._exit(0)
    said = os.read(reading, 2)
    _, status = os.waitpid(child, 0)
    assert hsm.token() is parents
    assert backend.prepare(key)([b"3" * 32])
    print(said.decode(), status, parents._generation)
    """
    process = run_alone(soft_token, IN_MEMORY + textwrap.dedent(program))
    assert process.stdout.split() == ["ok", "0", "0"], process.stderr


@pytest.mark.django_db
def test_waiting_for_a_session_ends(hsm: SoftToken, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.KEYGUARD_HSM_SESSIONS = 1
    monkeypatch.setattr(token_module, "WAIT_SECONDS", 0.05)
    token = token_module.token()

    def busy(session: token_module.Session) -> None:
        with pytest.raises(HsmFailedError, match="busy"):
            token.run(lambda other: None, "look")

    token.run(busy, "look")
    token_module.close()


def test_start_up_imports_no_library_of_a_backend() -> None:
    program = "import django, sys; django.setup(); print(sorted({'pkcs11', 'hvac', 'fireblocks'} & set(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DATABASE_URL": "sqlite://:memory:", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.stdout.strip() == "[]", process.stderr
