"""What our client of DFNS sends is what DFNS' own SDK sends for the same: methods, paths, bodies, client data.

Needs the npm packages @dfns/sdk and @dfns/sdk-keysigner: `make contract-dfns` installs them beside, and runs this.
"""

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import keyguard
from keyguard.backends.remote import (
    DigestPayload,
    MessagePayload,
    TransactionPayload,
    TypedDataPayload,
    remote_signer_of,
)
from keyguard.backends.typed_json import as_json
from keyguard.custodians import Ticket, custodian_of
from keyguard.ethereum import digest
from keyguard.models import Key
from keyguard.typed_data import decode_typed_data
from tests.fakes.credentials import Credentials, pem
from tests.fakes.dfns import FakeDfns
from tests.fakes.serving import Request
from tests.integration.custody.test_remote_signing import TO, TRANSACTION, TYPED_DATA

ROOT = Path(__file__).parents[3]
MODULES = Path(os.environ.get("DFNS_SDK", ROOT / "node_modules"))
KEY = "key-1abcd-2efgh-0123456789abcdef"
WALLET = "wa-1abcd-2efgh-0123456789abcdef"

pytestmark = pytest.mark.skipif(
    not (MODULES / "@dfns" / "sdk-keysigner").is_dir(),
    reason="DFNS' SDK is not installed: make contract-dfns",
)


def by_sdk(dfns: FakeDfns, credentials: Credentials, directory: Path, *questions: Any) -> list[Any]:
    """Have the SDK ask, and return its answers."""
    key = directory / "credential.pem"
    key.write_text(pem(credentials.ed25519))
    script = Path(__file__).with_name("dfns_sdk.mjs")
    asked = [{"area": area, "method": method, "request": request} for area, method, request in questions]
    arguments = [str(MODULES), dfns.url, dfns.token, dfns.credential_id, str(key), json.dumps(asked)]
    done = subprocess.run(["node", str(script), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def seen(requests: list[Request]) -> list[Any]:
    """Return what of requests must be the same, whoever sends them: challenges, signatures and tokens are new each time."""
    return [
        (
            each.method,
            each.path,
            _body(each),
            "x-dfns-useraction" in each.headers,
            each.headers["authorization"],
        )
        for each in requests
    ]


def _body(request: Request) -> Any:
    if not request.body:
        return None
    body = request.json()
    if request.path == "/auth/action/init":
        body["userActionPayload"] = json.loads(body["userActionPayload"])
    if request.path == "/auth/action":
        assertion = body["firstFactor"]["credentialAssertion"]
        text = base64.urlsafe_b64decode(assertion["clientData"] + "==")
        assertion |= {"clientData": {**json.loads(text), "challenge": ""}, "signature": ""}
        body["challengeIdentifier"] = ""
    return body


def test_requests_have_the_shapes_of_the_sdks(
    fresh_db: str, dfns: FakeDfns, credentials: Credentials, settings: Any, tmp_path: Path
) -> None:
    dfns.keep = True
    settings.DFNS_ALLOW_RAW = [KEY]
    key: Key = keyguard.bind_key("vault", "dfns", KEY)
    ticket = Ticket(KEY, "call", 31337, key.created_at)
    custodian_of("dfns").find(ticket, timeout_seconds=5)
    typed = TypedDataPayload(TYPED_DATA, digest(decode_typed_data(TYPED_DATA).payload()))
    blind = DigestPayload(bytes(range(32)))
    payloads = [typed, MessagePayload(b"hello"), TransactionPayload(TRANSACTION), blind]
    dfns.requests.clear()
    signer = remote_signer_of("dfns")
    for number, payload in enumerate(payloads):
        signer.submit(key, f"s{number}", payload, timeout_seconds=5)
    custodian_of("dfns").submit(
        ticket, keyguard.Call(31337, bytes.fromhex(TO[2:]), 5, b"\x01"), timeout_seconds=5
    )
    ours = seen(dfns.requests)

    dfns.requests.clear()
    whole = as_json(TYPED_DATA)
    types = {"Permit": whole["types"]["Permit"]}
    kinds = [
        {"kind": "Eip712", "types": types, "domain": whole["domain"], "message": whole["message"]},
        {"kind": "Message", "message": "0x68656c6c6f"},
        {"kind": "Transaction", "transaction": f"0x{TRANSACTION.payload().hex()}"},
        {"kind": "Hash", "hash": f"0x{bytes(range(32)).hex()}"},
    ]
    bodies = [
        {**kind, "blockchainKind": "Evm", "externalId": f"s{number}"} for number, kind in enumerate(kinds)
    ]
    call = {"kind": "Evm", "to": TO, "value": "5", "data": "0x01", "externalId": "call"}
    answers = by_sdk(
        dfns,
        credentials,
        tmp_path,
        *[("keys", "generateSignature", {"keyId": KEY, "body": body}) for body in bodies],
        ("wallets", "broadcastTransaction", {"walletId": WALLET, "body": call}),
    )
    assert seen(dfns.requests) == ours
    assert len(dfns.entities) == 5, "the same ids, so the same requests"
    assert {answer["externalId"] for answer in answers} == {"s0", "s1", "s2", "s3", "call"}


def test_lookups_have_the_shapes_of_the_sdks(
    fresh_db: str, dfns: FakeDfns, credentials: Credentials, tmp_path: Path
) -> None:
    key: Key = keyguard.bind_key("vault", "dfns", KEY)
    dfns.requests.clear()
    custodian_of("dfns").find(Ticket(KEY, "none", 31337, key.created_at), timeout_seconds=5)
    remote_signer_of("dfns").find(key, "none", MessagePayload(b""), timeout_seconds=5)
    ours = [(each.method, each.target) for each in dfns.requests]
    dfns.requests.clear()
    by_sdk(
        dfns,
        credentials,
        tmp_path,
        ("keys", "getKey", {"keyId": KEY}),
        ("wallets", "getWallet", {"walletId": WALLET}),
        ("wallets", "listTransactions", {"walletId": WALLET, "query": {"limit": "100"}}),
        ("keys", "listSignatures", {"keyId": KEY, "query": {"limit": "100"}}),
    )
    assert [(each.method, each.target) for each in dfns.requests] == ours
