"""Signatures per second of each local backend beside that backend's own limit, and keys per second of a KEK's rotation."""

import base64
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from coincurve import PrivateKey
from django.conf import settings
from eth_hash.auto import keccak

from benchmarks.figures import Figures, Rows
from benchmarks.signing import fields
from benchmarks.stage import Stage
from keyguard import SigningRequest, create_key, sign_transactions
from keyguard.backends import backend_of
from keyguard.calls import Call
from keyguard.curve import new_secret, wipe
from keyguard.kek_rotation import rotate
from keyguard.material import seal_key
from keyguard.models import Key, KeyMaterial
from keyguard.policies.facts import facts_of_content
from keyguard.policies.judging import judge
from keyguard.policies.rules import parse
from keyguard.states import Origin
from tests import softhsm

TRANSFER = "transfer(address to, uint256 amount)"
NOW = datetime(2026, 11, 23, tzinfo=UTC)
JUDGED = 5000
DIGESTS = 2000
BATCH = 100
KEYS = 5000


def contests(stage: Stage) -> Iterator[Figures]:
    """Prepare the measurement."""
    has_token = not softhsm.missing()
    if has_token:
        use_token(stage)
    figures = Figures(
        title="Custody",
        method=(
            f"{DIGESTS} signatures by one process, one thread, in batches of {BATCH}. The whole path: sign_transactions on PostgreSQL with fsync, floor, "
            "records and checks included. The backend alone: what it does for the path, its look at the database and its search for the recovery id "
            "included. The limit: coincurve's libsecp256k1 with the key in memory, and C_Sign of SoftHSM2 on one session, neither checked. "
            "Rules: a call is taken apart and judged by a policy of 50. "
            f"Rotation: {KEYS} keys under a KEK from the environment, moved to another one"
            + (", and from there into the token." if has_token else ".")
        ),
        settle=stage.settle,
        measure=lambda: measure(has_token),
        details={} if has_token else {"missing": softhsm.MISSING},
    )
    yield figures


def use_token(stage: Stage) -> None:
    token = softhsm.make_token(Path(stage.directory) / "custody-token", "custody")
    os.environ["SOFTHSM2_CONF"] = token.environment["SOFTHSM2_CONF"]
    for name, value in token.environment.items():
        setattr(settings, name, value)


def measure(has_token: bool) -> Rows:
    digests = [secrets.token_bytes(32) for _ in range(DIGESTS)]
    raw = PrivateKey()
    rows: Rows = {
        **signed_by("database", digests),
        "limit: libsecp256k1": rate(
            lambda: [raw.sign_recoverable(digest, hasher=None) for digest in digests]
        ),
    }
    if has_token:
        rows |= signed_by("pkcs11", digests)
        rows["limit: the token's C_Sign"] = rate(lambda: sign_raw(digests))
    return rows | judged() | rotated(has_token)


def signed_by(backend: str, digests: Sequence[bytes]) -> Rows:
    """Sign on the whole path, and with the backend alone."""
    key, run = create_key(f"custody-{backend}-{secrets.token_hex(4)}", backend), secrets.token_hex(4)
    batches = [digests[start : start + BATCH] for start in range(0, DIGESTS, BATCH)]

    def whole() -> None:
        for start in range(0, DIGESTS, BATCH):
            given = [
                SigningRequest(f"{run}-{nonce}", key.address, fields(nonce))
                for nonce in range(start, start + BATCH)
            ]
            sign_transactions(given)

    def alone() -> None:
        for batch in batches:
            backend_of(backend).prepare(key)(batch)

    return {f"{backend}, the whole path": rate(whole), f"{backend}, the backend alone": rate(alone)}


def judged() -> Rows:
    """Have a policy of fifty rules judge a transfer: of fifty tokens, and all of the very one that is asked for."""
    amount, to = {"at_most": 10**20}, "0x" + "22" * 20
    data = keccak(b"transfer(address,uint256)")[:4] + bytes.fromhex(f"{int(to, 16):064x}{10**18:064x}")

    def microseconds(tokens: Sequence[str]) -> dict[str, float]:
        when = {"what": ["call"], "chain": [1], "function": [TRANSFER], "arguments": {"amount": amount}}
        rules = parse(
            {
                "rules": [
                    {"name": str(place), "effect": "allow", "when": {**when, "to": [token]}}
                    for place, token in enumerate(tokens)
                ]
            }
        )
        call = Call(1, bytes.fromhex(tokens[-1][2:]), 0, data, 60_000, 10**9)
        began = time.perf_counter()
        for _ in range(JUDGED):
            facts = facts_of_content(call, "treasury", to, "team", NOW)
            if not judge(rules, facts).allowed:
                raise RuntimeError("the policy denies it")
        return {"us_each": (time.perf_counter() - began) / JUDGED * 1e6}

    tokens = [f"0x{place:040x}" for place in range(1, 51)]
    return {
        "50 rules, one of them about it": microseconds(tokens),
        "50 rules, all about it": microseconds([tokens[0]] * 50),
    }


def sign_raw(digests: Sequence[bytes]) -> None:
    from pkcs11 import Mechanism, ObjectClass

    from keyguard import hsm

    key = Key.objects.filter(backend="pkcs11").latest("created_at")

    def act(session: hsm.Session) -> None:
        private = session.key(ObjectClass.PRIVATE_KEY, bytes.fromhex(key.backend_ref))
        for digest in digests:
            private.sign(digest, mechanism=Mechanism.ECDSA)

    hsm.token().run(act, "sign")


def rotated(has_token: bool) -> Rows:
    """Move keys to a new KEK of the environment, then into the token."""
    fill()
    settings.KEYGUARD_KEK_FALLBACKS = [*settings.KEYGUARD_KEK_FALLBACKS, settings.KEYGUARD_KEK]
    settings.KEYGUARD_KEK = base64.b64encode(secrets.token_bytes(32)).decode()
    rows = {"rotation, environment": moved("env")}
    if has_token:
        rows["rotation, into the token"] = moved("pkcs11")
    return rows


def fill() -> None:
    """Have KEYS keys in the database, and as many in each round."""
    missing = KEYS - Key.objects.filter(backend="database").count()
    rows = []
    for _ in range(missing):
        secret = new_secret()
        rows.append(seal_key(f"custody-{secrets.token_hex(8)}", secret, Origin.GENERATED, "database"))
        wipe(secret)
    Key.objects.bulk_create([key for key, _ in rows], batch_size=1000)
    KeyMaterial.objects.bulk_create([material for _, material in rows], batch_size=1000)


def moved(provider: str) -> dict[str, float]:
    began = time.perf_counter()
    *_, last = rotate(provider)
    seconds = time.perf_counter() - began
    if last.moved < KEYS or last.stuck:
        raise RuntimeError(f"{last.moved} of {KEYS} keys were moved")
    return {"keys_per_second": last.moved / seconds, "us_each": seconds / last.moved * 1e6}


def rate(work: Callable[[], object]) -> dict[str, float]:
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return {"signatures_per_second": DIGESTS / seconds, "us_each": seconds / DIGESTS * 1e6}
