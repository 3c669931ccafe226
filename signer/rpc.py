"""The only door to a node: JSON-RPC over HTTP, single or in batches, raw results.

An error is raised, or returned in its place in a batch; it is never turned into an answer. Nothing is sent twice
from here: web3's own re-send is off, because a second eth_sendRawTransaction would turn "accepted" into an error.
"""

import json
import logging
import threading
from collections.abc import Sequence
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import requests
import urllib3
from django.conf import settings
from requests.adapters import HTTPAdapter

from signer.errors import CallRevertedError, RpcError, RpcNodeError, RpcRejectedError, RpcTransportError
from signer.rpc_errors import innermost_message

Call: TypeAlias = tuple[str, Sequence[Any]]

# 100 is the sweet spot of anvil and within the limit of hosted providers.
BATCH_SIZE = 100
CONNECT_SECONDS = 2
REVERTED_CODE = 3  # geth, anvil, erigon: "execution reverted", with the revert's data

# At DEBUG these write the whole URL, and with it the provider's key.
for _name in ("web3.providers.HTTPProvider", "web3.manager.RequestManager", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.INFO)

_sessions = threading.local()


def _session() -> requests.Session:
    """Return this thread's session: connections are kept, and not shared between threads."""
    session: requests.Session | None = getattr(_sessions, "session", None)
    if session is None:
        session = requests.Session()
        adapter = HTTPAdapter(max_retries=urllib3.Retry(0, read=False))
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        _sessions.session = session
    return session


class Rpc:
    """A node's JSON-RPC interface. Holds the URL; shows only the host."""

    def __init__(self, url: str, timeout: float | None = None) -> None:
        from signer.provider import (
            Provider,  # loads web3, which takes half a second that most processes can spare
        )

        self.host = urlsplit(url).hostname or "?"
        seconds = settings.SIGNER["rpc_timeout_seconds"] if timeout is None else timeout
        self._provider = Provider(
            url,
            request_kwargs={"timeout": (min(CONNECT_SECONDS, seconds), seconds), "allow_redirects": False},
            session=_session(),
            exception_retry_configuration=None,
        )

    def __repr__(self) -> str:
        return f"Rpc({self.host})"

    def call(self, method: str, *params: Any) -> Any:
        """Return the result of one call. Raises RpcError."""
        [answer] = self.batch([(method, params)])
        if isinstance(answer, RpcError):
            raise answer
        return answer

    def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return a result or an RpcError for each call, in order, at most `BATCH_SIZE` in one request.

        Never raises RpcError: a request that fails as a whole fails each of its calls.
        """
        answers: list[Any] = []
        for start in range(0, len(calls), BATCH_SIZE):
            answers += self._send(calls[start : start + BATCH_SIZE])
        return answers

    def agreed(self, calls: Sequence[Call]) -> list[Any]:
        """Return what the chain's nodes agree on: with one node, what it says."""
        return self.batch(calls)

    def batch_or_raise(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of all calls, or raise the first RpcError."""
        answers = self.batch(calls)
        for answer in answers:
            if isinstance(answer, RpcError):
                raise answer
        return answers

    def _send(self, calls: Sequence[Call]) -> list[Any]:
        bodies = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
            for number, (method, params) in enumerate(calls)
        ]
        try:
            reply = self._post(bodies if len(bodies) > 1 else bodies[0])
        except RpcError as error:
            return [error] * len(calls)
        answers = _answers(reply, len(calls))
        for answer in answers:
            if isinstance(answer, RpcNodeError):
                answer.host = self.host
        return answers

    def _post(self, body: Any) -> Any:
        try:
            return json.loads(self._provider.post(json.dumps(body, separators=(",", ":")).encode()))
        except requests.HTTPError as error:
            return _http_error(error.response)
        except requests.RequestException as error:
            # The exception's own text holds the URL.
            raise RpcTransportError(f"{self.host}: {type(error).__name__}") from None
        except (ValueError, urllib3.exceptions.HTTPError) as error:
            raise RpcTransportError(f"{self.host}: the answer is not JSON ({type(error).__name__})") from None


def _http_error(response: requests.Response) -> Any:
    """Return the JSON-RPC body of an HTTP error, where it has one; else raise what the status means."""
    host = urlsplit(response.url).hostname
    if response.status_code in {401, 403, 429}:
        raise RpcRejectedError(f"{host}: HTTP {response.status_code}")
    try:
        body = response.json()
    except ValueError:
        body = None
    # A gateway's 5xx says nothing about what the node did, whatever its body looks like.
    if response.status_code < 500 and isinstance(body, dict) and "error" in body:
        return body
    raise RpcTransportError(f"{host}: HTTP {response.status_code}")


def _answers(reply: Any, count: int) -> list[Any]:
    """Match replies to calls by id: nodes may answer a batch in any order, or in part."""
    missing = RpcTransportError("the node left this call out of its answer")
    if isinstance(reply, dict) and count > 1:  # one error for the whole batch
        return [_result(reply) if "error" in reply else missing] * count
    answers: list[Any] = [missing] * count
    for item in [reply] if isinstance(reply, dict) else reply if isinstance(reply, list) else []:
        number = item.get("id") if isinstance(item, dict) else None
        if count == 1 and number is None and isinstance(item, dict) and "error" in item:
            number = 0  # an error before the request was read carries no id
        if isinstance(number, int) and 0 <= number < count:
            answers[number] = _result(item)
    return answers


def _result(item: dict[str, Any]) -> Any:
    error = item.get("error")
    if error is None:
        if "result" in item:
            return item["result"]
        return RpcTransportError("an answer without a result")
    return node_error(error)


def node_error(error: Any) -> RpcNodeError:
    """Return the exception for a JSON-RPC error object; a revert becomes CallRevertedError with its reason."""
    message = innermost_message(error) or "error without a message"
    code = error.get("code") if isinstance(error, dict) else None
    data = error.get("data") if isinstance(error, dict) else None
    if isinstance(data, dict):  # proxies nest the node's answer
        data = data.get("data", data)
    if code == REVERTED_CODE or "execution reverted" in message.lower():
        return CallRevertedError(_revert_reason(message, data), data=data)
    return RpcNodeError(message, rpc_code=code, data=data)


def _revert_reason(message: str, data: Any) -> str:
    from signer.abi import decode_revert

    if isinstance(data, str) and data.startswith("0x") and len(data) > 2:
        try:
            return decode_revert(data)
        except ValueError:
            pass
    text = message.strip()
    for prefix in (
        "execution reverted:",
        "execution reverted",
        "VM Exception while processing transaction: revert",
    ):
        if text.lower().startswith(prefix.lower()):
            text = text[len(prefix) :].strip(" :")
            break
    return text or "reverted without a reason"


def quantity(value: Any) -> int:
    """Return the integer of a hex quantity; raises RpcTransportError where the node sent something else."""
    try:
        return int(value, 16)
    except (TypeError, ValueError):
        raise RpcTransportError("the node sent something that is not a quantity") from None
