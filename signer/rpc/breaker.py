"""When an endpoint is left alone, and for how long. Pure: numbers and answers in, decisions out.

A JSON-RPC error is an answer: however it is worded, whoever sends it works, and is not paused for it. The one
exception is a provider that says "too many requests" in such an error, instead of in HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from signer.errors import (
    CallRevertedError,
    ChainMismatchError,
    RpcError,
    RpcNodeError,
    RpcRejectedError,
    RpcTooLargeError,
    RpcTransportError,
)
from signer.rpc_errors import ErrorClass, classify, classify_message
from signer.states import PauseKind

# So many failures one after the other are no accident.
FAILURES_MAX = 3
# The last endpoint that a chain has is tried again sooner: there is nobody else to ask meanwhile.
LONE_PAUSE_SECONDS = 5.0
# Turned away for asking too much, without being told how long.
RATE_PAUSE_SECONDS = 10.0
# JSON-RPC codes for "too many requests": EIP-1474 (Infura), QuickNode, several; 429 is Alchemy's.
RATE_CODES = {-32005, -32007, -32029, 429}
REASON_LENGTH = 200


@dataclass(frozen=True)
class Pause:
    """For how long an endpoint is left alone, and why."""

    kind: PauseKind
    seconds: float
    reason: str


def turned_away(answer: Any) -> bool:
    """Return whether the provider refused to read this call because it was asked too much, or by a stranger."""
    if isinstance(answer, RpcTooLargeError):
        return False
    if isinstance(answer, RpcNodeError) and not isinstance(answer, CallRevertedError):
        return answer.rpc_code in RATE_CODES and classify_message(answer.message) is ErrorClass.RATE
    return isinstance(answer, RpcRejectedError)


def wants_another(answer: Any) -> bool:
    """Return whether somebody else should be asked: this is no answer to the question."""
    if not isinstance(answer, RpcError) or isinstance(answer, CallRevertedError):
        return False
    return not isinstance(answer, RpcNodeError) or classify(answer) is ErrorClass.RATE


def failed(answers: Sequence[Any]) -> bool:
    """Return whether the endpoint gave no answer at all."""
    return bool(answers) and all(isinstance(answer, RpcTransportError) for answer in answers)


def pause_for(error: RpcError, *, is_lone: bool, pause_seconds: float) -> Pause:
    """Return the pause of an endpoint whose reply was this error.

    What a provider that turns us away asks for is honoured, by the last endpoint too: asking on would prolong it.
    """
    usual = min(LONE_PAUSE_SECONDS, pause_seconds) if is_lone else pause_seconds
    reason = error.message[:REASON_LENGTH]
    if isinstance(error, ChainMismatchError):
        return Pause(PauseKind.WRONG_CHAIN, usual, reason)
    if not turned_away(error):
        return Pause(PauseKind.FAILING, usual, reason)
    asked_for = getattr(error, "retry_after_seconds", None)
    if asked_for is None and getattr(error, "status", 429) == 429:
        asked_for = min(RATE_PAUSE_SECONDS, pause_seconds)
    return Pause(PauseKind.TURNED_AWAY, usual if asked_for is None else asked_for, reason)
