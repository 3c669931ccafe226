"""DFNS over HTTP: keys, wallets, signatures, transactions, and the signature of our credential on whatever changes something.

Upholds: each changing request carries a user action of its own, signed over its method, path and the very bytes of its
body. No id goes into a path that is not one. One attempt is one HTTP request; what may have been done is not repeated.
Source: DFNS' API documentation, "User Action Signing".
"""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding

from keyguard.backends.dfns.configured import Config
from keyguard.backends.pacing import MAX_ANSWER_BYTES, Answer, Pace, ask, denied
from keyguard.errors import CustodyDeniesError, CustodyMisconfiguredError, CustodyUnreachableError
from keyguard.uris import DFNS

NAME = "DFNS"
PAGE_SIZE = 100


class Client:
    """The few calls that are needed, each within its time."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._http = httpx.Client(base_url=config.base_url, follow_redirects=False)
        self._pace = Pace(config.requests_per_second)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def key(self, key_id: str, deadline: float) -> dict[str, Any]:
        """Return a key, with the wallets that it has."""
        return _ok(self._get(path("keys", key_id), deadline)).json()

    def wallet(self, wallet_id: str, deadline: float) -> dict[str, Any]:
        """Return a wallet."""
        return _ok(self._get(path("wallets", wallet_id), deadline)).json()

    def create(self, where: str, body: Mapping[str, Any], deadline: float) -> Answer:
        """Ask for a signature or a transaction. At most one for each external id, which DFNS keeps for ever."""
        content = json.dumps(body, ensure_ascii=True, separators=(",", ":")).encode()
        answer = self._changing("POST", where, content, deadline)
        if answer.status == 401:
            # A user action that has expired or was used: DFNS has done nothing.
            answer = self._changing("POST", where, content, deadline)
        if answer.status == 401:
            raise denied(answer, self._pace, NAME)
        return answer

    def one(self, where: str, its_id: str, deadline: float) -> Answer:
        """Return a signature or a transaction by its own id."""
        return self._get(f"{where}/{path(its_id)[1:]}", deadline)

    def pages(self, where: str, deadline: float) -> Iterator[list[dict[str, Any]]]:
        """Return the signatures of a key, or the transactions of a wallet, page by page."""
        token = ""
        while True:
            query = {"limit": str(PAGE_SIZE)} | ({"paginationToken": token} if token else {})
            found = _ok(self._get(where, deadline, query)).json()
            items = found.get("items")
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise CustodyUnreachableError("DFNS answered without a list")
            yield items
            following = found.get("nextPageToken")
            if not following:
                return
            if following == token or not isinstance(following, str):
                raise CustodyUnreachableError("DFNS' list leads in a circle")
            token = following

    def _get(self, where: str, deadline: float, query: Mapping[str, str] | None = None) -> Answer:
        return self._ask("GET", where, b"", {}, deadline, query=query)

    def _changing(self, method: str, where: str, content: bytes, deadline: float) -> Answer:
        headers = {"X-DFNS-USERACTION": self._user_action(method, where, content, deadline)}
        return self._ask(method, where, content, headers, deadline, may_repeat=False, judges_401=True)

    def _user_action(self, method: str, where: str, content: bytes, deadline: float) -> str:
        """Have our credential sign for one request, and return the token that says so; it is good for one."""
        wanted = {
            "userActionPayload": content.decode(),
            "userActionHttpMethod": method,
            "userActionHttpPath": where,
            "userActionServerKind": "Api",
        }
        answer = None
        for _ in range(2):  # a challenge may have expired on the way
            challenge = _ok(self._post("/auth/action/init", wanted, deadline)).json()
            answer = self._post("/auth/action", self._signed(challenge), deadline)
            if answer.status == 200:
                token = answer.json().get("userAction")
                if not isinstance(token, str) or not token.isascii() or not token.isprintable():
                    raise CustodyUnreachableError("DFNS answered without a user action")
                return token
        assert answer is not None
        if answer.status == 401:
            raise denied(answer, self._pace, NAME)
        raise CustodyUnreachableError(f"DFNS answered {answer.status} to a user action")

    def _signed(self, challenge: Mapping[str, Any]) -> dict[str, Any]:
        given, identifier = challenge.get("challenge"), challenge.get("challengeIdentifier")
        if not isinstance(given, str) or not given or not isinstance(identifier, str):
            raise CustodyUnreachableError("DFNS answered without a challenge")
        credential = self.config.credential_id
        allowed = (challenge.get("allowCredentials") or {}).get("key") or []
        if credential not in [each.get("id") for each in allowed]:
            raise CustodyDeniesError(
                "DFNS does not list the credential of DFNS_CREDENTIAL_ID for this account"
            )
        data = json.dumps({"type": "key.get", "challenge": given}, separators=(",", ":")).encode()
        assertion = {
            "credId": credential,
            "clientData": _base64url(data),
            "signature": _base64url(sign(self.config.credential_key, data)),
        }
        factor = {"kind": "Key", "credentialAssertion": assertion}
        return {"challengeIdentifier": identifier, "firstFactor": factor}

    def _post(self, where: str, body: Mapping[str, Any], deadline: float) -> Answer:
        content = json.dumps(body, separators=(",", ":")).encode()
        # Nothing happens at DFNS by a challenge or its signature.
        return self._ask("POST", where, content, {}, deadline, judges_401=where == "/auth/action")

    def _ask(
        self,
        method: str,
        where: str,
        content: bytes,
        headers: Mapping[str, str],
        deadline: float,
        *,
        query: Mapping[str, str] | None = None,
        may_repeat: bool = True,
        judges_401: bool = False,
    ) -> Answer:
        def attempt(seconds: float) -> Answer:
            always = {"Authorization": f"Bearer {self.config.auth_token}", "Accept": "application/json"}
            typed = {"Content-Type": "application/json"} if content else {}
            request = self._http.build_request(
                method,
                where,
                params=query,
                content=content or None,
                headers={**always, **typed, **headers},
                timeout=seconds,
            )
            return _read(self._http.send(request, stream=True))

        try:
            return ask(attempt, self._pace, deadline, may_repeat=may_repeat, name=NAME, judges_401=judges_401)
        except httpx.HTTPError as error:
            raise CustodyUnreachableError(f"{NAME} gave no answer ({type(error).__name__})") from None


def path(*parts: str) -> str:
    """Return the path of these parts. Raises CustodyMisconfiguredError for what is no id, before anybody is asked."""
    for part in parts:
        if not DFNS.fullmatch(part):
            raise CustodyMisconfiguredError(f"{part[:60]!r} is no id of DFNS")
    return "/" + "/".join(parts)


def sign(key: Any, data: bytes) -> bytes:
    """Return the credential's signature, as DFNS takes it from each kind of key."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    signature: bytes = key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return signature


def _read(response: httpx.Response) -> Answer:
    """Read the body, as far as one may be long."""
    try:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise CustodyUnreachableError("DFNS answered at a length that no answer of its has")
    finally:
        response.close()
    return Answer(
        response.status_code,
        bytes(body),
        {name.lower(): value for name, value in response.headers.items()},
    )


def _ok(answer: Answer) -> Answer:
    if answer.status not in (200, 201, 202):
        raise CustodyUnreachableError(f"DFNS answered {answer.status}")
    return answer


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
