"""What can go wrong in the signer, and what may be done about it.

    SignerError
    ├── UnknownChainError         FAIL       no such chain is registered
    ├── ChainMismatchError        FAIL       the node behind the URL serves another chain
    ├── IdempotencyConflictError  FAIL       the key was used for another transaction
    ├── NotPossibleError          FAIL       what a person asked for does not suit the state
    ├── LaneBusyError             RETRY      a worker is at the lane; again in a moment
    └── RpcError                  RECONCILE  the node gave no answer; nothing may be concluded from it
        ├── RpcTransportError     RECONCILE  timeout, reset, 5xx, no JSON: it may have been carried out
        ├── RpcRejectedError      RETRY      the provider turned the request away (401, 403, 429) unread
        └── RpcNodeError          RECONCILE  the node answered with a JSON-RPC error; its text is classified
            └── CallRevertedError FAIL       a read-only call reverted; that is an answer

No error of this module carries the URL of an endpoint: it holds the provider's API key.
"""

from typing import Any, ClassVar

from workflows import Disposition


class SignerError(Exception):
    """An error of the signer, with a stable code, its usual cause and its remedy."""

    code: ClassVar[str] = "SIGNER_ERROR"
    cause: ClassVar[str] = ""
    remedy: ClassVar[str] = ""
    disposition: ClassVar[Disposition] = Disposition.RECONCILE

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UnknownChainError(SignerError):
    """No chain with this id is registered."""

    code = "CHAIN_UNKNOWN"
    cause = "The chain id in the request was never registered."
    remedy = "Register it: python manage.py add_chain --chain-id N --name S --rpc URL."
    disposition = Disposition.FAIL


class ChainMismatchError(SignerError):
    """The node serves another chain than the one registered."""

    code = "CHAIN_MISMATCH"
    cause = "The URL points to another network, or a development chain was started anew."
    remedy = "Correct the URL with add_chain, or use a fresh database for a fresh chain."
    disposition = Disposition.FAIL


class IdempotencyConflictError(SignerError):
    """The idempotency key was used before, for another transaction."""

    code = "IDEMPOTENCY_KEY_REUSED"
    cause = "Two different requests were sent under one key."
    remedy = "Use a new key for a new request."
    disposition = Disposition.FAIL

    def __init__(self, message: str, first_id: str) -> None:
        super().__init__(message)
        self.first_id = first_id


class NotPossibleError(SignerError):
    """What a person asked for does not suit the state of the transaction or the lane."""

    code = "TRANSACTION_NOT_IN_STATE"
    cause = "Somebody else has acted, the chain was faster, or it was never possible; the message says which."
    remedy = "Look at its state."
    disposition = Disposition.FAIL

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


class LaneBusyError(SignerError):
    """A worker owns the lane at this moment."""

    code = "LANE_BUSY"
    cause = "A worker is at the lane; it gives it back within seconds."
    remedy = "Try again."
    disposition = Disposition.RETRY


class RpcError(SignerError):
    """The node gave no usable answer. Never read it as "no receipt" or "nonce unused"."""

    code = "RPC_ERROR"
    cause = "The node or the way to it failed."
    remedy = "None at once: the signer asks again. If it lasts, check the endpoint."


class RpcTransportError(RpcError):
    """The request may have reached the node; its answer did not come back whole."""

    code = "RPC_NO_ANSWER"
    cause = "Timeout, dropped connection, HTTP 5xx or a body that is not JSON."


class RpcRejectedError(RpcError):
    """The provider turned the request away before its node read it."""

    code = "RPC_REJECTED"
    cause = "Wrong or missing API key, or too many requests."
    remedy = "Check the endpoint's key and plan."
    disposition = Disposition.RETRY


class RpcNodeError(RpcError):
    """The node answered with a JSON-RPC error object."""

    code = "RPC_NODE_ERROR"
    cause = "The node could not or would not do it; see the message."

    def __init__(self, message: str, rpc_code: int | None = None, data: Any = None) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code
        self.data = data
        self.host = ""  # of the endpoint that said so


class CallRevertedError(RpcNodeError):
    """A call ran and reverted; `reason` is the decoded reason."""

    code = "CALL_REVERTED"
    cause = "The contract refused the call."
    remedy = "Read the reason; correct the arguments or the contract's state."
    disposition = Disposition.FAIL

    def __init__(self, reason: str, data: Any = None) -> None:
        super().__init__(reason, data=data)
        self.reason = reason
