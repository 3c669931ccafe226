"""Signatures by Fireblocks: typed data and messages, which its people and rules can read; else only where a key allows it."""

from collections.abc import Mapping
from typing import Any

from keyguard.backends.fireblocks import answers
from keyguard.backends.fireblocks.client import Client, models
from keyguard.backends.fireblocks.custodian import split
from keyguard.backends.pacing import deadline_of
from keyguard.backends.remote import (
    MessagePayload,
    NotThere,
    Outcome,
    Payload,
    Pending,
    Refused,
    TypedDataPayload,
    checked,
)
from keyguard.backends.typed_json import as_json
from keyguard.errors import CustodyUnreachableError, RawNotAllowedError, SignatureInvalidError
from keyguard.models import Key
from keyguard.states import CustodyState


class FireblocksSigner:
    """`keyguard.backends.remote.RemoteSigner` says what it upholds."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, key: Key, external_id: str, payload: Payload, *, timeout_seconds: float) -> Outcome:
        """Ask for the signature once."""
        deadline = deadline_of(timeout_seconds)
        request = self._request(key, external_id, payload)
        answer = self._client.create_transaction(request, external_id, deadline)
        if answer.status == 400:
            # Its id may be in use, by this very request.
            found = self._find(key, external_id, payload, deadline)
            if not isinstance(found, NotThere):
                return found
            return Refused(str(answer.json().get("message") or "Fireblocks takes it for malformed"))
        if answer.status not in (200, 201, 202) or not answer.json().get("id"):
            raise CustodyUnreachableError(f"Fireblocks answered {answer.status}")
        return Pending(answers.state_of(answer.json()) == CustodyState.AWAITING_APPROVAL)

    def find(
        self, key: Key, external_id: str, payload: Payload, *, timeout_seconds: float
    ) -> Outcome | NotThere:
        """Return how it stands."""
        return self._find(key, external_id, payload, deadline_of(timeout_seconds))

    def _find(self, key: Key, external_id: str, payload: Payload, deadline: float) -> Outcome | NotThere:
        answer = self._client.find_transaction(external_id, deadline)
        if answer.is_denial_of_existence():
            return NotThere()
        if answer.status != 200:
            raise CustodyUnreachableError(f"Fireblocks answered {answer.status}")
        found = answers.ours(answer.json(), external_id)
        if found["status"] == answers.SIGNED:
            return _signature(found, payload, key)
        state = answers.state_of(found)
        if state in answers.ENDED:
            return Refused(answers.reason_of(found))
        return Pending(state == CustodyState.AWAITING_APPROVAL)

    def _request(self, key: Key, external_id: str, payload: Payload) -> Any:
        vault, asset = split(key.backend_ref)
        operation, message = "TYPED_MESSAGE", _readable(payload)
        raw: dict[str, Any] = {"messages": [message]}
        if message is None:
            if key.backend_ref not in self._client.config.allow_raw:
                raise RawNotAllowedError(f"{key.address}: {type(payload).__name__} would be signed blindly")
            operation = "RAW"
            raw = {"messages": [{"content": payload.digest.hex()}], "algorithm": "MPC_ECDSA_SECP256K1"}
        return models.TransactionRequest(
            operation=operation,
            asset_id=asset,
            source=models.SourceTransferPeerPath(type="VAULT_ACCOUNT", id=vault),
            external_tx_id=external_id,
            note=f"DALP {external_id}",
            extra_parameters=models.ExtraParameters(raw_message_data=raw),
        )


def _readable(payload: Payload) -> dict[str, Any] | None:
    """Return the message as Fireblocks can show it to its people, None when it can't."""
    match payload:
        case TypedDataPayload():
            return {"content": as_json(payload.typed_data), "type": "EIP712"}
        case MessagePayload():
            return {"content": payload.message.hex(), "type": "EIP191"}
        case _:
            return None


def _signature(found: Mapping[str, Any], payload: Payload, key: Key) -> bytes:
    try:
        (message,) = found["signedMessages"]
        signature = message["signature"]
        full, v = str(signature["fullSig"]).removeprefix("0x"), int(signature["v"])
    except (KeyError, TypeError, ValueError):
        raise SignatureInvalidError(
            f"{key.address}: Fireblocks says that it signed, and shows no signature"
        ) from None
    if len(full) != 128:
        raise SignatureInvalidError(f"{key.address}: Fireblocks shows a signature of another length")
    return checked(full[:64], full[64:], v, payload, key)
