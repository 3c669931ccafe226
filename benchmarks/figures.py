"""Figures that are no rate beside a peer's: latencies, durations, costs. Rows with several figures each; medians over rounds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

# What one round finds: for each row its figures, by their names, which end with their unit.
Rows = dict[str, dict[str, float]]


@dataclass
class Figures:
    """What is measured, and how, in words. `settle` is called before each round.

    rounds_max: for what takes long. details: kept in the JSON beside the rows. complaints: what must not be.
    """

    title: str
    method: str
    settle: Callable[[], object]
    measure: Callable[[], Rows]
    rounds_max: int = 1000
    rounds: list[Rows] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def run(self, rounds: int) -> Iterator[str]:
        """Measure round after round; yield what each has found, in a line per row."""
        rounds = min(rounds, self.rounds_max)
        for number in range(rounds):
            self.settle()
            self.rounds.append(self.measure())
            for name, figures in self.rounds[-1].items():
                found = ", ".join(f"{short(value)} {spoken(figure)}" for figure, value in figures.items())
                yield f"round {number + 1}/{rounds}  {name:32} {found}"

    @property
    def medians(self) -> Rows:
        return {
            name: {figure: median(found[name][figure] for found in self.rounds) for figure in figures}
            for name, figures in self.rounds[0].items()
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "method": self.method,
            "medians": _rounded(self.medians),
            "rounds": [_rounded(rows) for rows in self.rounds],
            **self.details,
            "complaints": self.complaints,
        }


def spoken(figure: str) -> str:
    return figure.replace("_per_second", "/s").replace("_", " ")


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2f}"


def _rounded(rows: Rows) -> Rows:
    return {
        name: {figure: round(value, 4) for figure, value in figures.items()} for name, figures in rows.items()
    }
