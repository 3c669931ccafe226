"""A client of the API with a token, and a workflow for it to start."""

import json
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

from django.http import HttpResponse
from django.test import Client
from pydantic import BaseModel, ConfigDict, Field

from dalp.models import ApiToken
from tests.watching import WATCH
from workflows import ApprovalRequest, Approved, Operation, WaitForCompletion, Workflow, step

API = "/api/v1"


class GreetInput(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=50)
    times: int = Field(1, ge=1, strict=True)


class Greeting(BaseModel):
    text: str


class Greet(Workflow[GreetInput, Greeting]):
    """Says hello."""

    class Meta:
        name, version, queue = "test.greet", 3, "test"

    @step()
    def greet(self, input: GreetInput) -> Greeting:
        return Greeting(text=f"hello {input.name}" * input.times)


class Caller:
    """A client of the API with one token."""

    def __init__(self, role: str, groups: Sequence[str] = (), tenant: str = "default") -> None:
        self.token, text = ApiToken.issue(f"{role} of the tests", role, groups, tenant)
        self.text = text
        WATCH.learn("a token of the API", text)
        self.client = Client(headers={"Authorization": f"Bearer {text}"}, raise_request_exception=False)

    def get(self, path: str, **query: Any) -> HttpResponse:
        return self.client.get(API + path, query)

    def post(self, path: str, body: Any, key: str | None = "", **headers: str) -> HttpResponse:
        """POST `body`; key "" sends a fresh Idempotency-Key, None sends none."""
        if key is not None:
            headers["Idempotency-Key"] = key or str(uuid.uuid4())
        data = body if isinstance(body, bytes) else json.dumps(body)
        return self.client.post(API + path, data, content_type="application/json", headers=headers)

    def start(self, name: str = "Ada", **arguments: Any) -> HttpResponse:
        return self.post("/workflows/test.greet/runs", {"input": {"name": name}}, **arguments)


class Parked(Workflow[GreetInput, Greeting]):
    """Takes nothing new for a name whose run waits for a person."""

    class Meta:
        name, version, key, on_dead_letter = "api.parked", 1, "greeting:{input.name}", "park"

    @step
    def greet(self, input: GreetInput) -> Greeting:
        return Greeting(text="hello")


class Asking(Workflow[GreetInput, str]):
    """Asks two of the treasury, then another system."""

    class Meta:
        name, version = "api.asking", 1

    tokens: ClassVar[list[str]] = []

    @step
    def ask(self, input: GreetInput) -> ApprovalRequest:
        return ApprovalRequest(group="treasury", needed=2, show={"name": input.name})

    @step
    def wait(self, ask: Approved, operation: Operation) -> WaitForCompletion[str]:
        self.tokens.append(operation.token)
        return WaitForCompletion[str]()
