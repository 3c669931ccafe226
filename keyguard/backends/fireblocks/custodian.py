"""Calls executed by Fireblocks: handed over once under our id, looked up by it, called off while it is not sent.

A key's reference is VAULT_ACCOUNT/ASSET, as `7/ETH`: the account of the vault, and the asset whose address it is. On
another chain the account's asset there is used, when its address is the same.
"""

import re
import threading
from collections.abc import Mapping
from typing import Any

from keyguard import curve
from keyguard.backends import configuring
from keyguard.backends.fireblocks import answers
from keyguard.backends.fireblocks.client import Client, models
from keyguard.backends.pacing import Answer, deadline_of
from keyguard.calls import Call
from keyguard.custodians import Report, Ticket
from keyguard.errors import CustodyMisconfiguredError, CustodyUnreachableError
from keyguard.states import CustodyState
from keyguard.uris import FIREBLOCKS, KeyUri

BINDING_SECONDS = 15.0
PROBING_SECONDS = 5.0
MOST_REPLACEMENTS = 10
MARGIN_MS = 3_600_000
WEI_DIGITS, GWEI_DIGITS = 18, 9

_PUBLIC_KEY = re.compile(r"(?:0x)?(04[0-9a-fA-F]{128})", re.ASCII)


class FireblocksCustodian:
    """`keyguard.custodians.Custodian` says what it upholds."""

    can_cancel = True

    def __init__(self, client: Client) -> None:
        self._client = client
        self._assets = client.config.assets
        self._addresses: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def public_key(self, reference: str) -> bytes:
        """Return the public key of the account's asset, when it is that of the address which Fireblocks shows for it."""
        vault, asset = split(reference)
        if asset not in self._assets.values():
            raise CustodyMisconfiguredError(f"FIREBLOCKS_ASSETS does not name the chain of {asset}")
        deadline = deadline_of(BINDING_SECONDS)
        found = _ok(self._client.public_key(vault, asset, deadline)).json()
        match = _PUBLIC_KEY.fullmatch(str(found.get("publicKey")))
        if found.get("algorithm") != "MPC_ECDSA_SECP256K1" or match is None:
            raise CustodyUnreachableError(f"Fireblocks shows no secp256k1 public key for {reference}")
        public = bytes.fromhex(match[1])
        if curve.address_of(public) != self._address(vault, asset, deadline):
            raise CustodyUnreachableError(
                f"Fireblocks shows a public key for {reference} that is not its address's"
            )
        return public

    def probe(self, reference: str, address: str) -> str:
        """Say how Fireblocks stands: that it takes our credentials, and shows this address for the account's asset.

        The cheapest read that every role may do. Its token is signed, so it tells of the clock, too.
        """
        vault, asset = split(reference)
        if self._shown_address(vault, asset, deadline_of(PROBING_SECONDS)) != address:
            raise CustodyMisconfiguredError(
                f"FIREBLOCKS_API_KEY leads to a workspace that has another address for {KeyUri('fireblocks', reference)}"
            )
        return f"Fireblocks answers and shows {KeyUri('fireblocks', reference)} as it was bound"

    def submit(self, ticket: Ticket, call: Call, *, timeout_seconds: float) -> Report:
        """Ask for the call to be executed once, by the key of the ticket."""
        deadline = deadline_of(timeout_seconds)
        if not call.to:
            return Report(CustodyState.REFUSED, reason="Fireblocks creates no contracts by a call")
        vault, asset = self._paying(ticket.reference, call.chain_id, deadline)
        request = _request(ticket.external_id, vault, asset, call)
        answer = self._client.create_transaction(request, ticket.external_id, deadline)
        if answer.status == 400:
            # Its id may be in use, by this very transaction.
            found = self._find(ticket, deadline)
            if found.state != CustodyState.UNKNOWN:
                return found
            message = str(answer.json().get("message") or "Fireblocks takes it for malformed")
            return Report(CustodyState.REFUSED, reason=message)
        created = _ok(answer).json()
        if not created.get("id") or not created.get("status"):
            raise CustodyUnreachableError("Fireblocks answered without saying what it has")
        state = answers.state_of(created)
        if state in answers.ENDED:
            return self._find(ticket, deadline)  # the answer to a request says no reasons
        return Report(CustodyState.WORKING if state == CustodyState.SENT else state)

    def find(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        """Return how it stands; UNKNOWN only when Fireblocks itself says that it has no such transaction."""
        return self._find(ticket, deadline_of(timeout_seconds))

    def cancel(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        """Ask for it not to be sent, and return how it stands then."""
        deadline = deadline_of(timeout_seconds)
        found = self._look_up(ticket.external_id, deadline)
        if found is None:
            return Report(CustodyState.UNKNOWN)
        if answers.state_of(found) in (CustodyState.WORKING, CustodyState.AWAITING_APPROVAL):
            # Whatever it answers: it may be too late, and what counts is how the transaction stands.
            self._client.cancel_transaction(str(found["id"]), deadline)
        return self._find(ticket, deadline)

    def _find(self, ticket: Ticket, deadline: float) -> Report:
        found = self._look_up(ticket.external_id, deadline)
        if found is None:
            return Report(CustodyState.UNKNOWN)
        if answers.state_of(found) == CustodyState.FAILED and found.get("txHash"):
            found = self._last_replacement(ticket, found, deadline)
        return answers.report_of(found)

    def _look_up(self, external_id: str, deadline: float) -> Mapping[str, Any] | None:
        answer = self._client.find_transaction(external_id, deadline)
        if answer.is_denial_of_existence():
            return None
        return answers.ours(_ok(answer).json(), external_id)

    def _last_replacement(
        self, ticket: Ticket, found: Mapping[str, Any], deadline: float
    ) -> Mapping[str, Any]:
        """Return what took the place of a transaction that was sent, itself when nothing did.

        Sent again with a higher fee, or dropped by a transaction that does nothing: Fireblocks ends the first as failed,
        and the other is one of its own, under no id of ours, that names the hash which it replaced.
        """
        vault, _ = split(ticket.reference)
        asset = str(found.get("assetId") or "")
        after = int(found.get("createdAt") or 0) - MARGIN_MS
        listed = _ok(self._client.transactions_of(vault, asset, max(after, 0), deadline)).json_list()
        by_replaced = {
            str(each["replacedTxHash"]).lower(): each for each in listed if each.get("replacedTxHash")
        }
        last = found
        for _ in range(MOST_REPLACEMENTS):
            following = by_replaced.get(str(last.get("txHash") or "").lower())
            if following is None or not following.get("txHash"):
                return last
            last = following
        return last

    def _paying(self, reference: str, chain_id: int, deadline: float) -> tuple[str, str]:
        """Return the account and its asset on this chain, whose address must be the key's."""
        vault, own = split(reference)
        asset = configuring.called(chain_id, self._assets, "FIREBLOCKS_ASSETS")
        if asset != own and self._address(vault, asset, deadline) != self._address(vault, own, deadline):
            raise CustodyMisconfiguredError(
                f"vault account {vault} has another address for {asset} than for {own}"
            )
        return vault, asset

    def _address(self, vault: str, asset: str, deadline: float) -> str:
        """Return the address of the account's asset. It never changes, so one look is enough."""
        with self._lock:
            known = self._addresses.get((vault, asset))
        if known is None:
            known = self._shown_address(vault, asset, deadline)
            with self._lock:
                self._addresses[vault, asset] = known
        return known

    def _shown_address(self, vault: str, asset: str, deadline: float) -> str:
        listed = _ok(self._client.addresses(vault, asset, deadline)).json().get("addresses")
        if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], dict):
            raise CustodyUnreachableError(f"Fireblocks shows no single address for {vault}/{asset}")
        return curve.checksummed(_address(listed[0].get("address")))


