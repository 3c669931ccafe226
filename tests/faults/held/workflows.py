"""The workflow that a test holds in the middle of a step."""

import time
from pathlib import Path

from pydantic import BaseModel

from workflows import Operation, Workflow, step


class HeldInput(BaseModel):
    directory: str


class Held(Workflow[HeldInput, str]):
    """A call to the outside that takes until the test says so, and one more step."""

    class Meta:
        name, version, queue = "sample.held", 1, "workflows"

    @step
    def call(self, input: HeldInput, operation: Operation) -> str:
        directory = Path(input.directory)
        with (directory / "calls").open("a") as file:
            file.write(operation.key + "\n")
        deadline = time.monotonic() + 60
        while not (directory / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return operation.key

    @step
    def end(self, call: str) -> str:
        return call
