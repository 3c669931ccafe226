"""What a program is asked on its command line, and how it answers: with one line of JSON, its last."""

import argparse
import json
from dataclasses import dataclass
from typing import Self

# Within which every process of a program must be up.
START_SECONDS = 60
# What sends runs without waiting for them sends so many at once: the server commits them together.
SENDERS = 16


@dataclass(frozen=True)
class Task:
    """So many runs of so many steps; and before, unmeasured, some to warm up."""

    url: str
    steps: int
    runs: int
    warm_up: int
    processes: int

    @classmethod
    def from_command_line(cls) -> Self:
        parser = argparse.ArgumentParser()
        parser.add_argument("url", help="of what keeps the runs")
        for name in ("steps", "runs", "warm-up", "processes"):
            parser.add_argument(f"--{name}", type=int, required=True)
        return cls(**vars(parser.parse_args()))


def answer(seconds: float, submitting_seconds: float) -> None:
    print(json.dumps({"seconds": seconds, "submitting_seconds": submitting_seconds}), flush=True)
