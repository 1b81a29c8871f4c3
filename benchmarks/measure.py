"""Interleaved timing: every contender runs in every round, and ratios are taken round by round.

A machine's speed drifts and neighbours are noisy. Two numbers taken a minute apart say little;
the median of many quotients taken side by side says a lot.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Goal", "Times", "interleave"]


@dataclass(frozen=True)
class Goal:
    """A bound on a figure, and whether a run met it.

    Attributes:
        text: What is bounded, with its unit.
        value: What was measured.
        bound: The limit.
        at_least: Whether the limit is a floor.
    """

    text: str
    value: float
    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        met = self.value >= self.bound if self.at_least else self.value <= self.bound
        sign = "≥" if self.at_least else "≤"
        return (
            f"{'met   ' if met else 'MISSED'} {self.text}: {self.value:.3g} ({sign} {self.bound:g})"
        )


@dataclass(frozen=True)
class Times:
    """Seconds per call: one figure per contender and round."""

    rounds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """A contender's median, in seconds."""
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, other: str) -> float:
        """How long `name` takes as a multiple of `other`: the median over the rounds."""
        pairs = zip(self.rounds[name], self.rounds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def table(self, base: str, *, unit: str = "µs", scale: float = 1e6) -> str:
        """All contenders, the fastest first, with their ratio to `base`."""
        width = max(map(len, self.rounds))
        lines = [
            f"  {name:<{width}}  {self.median(name) * scale:10.2f} {unit}  "
            f"{self.ratio(name, base):7.3f} ×"
            for name in sorted(self.rounds, key=self.median)
        ]
        return "\n".join(lines)


def interleave(contenders: Mapping[str, Callable[[], object]], *, calls: int, rounds: int) -> Times:
    """Time each contender `calls` times in each of `rounds` rounds, after one round of warm-up."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        # Another order each round: nobody always runs after the one that heats the cache.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            call = contenders[name]
            gc.collect()
            gc.disable()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            spent = time.perf_counter() - start
            gc.enable()
            if number:
                found[name].append(spent / calls)
    return Times(found)
