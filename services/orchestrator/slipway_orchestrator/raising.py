"""Raising the limits of one run: each above the one that holds, and within what definitions may say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from pydantic import JsonValue
from slipway_chassis.errors import FieldViolation, InvalidArgument

from slipway_orchestrator.core.definition import Limits

_HIGHEST = {
    "steps": Decimal(100_000),
    "tokens": Decimal(10**12),
    "cost_usd": Decimal(1_000_000),
    "wall_time": Decimal(366 * 86400),
    "tool_errors": Decimal(100_000),
    "repeats": Decimal(100_000),
}


class LimitNotRaised(InvalidArgument):
    """A limit is not above the one that holds, or above what is possible."""

    reason = "LIMIT_NOT_RAISED"


@dataclass(frozen=True, slots=True)
class NewLimits:
    """Limits that a person sets; None: unchanged."""

    steps: int | None = None
    tokens: int | None = None
    cost_usd: Decimal | None = None
    wall_time: float | None = None
    """Seconds from the start."""
    tool_errors: int | None = None
    repeats: int | None = None

    def named(self) -> dict[str, Decimal]:
        """Those that are set."""
        values = {name: getattr(self, name) for name in _HIGHEST}
        return {name: Decimal(str(value)) for name, value in values.items() if value is not None}


def check_raised(
    declared: Limits, raised: Iterable[Mapping[str, JsonValue]], wanted: NewLimits
) -> dict[str, JsonValue]:
    """The new limits as they are journalled. `raised` are those of earlier raises. Raises LimitNotRaised."""
    new = wanted.named()
    if not new:
        raise LimitNotRaised("name a limit to raise", field="limits")
    holds = {name: Decimal(str(getattr(declared, name))) for name in _HIGHEST}
    for earlier in raised:
        for name, value in earlier.items():
            if name in holds:
                holds[name] = max(holds[name], _decimal(value))
    wrong = [
        FieldViolation(
            f"limits.{name}", f"must be more than {_plain(holds[name])} and at most {_plain(_HIGHEST[name])}"
        )
        for name, value in new.items()
        if not holds[name] < value <= _HIGHEST[name]
    ]
    if wrong:
        raise LimitNotRaised(f"{wrong[0].field} {wrong[0].message}", violations=wrong)
    return {name: _journalled(name, value) for name, value in new.items()}


def _journalled(name: str, value: Decimal) -> JsonValue:
    """Whole numbers, and money as text; wall time in whole seconds."""
    return _plain(value) if name == "cost_usd" else int(value)


def _plain(value: Decimal) -> str:
    return format(value.normalize(), "f")


def _decimal(value: JsonValue) -> Decimal:
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return Decimal(0)
