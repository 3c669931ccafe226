"""What can go wrong in the signer, and what may be done about it.

    SignerError
    ├── UnknownChainError         FAIL       no such chain is registered
    ├── EnvelopeUnsupportedError  FAIL       the chain, or the custody, takes no transaction of this kind
    ├── UnknownAuthorityError     FAIL       keyguard has no key of an account that is to authorise
    ├── AuthorityTwiceError       FAIL       two authorisations of one request are of one account
    ├── IdempotencyConflictError  FAIL       the key was used for another transaction
    ├── NotPossibleError          FAIL       what a person asked for does not suit the state
    ├── LaneBusyError             RETRY      a worker is at the lane; again in a moment
    ├── UnknownHandlerError       FAIL       no code here handles such events
    ├── MissedLogsError           PARK       the events of a contract do not add up
    └── RpcError                  RECONCILE  the node gave no answer; nothing may be concluded from it
        ├── ChainMismatchError    FAIL       the node behind the URL serves another chain
        ├── RpcTransportError     RECONCILE  timeout, reset, 5xx, no JSON: it may have been carried out
        ├── RpcUnavailableError   RETRY      no endpoint may be asked at the moment; nothing was sent
        ├── RpcRejectedError      RETRY      the provider turned the request away (401, 403, 429) unread
        │   └── RpcTooLargeError  RETRY      ... because the batch has too many calls
        ├── RpcDisagreementError  RECONCILE  endpoints answered, and not the same
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


class EnvelopeUnsupportedError(SignerError):
    """The chain takes no transaction of this kind."""

    code = "ENVELOPE_UNSUPPORTED"
    cause = (
        "Blobs, authorisations and EIP-1559 fees need a chain that has them, and a key that is not in a custody which "
        "sends by itself."
    )
    remedy = (
        "Leave out what the message names, or ask for a legacy or an access-list transaction. After an upgrade that gave "
        "the chain a base fee run add_chain again."
    )
    disposition = Disposition.FAIL


class UnknownAuthorityError(SignerError):
    """An account that is to authorise has no key here."""

    code = "AUTHORITY_UNKNOWN"
    cause = "An authority of `authorizations` is no alias and no address of a key."
    remedy = "Create or import the key, or correct the alias."
    disposition = Disposition.FAIL


class AuthorityTwiceError(SignerError):
    """An account is to authorise twice in one transaction."""

    code = "AUTHORITY_TWICE"
    cause = "Two entries of `authorizations` are of one account; only the last would count."
    remedy = "Leave one of them out."
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


class UnknownHandlerError(SignerError):
    """No event handler of this name is registered, or it can't be undone."""

    code = "EVENT_HANDLER_UNKNOWN"
    cause = "The name is misspelt, the module with the handler is not imported at start, or the handler has no undo."
    remedy = "Import the handler from the workflows module of its app, and deploy that to every worker."
    disposition = Disposition.FAIL


class MissedLogsError(SignerError):
    """The events of a contract do not add up: somebody would hold less than nothing."""

    code = "EVENT_LOGS_MISSED"
    cause = (
        "The contract is registered from too late a block, or it changes balances without a Transfer event."
    )
    remedy = "Have it read again from the block of its creation; a token that keeps balances otherwise can't be indexed."
    disposition = Disposition.PARK


class RpcError(SignerError):
    """The node gave no usable answer. Never read it as "no receipt" or "nonce unused"."""

    code = "RPC_ERROR"
    cause = "The node or the way to it failed."
    remedy = "None at once: the signer asks again. If it lasts, check the endpoint."


class ChainMismatchError(RpcError):
    """The node serves another chain than the one registered. What it says is no answer, and nothing is sent to it."""

    code = "CHAIN_MISMATCH"
    cause = "The URL points to another network, or a development chain was started anew."
    remedy = "Correct the URL with add_chain, or use a fresh database for a fresh chain."
    disposition = Disposition.FAIL


class RpcUnavailableError(RpcError):
    """No endpoint of the chain may be asked at the moment; nothing was sent."""

    code = "RPC_UNAVAILABLE"
    cause = "Every endpoint of the chain is paused, since it failed or turned us away."
    remedy = (
        "None at once: they are tried again by themselves. If it lasts, python manage.py doctor says why."
    )
    disposition = Disposition.RETRY


class RpcDisagreementError(RpcError):
    """Endpoints of the chain answered differently where they must agree."""

    code = "RPC_DISAGREEMENT"
    cause = "One of the chain's nodes lags behind, or is on a fork of its own."
    remedy = "None at once: they are asked again. If it lasts, compare the heads that the doctor shows."


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

    def __init__(self, message: str, status: int = 429, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class RpcTooLargeError(RpcRejectedError):
    """The provider takes no batch of this size; it was not read."""

    code = "RPC_TOO_LARGE"
    cause = "The provider takes fewer calls in a request, or fewer bytes."
    remedy = "None for a batch: smaller ones are sent from then on. A single call that is too large needs another provider."

    def __init__(self, message: str) -> None:
        super().__init__(message, status=413)


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
