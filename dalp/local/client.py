"""The REST API as an integrator's program would use it."""

import time
from typing import Any

import requests

FINAL_STATES = {"SUCCEEDED", "COMPENSATED", "FAILED", "CANCELLED"}
# Not final, but nothing moves until a person decides.
STUCK_STATES = {"DEAD_LETTER", "PAUSED"}


class ApiError(RuntimeError):
    """The API refused, with its own words."""


class Api:
    """A session with a bearer token. Reads are repeated when the connection fails; starts carry an Idempotency-Key."""

    def __init__(self, url: str, token: str) -> None:
        self.url = f"{url}/api/v1"
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {token}"
        self._settled: dict[str, dict[str, Any]] = {}

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        for attempt in range(5):
            try:
                answer = self.session.request(method, f"{self.url}{path}", timeout=20, **options)
                break
            except requests.ConnectionError:
                if attempt == 4:
                    raise
                time.sleep(0.2 * 2**attempt)
        body: dict[str, Any] = answer.json()
        if not answer.ok:
            raise ApiError(
                f"{method} {path}: {body.get('code')}: {body.get('detail')} {body.get('errors') or ''}"
            )
        return body

    def step_names(self, workflow: str) -> list[str]:
        """Return the names of a workflow's steps in their order."""
        definitions = self.request("GET", "/workflows")["items"]
        return [step["name"] for item in definitions if item["name"] == workflow for step in item["steps"]]

    def start(self, workflow: str, data: dict[str, Any], key: str) -> dict[str, Any]:
        """Start a run, or get the one that this key started before."""
        headers = {"Idempotency-Key": key}
        return self.request("POST", f"/workflows/{workflow}/runs", json={"input": data}, headers=headers)

    def run(self, run_id: str) -> dict[str, Any]:
        return self.request("GET", f"/runs/{run_id}")

    def transaction(self, transaction_id: str) -> dict[str, Any]:
        """Return a transaction; a settled one is asked for once."""
        if found := self._settled.get(transaction_id):
            return found
        transaction = self.request("GET", f"/transactions/{transaction_id}")
        if transaction["settled_at"]:
            self._settled[transaction_id] = transaction
        return transaction

    def transactions_of(self, step: dict[str, Any]) -> list[dict[str, Any]]:
        return [self.transaction(transaction_id) for transaction_id in step["transaction_ids"]]
