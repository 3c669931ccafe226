"""A contest: several ways of doing the same work, measured in turn, round after round, and compared by medians."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One measurement: `count` things done in `seconds`, and what else was noticed."""

    count: int
    seconds: float
    details: dict[str, float] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    def as_json(self) -> dict[str, Any]:
        found = {"count": self.count, "seconds": self.seconds, "per_second": self.per_second, **self.details}
        return {name: round(value, 4) for name, value in found.items()}


@dataclass
class Peer:
    """One way of doing the work; `measure` does it once."""

    name: str
    measure: Callable[[], Sample]
    samples: list[Sample] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(sample.per_second for sample in self.samples)

    @property
    def range(self) -> tuple[float, float]:
        rates = [sample.per_second for sample in self.samples]
        return min(rates), max(rates)

    def median_of(self, detail: str) -> float:
        return median(sample.details[detail] for sample in self.samples)


@dataclass
class Contest:
    """The peers, ours first, and how they are measured, in words. `settle` is called before each measurement."""

    title: str
    unit: str
    method: str
    settle: Callable[[], object]
    peers: list[Peer]

    @property
    def ours(self) -> Peer:
        return self.peers[0]

    def run(self, rounds: int) -> Iterator[str]:
        """Measure every peer once per round; yield a line about each after its measurement.

        Interleaved, and each round begins with another: a machine that gets slower meanwhile is so to all alike.
        """
        for number in range(rounds):
            turn = number % len(self.peers)
            for peer in self.peers[turn:] + self.peers[:turn]:
                self.settle()
                peer.samples.append(peer.measure())
                rate = f"{peer.samples[-1].per_second:,.0f} {self.unit}/s"
                yield f"round {number + 1}/{rounds}  {peer.name:24} {rate}"

    def ratio(self, peer: Peer) -> float:
        """Return how many times as fast as this peer we are."""
        return self.ours.median / peer.median

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "unit": self.unit,
            "method": self.method,
            "peers": [self._peer_as_json(peer) for peer in self.peers],
        }

    def _peer_as_json(self, peer: Peer) -> dict[str, Any]:
        details = {name: round(peer.median_of(name), 4) for name in peer.samples[0].details}
        return {
            "name": peer.name,
            "median_per_second": round(peer.median, 2),
            "ours_to_this": round(self.ratio(peer), 3),
            "median_details": details,
            "rounds": [sample.as_json() for sample in peer.samples],
        }
