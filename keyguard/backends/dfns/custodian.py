"""Calls executed by DFNS: handed over once under our id, looked up by it.

A key's reference is the id of a DFNS key; the wallet is the one that the key has on the call's network.
There is nothing to call off with: what waits for approval is rejected by DFNS' own approvers, and the "cancel" of its
API sends another transaction.
"""

import re
import threading
from collections.abc import Mapping
from typing import Any

from keyguard import curve
from keyguard.backends import configuring
from keyguard.backends.dfns.answers import REFUSING, error_of, report_of
from keyguard.backends.dfns.client import Client, path
from keyguard.backends.dfns.finding import Finder
from keyguard.backends.pacing import deadline_of
from keyguard.calls import Call
from keyguard.custodians import Report, Ticket
from keyguard.errors import CustodyMisconfiguredError, CustodyUnreachableError
from keyguard.states import CustodyState
from keyguard.uris import KeyUri

BINDING_SECONDS = 15.0
PROBING_SECONDS = 5.0

_PUBLIC_KEY = re.compile(r"(?:0x)?((?:02|03)[0-9a-fA-F]{64}|04[0-9a-fA-F]{128})", re.ASCII)


class DfnsCustodian:
    """`keyguard.custodians.Custodian` says what it upholds."""

    can_cancel = False

    def __init__(self, client: Client) -> None:
        self._client = client
        self._finder = Finder(client)
        self._networks = client.config.networks
        self._wallets: dict[tuple[str, int], str] = {}
        self._lock = threading.Lock()

    def public_key(self, reference: str) -> bytes:
        """Return the key's public key, when it is that of the addresses which DFNS shows for its wallets."""
        deadline = deadline_of(BINDING_SECONDS)
        found = self._client.key(reference, deadline)
        public = _public_key(found, reference)
        addresses = [self._address(found, chain_id, deadline) for chain_id in self._networks]
        if any(address not in ("", curve.address_of(public)) for address in addresses):
            raise CustodyUnreachableError(
                f"DFNS shows a public key for {reference} that is not its address's"
            )
        return public

    def probe(self, reference: str, address: str) -> str:
        """Say how DFNS stands: that it takes our token, and shows the key as active and with this address."""
        found = self._client.key(reference, deadline_of(PROBING_SECONDS))
        if curve.address_of(_public_key(found, reference)) != address:
            raise CustodyMisconfiguredError(
                f"DFNS_AUTH_TOKEN is of an account where {KeyUri('dfns', reference)} is another key"
            )
        return f"DFNS answers and shows {KeyUri('dfns', reference)} as it was bound"

    def submit(self, ticket: Ticket, call: Call, *, timeout_seconds: float) -> Report:
        """Ask for the call to be executed once, by the key of the ticket."""
        deadline = deadline_of(timeout_seconds)
        where = self._where(ticket, deadline)
        # No gas limit and no ceiling: the same id with another body would be refused, and hints may change.
        body = {"kind": "Evm", "value": str(call.value), "externalId": ticket.external_id}
        body |= {"to": curve.checksummed(f"0x{call.to.hex()}")} if call.to else {}
        body |= {"data": f"0x{call.data.hex()}"} if call.data else {}
        answer = self._client.create(where, body, deadline)
        if answer.status == 409:
            return report_of(self._finder.duplicate(where, ticket.external_id, answer.json(), deadline))
        if answer.status in REFUSING:
            found = self._finder.find(where, ticket.external_id, ticket.since, deadline)
            return report_of(found) if found else Report(CustodyState.REFUSED, reason=error_of(answer.json()))
        if answer.status not in (200, 201, 202):
            raise CustodyUnreachableError(f"DFNS answered {answer.status}")
        return report_of(self._finder.remember(where, ticket.external_id, answer.json()))

    def find(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        """Return how it stands; UNKNOWN only when DFNS' list does not have it."""
        deadline = deadline_of(timeout_seconds)
        found = self._finder.find(self._where(ticket, deadline), ticket.external_id, ticket.since, deadline)
        return report_of(found) if found else Report(CustodyState.UNKNOWN)

    def cancel(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        """Return how it stands; it cannot be called off from here."""
        return self.find(ticket, timeout_seconds=timeout_seconds)

    def _where(self, ticket: Ticket, deadline: float) -> str:
        """Return the path of the transactions of the key's wallet on the chain. A wallet never changes its network."""
        place = (ticket.reference, ticket.chain_id)
        with self._lock:
            wallet = self._wallets.get(place)
        if wallet is None:
            network = configuring.called(ticket.chain_id, self._networks, "DFNS_NETWORKS")
            wallet = _wallet_on(self._client.key(ticket.reference, deadline), network)
            if not wallet:
                raise CustodyMisconfiguredError(f"DFNS' key {ticket.reference} has no wallet on {network}")
            found = self._client.wallet(wallet, deadline)
            if (found.get("signingKey") or {}).get("id") != ticket.reference or found.get(
                "network"
            ) != network:
                raise CustodyUnreachableError(f"DFNS shows another key or network for wallet {wallet}")
            with self._lock:
                self._wallets[place] = wallet
        return path("wallets", wallet, "transactions")

    def _address(self, key: dict[str, Any], chain_id: int, deadline: float) -> str:
        """Return the address of the key's wallet on this chain, nothing where it has none."""
        wallet = _wallet_on(key, self._networks[chain_id])
        return str(self._client.wallet(wallet, deadline).get("address") or "") if wallet else ""


def _public_key(found: Mapping[str, Any], reference: str) -> bytes:
    """Return the public key in what DFNS says of a key that may sign."""
    match = _PUBLIC_KEY.fullmatch(str(found.get("publicKey")))
    if found.get("curve") != "secp256k1" or found.get("scheme") != "ECDSA" or match is None:
        raise CustodyUnreachableError(f"DFNS shows no ECDSA key on secp256k1 under {reference}")
    if found.get("status") != "Active":
        raise CustodyMisconfiguredError(f"DFNS' key {reference} is not active")
    try:
        return curve.uncompressed(bytes.fromhex(match[1]))
    except ValueError:
        raise CustodyUnreachableError(f"DFNS shows no point of secp256k1 under {reference}") from None


def _wallet_on(key: dict[str, Any], network: str) -> str:
    wallets = [each["id"] for each in key.get("wallets") or [] if each.get("network") == network]
    if len(wallets) > 1:
        raise CustodyMisconfiguredError(f"DFNS' key {key.get('id')} has {len(wallets)} wallets on {network}")
    return str(wallets[0]) if wallets else ""
