"""Why a mined transaction failed: the chain keeps only that it did, so the call is run again where it stood."""

import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from signer import error_rules
from signer.admission import reason_of
from signer.errors import CallRevertedError, RpcNodeError
from signer.models import Transaction
from signer.receipts import Verdict
from signer.rpc import Rpc
from signer.rpc_errors import ErrorClass, classify_message

CODE = "TRANSACTION_REVERTED"
OUT_OF_GAS = "out of gas"
_OUT_OF_GAS = re.compile(r"\bout ?of ?gas\b", re.IGNORECASE)


def reasons(rpc: Rpc, failed: Sequence[tuple[UUID, Verdict]]) -> dict[UUID, dict[str, str]]:
    """Return the error of each reverted transaction, with the decoded reason as far as it can be found.

    First against the state before the block; where that succeeds, something earlier in the block made the difference,
    and the state after the block is asked.
    """
    if not failed:
        return {}
    rows = Transaction.objects.select_related("lane").in_bulk([pk for pk, _ in failed])
    errors: dict[UUID, dict[str, str]] = {}
    open_cases = list(failed)
    for offset in (-1, 0):
        calls = [_replay(rows[pk], verdict, offset) for pk, verdict in open_cases]
        answers = rpc.batch(calls)
        undecided = []
        for (pk, verdict), answer in zip(open_cases, answers, strict=True):
            reason = _reason(rows[pk], answer)
            if reason is None:
                undecided.append((pk, verdict))
            else:
                errors[pk] = {"code": CODE, "message": reason}
        open_cases = undecided
    for pk, verdict in open_cases:
        errors[pk] = {"code": CODE, "message": _fallback(verdict)}
    return errors


def _replay(row: Transaction, verdict: Verdict, offset: int) -> tuple[str, list[Any]]:
    assert verdict.attempt is not None
    call = {
        "from": row.lane.address,
        "data": row.data,
        "value": hex(row.value),
        "gas": hex(verdict.attempt.gas_limit),
    }
    if row.to:
        call["to"] = row.to
    return ("eth_call", [call, hex(max(0, verdict.block_number + offset))])


def _reason(row: Transaction, answer: Any) -> str | None:
    if isinstance(answer, CallRevertedError):
        return reason_of(row, answer)
    # The machine stopped for another cause than a revert; any other error says nothing about the call.
    if isinstance(answer, RpcNodeError):
        meaning = classify_message(answer.message, error_rules.of_chain(row.chain_id))
        # Each client has its own words for it: "out of gas", "EVM error OutOfGas".
        text = OUT_OF_GAS if _OUT_OF_GAS.search(answer.message) else answer.message
        return text if meaning is ErrorClass.PERMANENT else None
    return None


def _fallback(verdict: Verdict) -> str:
    assert verdict.attempt is not None
    assert verdict.receipt is not None
    if int(verdict.receipt["gasUsed"], 16) >= verdict.attempt.gas_limit:
        return OUT_OF_GAS
    return "reverted; the reason could not be found by running the call again"
