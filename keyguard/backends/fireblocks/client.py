"""The vendor's SDK, one HTTP attempt at a time.

The SDK builds and signs each request; what follows differs from its defaults, and tests hold it to that:
the key is parsed once (the SDK would at every call, which takes 50 ms); no attempt is repeated under the JWT of
another (the service would answer "nonce already used", and hide the cause); no redirect is followed; answers are read
here, for the SDK takes one that it doesn't understand for something else, with a warning.
"""

import hashlib
from typing import Any
from urllib.parse import urlsplit

import urllib3
from fireblocks import models as _models
from fireblocks import rest
from fireblocks.api.transactions_api import TransactionsApi
from fireblocks.api.vaults_api import VaultsApi
from fireblocks.bearer_token_provider import BearerTokenProvider
from fireblocks.client_configuration import ClientConfiguration
from fireblocks.threaded_api_client import ThreadedApiClient

from keyguard.backends.fireblocks.configured import Config
from keyguard.backends.pacing import Answer, Pace, ask
from keyguard.errors import CustodyUnreachableError

NAME = "Fireblocks"
IDEMPOTENCY_KEY_LENGTH = 40

models: Any = _models


class _Attempts(ThreadedApiClient):
    """Sends one request, in the caller's thread, and returns the answer as it is."""

    def __init__(self, config: Config) -> None:
        # What the SDK keeps of this is the token provider, which is replaced.
        super().__init__(
            ClientConfiguration(api_key=config.api_key, secret_key="-", base_path=config.base_url)  # noqa: S106
        )
        self.token_provider = BearerTokenProvider(config.api_key, config.secret_key)
        self.configuration.retries = urllib3.Retry(0, redirect=False, status=False)
        self.rest_client = rest.RESTClientObject(self.configuration)

    def call_api(  # type: ignore[override]
        self,
        method: str,
        url: str,
        header_params: dict[str, Any] | None = None,
        body: Any = None,
        post_params: Any = None,
        _request_timeout: float | None = None,
        _response_types_map: Any = None,
        _operation_id: str | None = None,
    ) -> Answer:
        headers = dict(header_params or {})
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self._update_headers(headers, method, path, body)  # type: ignore[no-untyped-call]
        response = self.rest_client.request(  # type: ignore[no-untyped-call]
            method, url, headers=headers, body=body, post_params=None, _request_timeout=_request_timeout
        )
        data = response.read()
        return Answer(
            response.status,
            data or b"",
            {str(name).lower(): str(value) for name, value in response.getheaders().items()},
        )


class Client:
    """The few calls that are needed, each within its time."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._api = _Attempts(config)
        self._transactions: Any = TransactionsApi(self._api)
        self._vaults: Any = VaultsApi(self._api)
        self._pace = Pace(config.requests_per_second)

    def close(self) -> None:
        """Close the connections."""
        self._api.rest_client.pool_manager.clear()

    def create_transaction(self, request: Any, external_id: str, deadline: float) -> Answer:
        """Ask for a transaction. At most one for each external id, which the service keeps for ever."""
        return self._ask(
            lambda seconds: self._transactions.create_transaction(
                transaction_request=request,
                idempotency_key=idempotency_key(external_id),
                _request_timeout=seconds,
            ),
            deadline,
            may_repeat=False,
        )

    def find_transaction(self, external_id: str, deadline: float) -> Answer:
        """Look a transaction up by our id."""
        return self._ask(
            lambda seconds: self._transactions.get_transaction_by_external_id(
                external_id, _request_timeout=seconds
            ),
            deadline,
        )

    def cancel_transaction(self, transaction_id: str, deadline: float) -> Answer:
        """Ask for a transaction not to be sent. Does no harm twice."""
        return self._ask(
            lambda seconds: self._transactions.cancel_transaction(transaction_id, _request_timeout=seconds),
            deadline,
        )

    def transactions_of(self, vault: str, asset: str, after_ms: int, deadline: float) -> Answer:
        """List the newest transactions of a vault account's asset."""
        return self._ask(
            lambda seconds: self._transactions.get_transactions(
                source_type="VAULT_ACCOUNT",
                source_id=vault,
                assets=asset,
                after=str(after_ms),
                order_by="createdAt",
                sort="DESC",
                limit=500,
                _request_timeout=seconds,
            ),
            deadline,
        )

    def public_key(self, vault: str, asset: str, deadline: float) -> Answer:
        """Return the public key of a vault account's asset."""
        return self._ask(
            lambda seconds: self._vaults.get_public_key_info_for_address(
                vault, asset, 0, 0, compressed=False, _request_timeout=seconds
            ),
            deadline,
        )

    def addresses(self, vault: str, asset: str, deadline: float) -> Answer:
        """Return the addresses of a vault account's asset."""
        return self._ask(
            lambda seconds: self._vaults.get_vault_account_asset_addresses_paginated(
                vault, asset, _request_timeout=seconds
            ),
            deadline,
        )

    def _ask(self, attempt: Any, deadline: float, *, may_repeat: bool = True) -> Answer:
        try:
            return ask(
                lambda seconds: attempt(float(seconds)),
                self._pace,
                deadline,
                may_repeat=may_repeat,
                name=NAME,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise CustodyUnreachableError(f"{NAME} gave no answer ({type(error).__name__})") from None


def idempotency_key(external_id: str) -> str:
    """Return the external id, or what stands for it where it is longer than the service takes."""
    if len(external_id) <= IDEMPOTENCY_KEY_LENGTH:
        return external_id
    return hashlib.sha256(external_id.encode()).hexdigest()[:IDEMPOTENCY_KEY_LENGTH]
