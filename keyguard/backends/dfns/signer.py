"""Signatures by keys of DFNS, over what its people and policies can read; over bare digests only where a key allows it."""

from collections.abc import Mapping
from typing import Any

from keyguard.backends.dfns.answers import REFUSING, error_of
from keyguard.backends.dfns.client import Client, path
from keyguard.backends.dfns.finding import Finder
from keyguard.backends.pacing import deadline_of
from keyguard.backends.remote import (
    DigestPayload,
    MessagePayload,
    NotThere,
    Outcome,
    Payload,
    Pending,
    Refused,
    TransactionPayload,
    TypedDataPayload,
    checked,
    checked_transaction,
)
from keyguard.backends.typed_json import as_json
from keyguard.errors import CustodyUnreachableError, RawNotAllowedError, SignatureInvalidError
from keyguard.models import Key

ENDED = ("Failed", "Rejected")
SIGNED = ("Signed", "Confirmed")


class DfnsSigner:
    """`keyguard.backends.remote.RemoteSigner` says what it upholds."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._finder = Finder(client)

    def submit(self, key: Key, external_id: str, payload: Payload, *, timeout_seconds: float) -> Outcome:
        """Ask for the signature once."""
        deadline, where = deadline_of(timeout_seconds), path("keys", key.backend_ref, "signatures")
        if isinstance(payload, DigestPayload) and key.backend_ref not in self._client.config.allow_raw:
            raise RawNotAllowedError(f"{key.address}: a digest would be signed blindly")
        body = {**_body(payload), "blockchainKind": "Evm", "externalId": external_id}
        answer = self._client.create(where, body, deadline)
        if answer.status == 409:
            found: Mapping[str, Any] | None = self._finder.duplicate(
                where, external_id, answer.json(), deadline
            )
        elif answer.status in REFUSING:
            found = self._finder.find(where, external_id, key.created_at, deadline)
            if found is None:
                return Refused(error_of(answer.json()))
        elif answer.status in (200, 201, 202):
            found = self._finder.remember(where, external_id, answer.json())
        else:
            raise CustodyUnreachableError(f"DFNS answered {answer.status}")
        assert found is not None
        return _outcome(found, payload, key)

    def find(
        self, key: Key, external_id: str, payload: Payload, *, timeout_seconds: float
    ) -> Outcome | NotThere:
        """Return how it stands."""
        deadline, where = deadline_of(timeout_seconds), path("keys", key.backend_ref, "signatures")
        found = self._finder.find(where, external_id, key.created_at, deadline)
        return _outcome(found, payload, key) if found else NotThere()


def _body(payload: Payload) -> dict[str, Any]:
    """Return what is asked for, in the kind that shows DFNS most of it."""
    match payload:
        case TypedDataPayload():
            whole = as_json(payload.typed_data)
            types = {name: fields for name, fields in whole["types"].items() if name != "EIP712Domain"}
            return {"kind": "Eip712", "types": types, "domain": whole["domain"], "message": whole["message"]}
        case MessagePayload():
            return {"kind": "Message", "message": f"0x{payload.message.hex()}"}
        case TransactionPayload():
            return {"kind": "Transaction", "transaction": f"0x{payload.transaction.payload().hex()}"}
        case DigestPayload():
            return {"kind": "Hash", "hash": f"0x{payload.digest.hex()}"}


def _outcome(found: Mapping[str, Any], payload: Payload, key: Key) -> Outcome:
    """Return what DFNS says. Its word that it has signed counts with a signature that is checked."""
    status = str(found.get("status"))
    if status in ENDED:
        return Refused(str(found.get("reason") or status))
    if status not in SIGNED:
        return Pending(awaits_people=status == "Pending")
    if isinstance(payload, TransactionPayload) and found.get("signedData"):
        return checked_transaction(str(found["signedData"]), payload, key)
    signature = found.get("signature")
    try:
        r, s, recovery = str(signature["r"]), str(signature["s"]), int(signature["recid"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        raise SignatureInvalidError(
            f"{key.address}: DFNS says that it signed, and shows no signature"
        ) from None
    return checked(r, s, recovery, payload, key)
