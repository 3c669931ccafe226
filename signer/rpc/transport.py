"""Asking one endpoint, once. Nothing is sent twice from here: web3's own re-send is off, because a second
eth_sendRawTransaction would turn "accepted" into an error.
"""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import urllib3

from signer import json_of_others
from signer.errors import RpcError, RpcNodeError, RpcRejectedError, RpcTooLargeError, RpcTransportError
from signer.retry_after import asked_seconds
from signer.rpc import answers as bodies
from signer.rpc.connections import ThreadSessions, Waiting, waiting_with
from signer.rpc.door import BATCH_SIZE, Call, Rpc, portion
from signer.rpc.methods import seconds_for

if TYPE_CHECKING:
    from signer.rpc.provider import Posted, Provider

CONNECT_SECONDS = 2.0
TURNED_AWAY = {401, 402, 403, 429}
RETRY_AFTER_SECONDS_MAX = 300.0


class Node(Rpc):
    """One endpoint. May be used by several threads at once; holds the URL and shows only the host."""

    def __init__(self, url: str, timeout: float | None = None) -> None:
        self.host = urlsplit(url).hostname or "?"
        self._url = url
        self._timeout = timeout
        self._made: Provider | None = None

    def batch(self, calls: Sequence[Call], *, prove: bool = False) -> list[Any]:
        """As of Rpc, at most `BATCH_SIZE` calls in one request; a request that fails as a whole fails its calls."""
        answers: list[Any] = []
        while len(answers) < len(calls):
            answers += self.request(portion(calls[len(answers) : len(answers) + BATCH_SIZE], BATCH_SIZE))
        return answers

    def request(
        self, calls: Sequence[Call], seconds: float | None = None, waiting: Waiting | None = None
    ) -> list[Any]:
        """Send the calls as one HTTP request; return a result or RpcError for each.

        seconds: how long it may take; by default what the slowest of the methods may. waiting: called while the
        answer lets itself be waited for; what it raises, unless it is an RpcError, goes to the caller.
        """
        seconds = seconds or self._timeout or seconds_for(calls)
        requested = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
            for number, (method, params) in enumerate(calls)
        ]
        body = json.dumps(requested if len(requested) > 1 else requested[0], separators=(",", ":")).encode()
        try:
            reply = self._post(body, seconds, waiting)
        except RpcError as error:
            return [error] * len(calls)
        answers = bodies.match(reply, len(calls))
        for answer in answers:
            if isinstance(answer, RpcNodeError):
                answer.host = self.host
        refusal = bodies.too_large(answers)
        return answers if refusal is None else [refusal] * len(calls)

    def _post(self, body: bytes, seconds: float, waiting: Waiting | None) -> Any:
        try:
            with waiting_with(waiting):
                posted = self._provider.post(body, (min(CONNECT_SECONDS, seconds), seconds))
            if posted.status >= 300:
                return self._http_error(posted)
            return json_of_others.parse(posted.body)
        except requests.RequestException as error:
            # The exception's own text holds the URL.
            raise RpcTransportError(f"{self.host}: {type(error).__name__}") from None
        except urllib3.exceptions.HTTPError as error:
            raise RpcTransportError(f"{self.host}: {type(error).__name__}") from None
        except ValueError as error:
            raise RpcTransportError(f"{self.host}: the answer is not JSON ({type(error).__name__})") from None

    def _http_error(self, posted: "Posted") -> Any:
        """Return the JSON-RPC body of an HTTP error, where it has one; else raise what the status means."""
        text = f"{self.host}: HTTP {posted.status}"
        if posted.status in TURNED_AWAY:
            raise RpcRejectedError(text, posted.status, retry_after(posted.retry_after, time.time()))
        if posted.status == 413:
            raise RpcTooLargeError(text)
        try:
            body = json_of_others.parse(posted.body)
        except ValueError:
            body = None
        # A gateway's 5xx says nothing about what the node did, whatever its body looks like.
        if posted.status < 500 and isinstance(body, dict) and "error" in body:
            return body
        raise RpcTransportError(text)

    def load(self) -> None:
        """Load what the first request needs, so that it is not taken for the endpoint's latency."""
        _ = self._provider

    @property
    def _provider(self) -> "Provider":
        if self._made is None:
            # Loads web3, which takes half a second that most processes can spare.
            from signer.rpc.provider import Provider

            self._made = Provider(
                self._url,
                request_kwargs={"allow_redirects": False},
                session=ThreadSessions(),
                exception_retry_configuration=None,
            )
        return self._made


def retry_after(header: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, within reason; now: seconds since 1970."""
    seconds = asked_seconds(header, datetime.fromtimestamp(now, UTC))
    return None if seconds is None else min(max(seconds, 1.0), RETRY_AFTER_SECONDS_MAX)
