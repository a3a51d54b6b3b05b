"""How fast and how reliably models answered lately: decaying means, mergeable over replicas.

Weights halve each minute, so a model that nobody asked for some minutes is unknown again and gets another chance.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_HALF_LIFE = 60.0
_LEAST_WEIGHT = 0.05
"""Below it (one attempt some four minutes ago) nothing is known."""


@dataclass(frozen=True, slots=True)
class Performance:
    """What is known of one model. Seconds; None: nothing."""

    first_token: float | None = None
    whole: float | None = None
    error_rate: float = 0.0
    attempts: float = 0.0
    """Weight of the attempts behind it: those of the last minute, about."""

    def wait(self, streamed: bool) -> float | None:
        """The wait for the first token of a stream, or for a whole answer."""
        return self.first_token if streamed else self.whole


UNMEASURED = Performance()
Measured = Mapping[str, Performance]
NOTHING_MEASURED: Measured = {}


@dataclass(slots=True)
class _Mean:
    weight: float = 0.0
    total: float = 0.0

    def scaled(self, factor: float) -> "_Mean":
        return _Mean(self.weight * factor, self.total * factor)

    def add(self, value: float) -> None:
        self.weight += 1
        self.total += value

    def plus(self, other: "_Mean") -> "_Mean":
        return _Mean(self.weight + other.weight, self.total + other.total)

    @property
    def value(self) -> float | None:
        return self.total / self.weight if self.weight >= _LEAST_WEIGHT else None


@dataclass(slots=True)
class _Sums:
    first_token: _Mean
    whole: _Mean
    failures: _Mean
    at: float

    def decayed(self, now: float) -> "_Sums":
        factor = 0.5 ** (max(now - self.at, 0.0) / _HALF_LIFE)
        return _Sums(self.first_token.scaled(factor), self.whole.scaled(factor), self.failures.scaled(factor), now)


Exported = Mapping[str, list[float]]
"""Six sums by model, as of the moment of export."""


class Measurements:
    """The measurements of one process, joined with those that other replicas sent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back."""
        self._clock = clock
        self._own: dict[str, _Sums] = {}
        self._others: dict[str, _Sums] = {}
        self._view: Measured = NOTHING_MEASURED
        self._view_at = float("-inf")

    def answered(self, model: str, seconds: float, *, first_token: bool) -> None:
        """An attempt succeeded; `seconds` are to the first token of a stream, or to the whole answer."""
        sums = self._of(model)
        (sums.first_token if first_token else sums.whole).add(seconds)
        sums.failures.add(0.0)

    def failed(self, model: str) -> None:
        """An attempt failed in a way that counts against the model."""
        self._of(model).failures.add(1.0)

    def current(self) -> Measured:
        """What is known now, at most a second old."""
        now = self._clock()
        if now - self._view_at >= 1.0:
            self._view_at = now
            self._view = self._joined(now)
        return self._view

    def export(self) -> Exported:
        """The sums of this process, for other replicas."""
        now = self._clock()
        return {model: _numbers(sums.decayed(now)) for model, sums in self._own.items()}

    def replace_others(self, exports: list[tuple[float, Exported]]) -> None:
        """Take over the exports of all other replicas, each with its age in seconds."""
        now = self._clock()
        others: dict[str, _Sums] = {}
        for age, export in exports:
            for model, numbers in export.items():
                sums = _sums(numbers, now - age).decayed(now)
                others[model] = _plus(others[model], sums) if model in others else sums
        self._others = others

    def _of(self, model: str) -> _Sums:
        now = self._clock()
        known = self._own.get(model)
        sums = self._own[model] = known.decayed(now) if known is not None else _Sums(_Mean(), _Mean(), _Mean(), now)
        return sums

    def _joined(self, now: float) -> Measured:
        view: dict[str, Performance] = {}
        for model in {*self._own, *self._others}:
            parts = [sums.decayed(now) for sums in (self._own.get(model), self._others.get(model)) if sums]
            whole = parts[0] if len(parts) == 1 else _plus(*parts)
            if whole.failures.weight >= _LEAST_WEIGHT:
                view[model] = Performance(
                    first_token=whole.first_token.value,
                    whole=whole.whole.value,
                    error_rate=whole.failures.value or 0.0,
                    attempts=whole.failures.weight,
                )
            elif model in self._own and model not in self._others:
                del self._own[model]
        return view


def _numbers(sums: _Sums) -> list[float]:
    return [part for mean in (sums.first_token, sums.whole, sums.failures) for part in (mean.weight, mean.total)]


def _sums(numbers: list[float], at: float) -> _Sums:
    first_weight, first, whole_weight, whole, failures_weight, failures = numbers
    return _Sums(_Mean(first_weight, first), _Mean(whole_weight, whole), _Mean(failures_weight, failures), at)


def _plus(one: _Sums, other: _Sums) -> _Sums:
    return _Sums(
        one.first_token.plus(other.first_token),
        one.whole.plus(other.whole),
        one.failures.plus(other.failures),
        max(one.at, other.at),
    )