def split(reference: str) -> tuple[str, str]:
    """Return the account and the asset of a key's reference. Raises CustodyMisconfiguredError."""
    match = FIREBLOCKS.fullmatch(reference)
    if match is None:
        raise CustodyMisconfiguredError(f"{reference[:80]!r} is no VAULT_ACCOUNT/ASSET, as in 7/ETH")
    return match[1], match[2]


def units(wei: int, digits: int) -> str:
    """Return an amount in the unit of so many decimal digits, exactly."""
    return f"{wei // 10**digits}.{wei % 10**digits:0{digits}d}".rstrip("0").rstrip(".")


def _request(external_id: str, vault: str, asset: str, call: Call) -> Any:
    """Return what is asked for. The gas limit is Fireblocks' own business, the fee's ceiling a wish."""
    address = models.OneTimeAddress(address=curve.checksummed(f"0x{call.to.hex()}"))
    request = models.TransactionRequest(
        operation="CONTRACT_CALL" if call.data else "TRANSFER",
        asset_id=asset,
        source=models.SourceTransferPeerPath(type="VAULT_ACCOUNT", id=vault),
        destination=models.DestinationTransferPeerPath(type="ONE_TIME_ADDRESS", one_time_address=address),
        amount=models.TransactionRequestAmount(units(call.value, WEI_DIGITS)),
        external_tx_id=external_id,
        note=f"DALP {external_id}",
    )
    if call.data:
        request.extra_parameters = models.ExtraParameters(contract_call_data=f"0x{call.data.hex()}")
    if call.max_fee_per_gas_wei is not None:
        request.max_fee = units(call.max_fee_per_gas_wei, GWEI_DIGITS)
    return request


def _address(value: Any) -> str:
    text = str(value)
    if not re.fullmatch(r"0x[0-9a-fA-F]{40}", text, re.ASCII):
        raise CustodyUnreachableError("Fireblocks shows something else than an address")
    return text


def _ok(answer: Answer) -> Answer:
    if answer.status not in (200, 201, 202):
        raise CustodyUnreachableError(f"Fireblocks answered {answer.status}")
    return answer
