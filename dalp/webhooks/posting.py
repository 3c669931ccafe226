"""One POST to a receiver: to an address that was checked, in ten seconds altogether, and no further.

With the standard library's client: it follows no redirect and knows no proxy, and takes the connection that it is
given. Never raises; what goes wrong is part of the answer.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

from dalp.webhooks.addresses import AddressRefusedError, Target, parse, resolve
from dalp.webhooks.judging import Answer, retry_after_seconds

TIMEOUT_SECONDS = 10.0
CONNECT_SECONDS = 4.0  # to one address, where the host has several


def post(url: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """Send the body to the URL and return what came back. The host is resolved and checked here, each time."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        target = parse(url)
        addresses = resolve(target)
    except AddressRefusedError as error:
        return Answer(error=f"its address is refused: {error}")
    connection = _Connection(target, addresses, deadline)
    try:
        return connection.ask(headers, body)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's server makes the client stumble over
        return Answer(error=_words(error, timed_out=connection.is_over()))
    finally:
        connection.close()


class _Connection:
    """A connection that ends at the deadline, however slowly the other side dribbles its answer."""

    def __init__(self, target: Target, addresses: list[str], deadline: float) -> None:
        self.target, self.addresses, self.deadline = target, addresses, deadline
        self.client = http.client.HTTPConnection(target.host, target.port)
        self.guard: threading.Timer | None = None

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def is_over(self) -> bool:
        return self.left() <= 0

    def ask(self, headers: Mapping[str, str], body: bytes) -> Answer:
        self.client.sock = self._connect()
        # The socket's own timeout begins anew with each byte.
        self.guard = threading.Timer(max(self.left(), 0), self._cut)
        self.guard.daemon = True
        self.guard.start()
        if isinstance(self.client.sock, ssl.SSLSocket):
            self.client.sock.do_handshake()
        self.client.request("POST", self.target.path, body, {"Host": self.target.netloc, **headers})
        answer = self.client.getresponse()
        if self.is_over():  # cut off in its headers, which to the client is their end
            raise TimeoutError
        wait = retry_after_seconds(answer.getheader("Retry-After"), datetime.now(UTC))
        return Answer(answer.status, retry_after_seconds=wait)

    def _connect(self) -> socket.socket:
        """Connect to the first of the addresses that takes it; the last one's failure is raised."""
        for place, address in enumerate(self.addresses, start=1):
            if self.is_over():
                raise TimeoutError
            try:
                plain = socket.create_connection(
                    (address, self.target.port), timeout=min(self.left(), CONNECT_SECONDS)
                )
            except OSError:
                if place == len(self.addresses):
                    raise
                continue
            plain.settimeout(max(self.left(), 0.001))
            if self.target.scheme == "http":
                return plain
            # Of the host by its name: that the address was looked up is no proof of who is there.
            return _tls().wrap_socket(plain, server_hostname=self.target.host, do_handshake_on_connect=False)
        raise OSError("no address")

    def _cut(self) -> None:
        if self.client.sock is not None:
            try:
                # Not the TLS socket's own method, which also takes apart what the other thread reads with.
                socket.socket.shutdown(self.client.sock, socket.SHUT_RDWR)
            except OSError:
                return  # closed already

    def close(self) -> None:
        if self.guard is not None:
            self.guard.cancel()
        self.client.close()


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Return the machine's trust; loading it takes longer than a request."""
    return ssl.create_default_context()


def _words(error: Exception, *, timed_out: bool) -> str:
    """Return what went wrong without what the other side wrote, and without the URL."""
    if timed_out:
        return f"it did not answer within {TIMEOUT_SECONDS:.0f} seconds"
    if isinstance(error, TimeoutError):
        return "it cannot be reached: no connection in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection: {error.reason or type(error).__name__}"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "it closed the connection without an answer"
    if isinstance(error, http.client.HTTPException):
        return f"it did not answer in HTTP: {type(error).__name__}"
    return f"it cannot be reached: {type(error).__name__}"
