"""Listening to a node that announces its heads over WebSocket. Loaded only where there is one.

One connection per source and process, in a thread of its own, kept between the slices of a watch.
"""

import json
import logging
import threading
import time
from urllib.parse import urlsplit

import structlog
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from signer import json_of_others
from signer.errors import ChainMismatchError, RpcTransportError
from signer.rpc.answers import quantity

log = structlog.get_logger()

# At DEBUG it writes the request's path, and with it the provider's key.
logging.getLogger("websockets.client").setLevel(logging.INFO)

SUBSCRIPTION = ("eth_subscribe", ["newHeads"])
OPEN_SECONDS = 5.0
LOOK_SECONDS = 1.0
# A source that has announced nothing for so long is connected anew.
SILENT_SECONDS = 60.0
RETRY_SECONDS = 10.0
# Between two slices of a watch; longer means that nobody watches here any more.
UNUSED_SECONDS = 20.0
MESSAGE_BYTES_MAX = 1024 * 1024


class Source:
    """A thread that listens to one node's announcements as long as somebody wants them."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).hostname or "?"
        self.count = 0
        self.is_listening = False
        self._url = url
        self._condition = threading.Condition()
        self._ended = threading.Event()
        self._used_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="heads", daemon=True)
        self._thread.start()

    def use(self) -> bool:
        """Keep listening; return False when it has ended."""
        with self._condition:
            self._used_at = time.monotonic()
            return not self._ended.is_set()

    def stop(self) -> None:
        """End the thread, and wait for its end."""
        self._ended.set()
        self._thread.join()

    def wait(self, heard: int, seconds: float) -> int:
        """Return the number of announcements so far, once it is not `heard` any more or the time is up."""
        with self._condition:
            self._used_at = time.monotonic()
            self._condition.wait_for(lambda: self.count != heard, seconds)
            return self.count

    def _run(self) -> None:
        while self._is_wanted():
            try:
                self._listen()
            except (WebSocketException, OSError, EOFError, ValueError) as error:
                # The exception's own text may hold the URL.
                log.warning("heads_not_announced", host=self.host, error=type(error).__name__)
                self._ended.wait(RETRY_SECONDS)

    def _is_wanted(self) -> bool:
        with self._condition:
            if time.monotonic() - self._used_at > UNUSED_SECONDS:
                self._ended.set()
            return not self._ended.is_set()

    def _listen(self) -> None:
        with _connect(self._url) as socket:
            socket.send(_request(*SUBSCRIPTION))
            try:
                self._hear(socket)
            finally:
                self.is_listening = False

    def _hear(self, socket: ClientConnection) -> None:
        heard_at = time.monotonic()
        while self._is_wanted() and time.monotonic() - heard_at < SILENT_SECONDS:
            try:
                message = json_of_others.parse(socket.recv(timeout=LOOK_SECONDS))
            except TimeoutError:
                continue
            if not isinstance(message, dict) or "error" in message:
                raise ValueError("it does not announce heads")
            heard_at, self.is_listening = time.monotonic(), True
            if message.get("method") == "eth_subscription":
                self._announce()

    def _announce(self) -> None:
        with self._condition:
            self.count += 1
            self._condition.notify_all()


_sources: dict[str, Source] = {}
_lock = threading.Lock()


def source(url: str) -> Source:
    """Return this process's listener at the URL."""
    with _lock:
        found = _sources.get(url)
        if found is None or not found.use():
            found = _sources[url] = Source(url)
        return found


def check_source(url: str, chain_id: int) -> None:
    """Raise when nobody answers at this WebSocket URL, or one who serves another chain."""
    host = urlsplit(url).hostname
    try:
        with _connect(url) as socket:
            socket.send(_request("eth_chainId", []))
            answer = json_of_others.parse(socket.recv(timeout=OPEN_SECONDS))
    except (WebSocketException, OSError, EOFError, ValueError) as error:
        raise RpcTransportError(f"{host}: {type(error).__name__}") from None
    found = quantity(answer.get("result") if isinstance(answer, dict) else None)
    if found != chain_id:
        raise ChainMismatchError(f"{host} serves chain {found}, not {chain_id}")


def _connect(url: str) -> ClientConnection:
    return connect(
        url,
        open_timeout=OPEN_SECONDS,
        close_timeout=1,
        ping_interval=10,
        ping_timeout=10,
        max_size=MESSAGE_BYTES_MAX,
    )


def _request(method: str, params: list[str]) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
