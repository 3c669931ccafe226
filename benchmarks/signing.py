"""How many transactions one core signs, beside eth-account with the same ones. To be imported when Django is set up."""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from eth_account import Account

from benchmarks.figures import Figures, Rows
from benchmarks.stage import Stage
from keyguard import SigningRequest, curve
from keyguard.jobs import prepare
from keyguard.models import Key
from keyguard.signing import checked_answer
from keyguard.states import KeyState

TRANSACTIONS = 5000
WARM_UP = 200
# So many are promised; the fastest round counts, for the machine may not be ours alone.
LEAST_PER_SECOND = 5000
SECRET = bytes(range(1, 33))


def contests(stage: Stage) -> Iterator[Figures]:
    """Prepare the measurement."""
    figures = Figures(
        title="Signatures",
        method=(
            f"{TRANSACTIONS} EIP-1559 transactions with 68 bytes of data, signed by one process without the database, by the time that its one "
            "core was at it. DALP: the whole path of "
            "keyguard, from the fields to the bytes: the hard floor, encoding, signing, recovering the key and comparing it, taking the bytes apart "
            "and comparing them with what was asked. eth-account: sign_transaction, over coincurve as well, which checks less and recovers nothing. "
            "The bytes of both are equal."
        ),
        settle=stage.settle,
        measure=lambda: measure(figures),
    )
    yield figures


def measure(figures: Figures) -> Rows:
    given = [fields(nonce) for nonce in range(TRANSACTIONS)]
    sign_ours(given[:WARM_UP])
    sign_theirs(given[:WARM_UP])
    ours, seconds = sign_ours(given)
    theirs, their_seconds = sign_theirs(given)
    if ours != theirs:
        raise RuntimeError("the signed bytes are not those of eth-account")
    rows = {"DALP, the whole path": rate(seconds), "eth-account": rate(their_seconds)}
    complain(figures, [*figures.rounds, rows])
    return rows


def complain(figures: Figures, rounds: Sequence[Rows]) -> None:
    best = max(rows["DALP, the whole path"]["signatures_per_second"] for rows in rounds)
    too_slow = f"No round made {LEAST_PER_SECOND} signatures per second."
    figures.complaints[:] = [too_slow] if best < LEAST_PER_SECOND else []


def fields(nonce: int) -> dict[str, Any]:
    """Return the transfer of a token."""
    return {
        "type": 2,
        "chainId": 1,
        "nonce": nonce,
        "gas": 65_000,
        "maxFeePerGas": 30 * 10**9,
        "maxPriorityFeePerGas": 10**9,
        "to": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",
        "value": 0,
        "data": "0xa9059cbb" + "ab" * 64,
    }


def sign_ours(given: Sequence[dict[str, Any]]) -> tuple[list[bytes], float]:
    """Sign on keyguard's path, with a key in memory where the backend and the records would be."""
    secret = bytearray(SECRET)
    public = curve.public_key(secret)
    address = curve.address_of(public)
    key = Key(id=uuid.uuid4(), address=address, public_key=public, state=KeyState.ACTIVE)
    signed = []
    began = time.process_time()
    for one in given:
        job = prepare(SigningRequest(f"signing-{one['nonce']}", address, one), key)
        signed.append(checked_answer(job, curve.sign(secret, job.digest), public).raw)
    return signed, time.process_time() - began


def sign_theirs(given: Sequence[dict[str, Any]]) -> tuple[list[bytes], float]:
    account = Account.from_key(SECRET)
    began = time.process_time()
    signed = [bytes(account.sign_transaction(one).raw_transaction) for one in given]
    return signed, time.process_time() - began


def rate(seconds: float) -> dict[str, float]:
    return {"signatures_per_second": TRANSACTIONS / seconds, "us_each": seconds / TRANSACTIONS * 1e6}
