"""What a transaction carries besides call data: access list, blobs, authorisations. Stored with it, read to be signed."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import keyguard
from keyguard import KeyNotFoundError
from signer.errors import AuthorityTwiceError, UnknownAuthorityError
from signer.models import Authorization, Blob, Lane, Transaction
from signer.requests import TransactionRequest
from signer.states import Envelope


def columns(request: TransactionRequest, fee_market: str) -> dict[str, Any]:
    """Return the transaction's columns about its kind and what it carries. Raises EnvelopeUnsupportedError."""
    entries = request.access_list
    return {
        "envelope": request.kind_on(fee_market),
        "access_list": None if entries is None else [entry.model_dump() for entry in entries],
        "blob_count": len(request.blobs),
    }


def authorities(request: TransactionRequest, tenant: str) -> list[str]:
    """Return the addresses of those who are to authorise. Raises UnknownAuthorityError, AuthorityTwiceError."""
    addresses = []
    for wanted in request.authorizations:
        try:
            addresses.append(keyguard.find_key(wanted.authority, tenant).address)
        except KeyNotFoundError as error:
            raise UnknownAuthorityError(error.message) from None
    if len(set(addresses)) != len(addresses):
        raise AuthorityTwiceError("two authorizations are of the same account")
    return addresses


def store(row: Transaction, request: TransactionRequest, lanes: Sequence[Lane]) -> None:
    """Store what does not fit into columns, in the database transaction that inserts the row.

    lanes: those of the authorities, in the order of the request.
    """
    blobs = [bytes.fromhex(blob[2:]) for blob in request.blobs]
    Blob.objects.bulk_create(
        Blob(transaction=row, position=place, data=data) for place, data in enumerate(blobs)
    )
    Authorization.objects.bulk_create(
        Authorization(transaction=row, position=place, lane=lane, delegate=wanted.delegate)
        for place, (wanted, lane) in enumerate(zip(request.authorizations, lanes, strict=True))
    )


def blobs_of(rows: Iterable[Transaction]) -> dict[UUID, list[bytes]]:
    """Return the blobs of those among the transactions that carry some."""
    wanted = [row.pk for row in rows if row.envelope == Envelope.BLOB]
    found: dict[UUID, list[bytes]] = {}
    if wanted:
        for blob in Blob.objects.filter(transaction__in=wanted).order_by("transaction", "position"):
            found.setdefault(blob.transaction_id, []).append(bytes(blob.data))
    return found


def authorizations_of(rows: Iterable[Transaction]) -> dict[UUID, list[Authorization]]:
    """Return the authorisations, with their authorities' lanes, of those among the transactions that carry some."""
    wanted = [row.pk for row in rows if row.envelope == Envelope.SET_CODE]
    found: dict[UUID, list[Authorization]] = {}
    if wanted:
        of_wanted = Authorization.objects.filter(transaction__in=wanted).select_related("lane")
        for authorization in of_wanted.order_by("transaction", "position"):
            found.setdefault(authorization.transaction_id, []).append(authorization)
    return found
