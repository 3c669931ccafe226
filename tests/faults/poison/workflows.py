"""Steps that end their process, each in its own way, or never end."""

import ctypes
import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel

from workflows import Operation, Sleep, Workflow, step


class PoisonInput(BaseModel):
    directory: str
    way: str = (
        ""  # "segfault" or "killed": at every attempt; "blocks": at the first; "memory": asks for too much
    )


def note(input: PoisonInput, line: str) -> None:
    with (Path(input.directory) / "lines").open("a") as file:
        file.write(line + "\n")


class Poison(Workflow[PoisonInput, int]):
    """Its first step does as the input says; the second one counts who is beside it."""

    class Meta:
        name, version, queue = "poison.poison", 1, "heavy"

    @step(timeout=0.5)
    def work(self, input: PoisonInput, operation: Operation) -> int:
        note(input, f"begin {operation.run_id} {operation.attempt}")
        match input.way:
            case "segfault":
                ctypes.string_at(0)
            case "killed":  # as the kernel does to whom has taken too much memory
                os.kill(os.getpid(), signal.SIGKILL)
            case "memory":
                return len(bytearray(1 << 60))
            case "blocks" if operation.attempt == 1:
                _block()
        time.sleep(0.05)  # those that were admitted beside it have begun by now
        note(input, f"end {operation.run_id} {operation.attempt}")
        return operation.attempt

    @step
    def end(self, work: int) -> int:
        return work


def _block() -> None:
    """Stay in a call of the operating system, where no exception of Python comes through."""
    reader, _ = os.pipe()
    os.read(reader, 1)


class Timer(Workflow[PoisonInput, str]):
    class Meta:
        name, version, queue = "poison.timer", 1, "workflows"

    @step
    def sleep(self) -> Sleep:
        return Sleep(seconds=0.2)

    @step
    def end(self, input: PoisonInput, operation: Operation) -> str:
        note(input, f"fired {operation.run_id}")
        return operation.key
