"""web3's provider, with the bytes of a request sent exactly once, and a bound on how long an answer may take."""

import time
from dataclasses import dataclass

import requests
from urllib3.exceptions import ReadTimeoutError
from web3 import HTTPProvider

# Larger than any answer of a hundred receipts or a block of logs.
BODY_BYTES_MAX = 128 * 1024 * 1024
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Posted:
    """An HTTP answer, read to its end."""

    status: int
    retry_after: str | None
    body: bytes


class Provider(HTTPProvider):
    """A node at a URL, over the session that it is given."""

    def post(self, body: bytes, timeout: tuple[float, float]) -> Posted:
        """Send the body; return the answer, whatever its status. timeout: seconds to connect, seconds to answer.

        An answer that drips in is given up as well: the socket's own timeout begins anew with every byte.
        """
        assert self.endpoint_uri is not None
        deadline = time.monotonic() + timeout[1]
        with self._request_session_manager.get_response_from_post_request(
            self.endpoint_uri, data=body, timeout=timeout, stream=True, **self.get_request_kwargs()
        ) as response:
            content = _read(response, deadline)
            return Posted(response.status_code, response.headers.get("Retry-After"), content)


def _read(response: requests.Response, deadline: float) -> bytes:
    parts, size = [], 0
    while part := response.raw.read1(CHUNK_BYTES, decode_content=True):
        parts.append(part)
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise requests.exceptions.ContentDecodingError("the answer is too large")
        if time.monotonic() > deadline:
            raise ReadTimeoutError(response.raw._pool, None, "the answer drips in")  # type: ignore[arg-type]
    return b"".join(parts)
