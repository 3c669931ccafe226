"""A stand-in for Vault that speaks its public HTTP API: AppRole, tokens, policies, namespaces, seal, KV v2, transit.

Real HTTP on a free port, driven by hvac alone. Written from https://developer.hashicorp.com/vault/api-docs. Its clock can
be moved, and what it does to the next request that matches can be said: refuse, drop, answer late, or do and not answer.
"""

import json
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.vault_engines import Kv, RefusalError, Transit
from tests.watching import WATCH

CAPABILITIES = {"GET": "read", "POST": "update", "PUT": "update", "DELETE": "delete", "LIST": "list"}


@dataclass
class Trouble:
    """What happens to the next requests that match, `times` times."""

    match: str  # of "METHOD path"
    how: str  # status, drop, lose (do it, then drop), wait
    value: float = 0
    times: int = 1


@dataclass
class Token:
    policy: list[tuple[str, set[str]]]
    born: float
    expires: float


@dataclass
class Role:
    secret_id: str
    policy: list[tuple[str, set[str]]]
    logins: int = 0


@dataclass
class FakeVault:
    """One server. `sealed`, `standby` (429 or 473) and `skew_seconds` may be set at any time; `log` has every request."""

    ttl_seconds: int = 3600
    max_ttl_seconds: int = 7200
    namespace: str = ""
    sealed: bool = False
    standby: int = 0
    skew_seconds: float = 0.0
    log: list[str] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    roles: dict[str, Role] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kv, self.transit = Kv(), Transit()
        self.lock = threading.RLock()
        self.server = VaultServer(("127.0.0.1", 0), Handler)
        self.server.vault = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def now(self) -> float:
        return time.time() + self.skew_seconds

    def allow(self, role_id: str, secret_id: str, policy: dict[str, str]) -> None:
        """Let a role log in. policy: capabilities by path, as `path "secret/data/dalp/*"` in Vault's own language."""
        rules = [
            (re.escape(path).replace(r"\*", ".*").replace(r"\+", "[^/]+"), set(words.split()))
            for path, words in policy.items()
        ]
        WATCH.learn("a secret id of Vault", secret_id)
        self.roles[role_id] = Role(secret_id, rules)

    def trouble(self, match: str, how: str, value: float = 0, times: int = 1) -> None:
        self.troubles.append(Trouble(match, how, value, times))

    def requests(self, pattern: str) -> list[str]:
        """Return the requests so far whose "METHOD path" matches."""
        return [line for line in self.log if re.search(pattern, line)]

    # --- What it answers ----------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, token: str) -> tuple[int, Any]:
        if path == "sys/health":
            status = 503 if self.sealed else self.standby or 200
            return status, {"initialized": True, "sealed": self.sealed, "standby": bool(self.standby)}
        if self.sealed:
            raise RefusalError(503, "Vault is sealed")
        if path == "auth/approle/login":
            return self._log_in(body)
        known = self.tokens.get(token)
        if known is None or known.expires <= self.now():
            raise RefusalError(403, "permission denied", "invalid token")
        if path == "auth/token/lookup-self":
            return enveloped(
                {"ttl": int(known.expires - self.now()), "renewable": True, "policies": ["dalp"]}
            )
        if path == "auth/token/renew-self":
            known.expires = min(self.now() + self.ttl_seconds, known.born + self.max_ttl_seconds)
            return enveloped(None, auth=self._auth(token))
        self._require(known, method, path)
        mount, _, rest = path.partition("/")
        if mount == "secret":
            return enveloped(self.kv.answer(method, rest, query, body))
        if mount == "transit":
            return enveloped(self.transit.answer(method, rest, body))
        raise RefusalError(404, f'no handler for route "{path}". route entry not found.')

    def _log_in(self, body: dict[str, str]) -> tuple[int, Any]:
        role = self.roles.get(body.get("role_id", ""))
        if role is None or role.secret_id != body.get("secret_id"):
            raise RefusalError(400, "invalid role or secret ID")
        role.logins += 1
        token = f"hvs.{uuid.uuid4().hex}{uuid.uuid4().hex}"
        WATCH.learn("a token of Vault", token)
        self.tokens[token] = Token(role.policy, self.now(), self.now() + self.ttl_seconds)
        return enveloped(None, auth=self._auth(token))

    def _auth(self, token: str) -> dict[str, Any]:
        left = int(self.tokens[token].expires - self.now())
        return {"client_token": token, "lease_duration": left, "renewable": True, "token_type": "service"}

    def _require(self, token: Token, method: str, path: str) -> None:
        # A write to what is not there needs "create", to what is there "update".
        wanted = {"create", "update"} if CAPABILITIES[method] == "update" else {CAPABILITIES[method]}
        for pattern, capabilities in token.policy:
            if re.fullmatch(pattern, path) and wanted & capabilities:
                return
        raise RefusalError(403, "1 error occurred:\n\t* permission denied\n\n")


def enveloped(data: Any, auth: Any = None) -> tuple[int, Any]:
    if data is None and auth is None:
        return 204, None
    frame = {"request_id": str(uuid.uuid4()), "lease_id": "", "renewable": False, "lease_duration": 0}
    return 200, {**frame, "data": data, "wrap_info": None, "warnings": None, "auth": auth}


class VaultServer(ThreadingHTTPServer):
    daemon_threads = True
    vault: FakeVault


class Handler(BaseHTTPRequestHandler):
    server: "VaultServer"

    protocol_version = "HTTP/1.1"
    # Without these two each answer waits 40 ms for the other side's acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client went away
            self.close_connection = True

    def serve(self) -> None:
        parts = urlsplit(self.path)
        path, query = parts.path.removeprefix("/v1/"), {k: v[0] for k, v in parse_qs(parts.query).items()}
        method = "LIST" if query.get("list") == "true" else self.command
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        with self.server.vault.lock:
            self.server.vault.log.append(f"{method} {path}")
            trouble = self._trouble(f"{method} {path}")
        if trouble and trouble.how == "wait":
            time.sleep(trouble.value)
        elif trouble and trouble.how == "drop":
            self.close_connection = True
            return
        elif trouble and trouble.how == "status":
            self._reply(int(trouble.value), {"errors": [f"made up: {trouble.value:g}"]})
            return
        status, answer = self._answered(method, path, query, body)
        if trouble and trouble.how == "lose":
            self.close_connection = True
            return
        self._reply(status, answer)

    def _answered(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        try:
            if (self.headers.get("X-Vault-Namespace") or "").strip("/") != self.server.vault.namespace:
                raise RefusalError(404, "no handler for route. route entry not found.")
            with self.server.vault.lock:
                return self.server.vault.answer(
                    method, path, query, body, self.headers.get("X-Vault-Token") or ""
                )
        except RefusalError as refusal:
            return refusal.status, {"errors": list(refusal.errors), **refusal.extra}

    def _trouble(self, line: str) -> Trouble | None:
        for trouble in self.server.vault.troubles:
            if trouble.times and re.search(trouble.match, line):
                trouble.times -= 1
                return trouble
        return None

    def _reply(self, status: int, answer: Any) -> None:
        body = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_DELETE = do_LIST = serve  # noqa: N815
