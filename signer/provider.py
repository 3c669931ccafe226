"""web3's provider, with the bytes of a request sent exactly once."""

from web3 import HTTPProvider


class Provider(HTTPProvider):
    """A node at a URL, over the session that it is given."""

    def post(self, body: bytes) -> bytes:
        """Return the body of the answer."""
        assert self.endpoint_uri is not None
        return self._request_session_manager.make_post_request(
            self.endpoint_uri, body, **self.get_request_kwargs()
        )
