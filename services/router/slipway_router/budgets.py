"""Budgets: what calls may cost, whose, and in which time."""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument, NotFound, ResourceExhausted

API_KEY_PREFIX: Final = "api-key:"
"""The gateway's form of the subject of a caller with an API key: this, then the key's name."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MOST_VALUE_CHARACTERS = 255


class Scope(enum.StrEnum):
    """Whose calls count."""

    TENANT = "tenant"
    AGENT = "agent"
    USER = "user"
    KEY = "key"
    RUN = "run"


class Period(enum.StrEnum):
    """When a budget starts anew, by the UTC calendar."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


class BudgetUnknown(NotFound):
    """The tenant has no budget of that name."""

    reason = "BUDGET_UNKNOWN"


class BudgetExhausted(ResourceExhausted):
    """What is left of a budget does not cover the worst case of the call. `metadata` tells which and how much."""

    reason = "BUDGET_EXHAUSTED"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a budget says: whose calls may cost how much in which time. `value` empty: each has it for itself."""

    scope: Scope
    value: str
    period: Period
    limit: Decimal | None
    soft_limit: Decimal | None


@dataclass(frozen=True, slots=True)
class Balance:
    """What happened in the current period. `period_start` None: it never ends."""

    value: str
    spent: Decimal
    reserved: Decimal
    period_start: datetime | None
    period_end: datetime | None
    soft_limit_reached: bool


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget of a tenant."""

    name: str
    terms: Terms
    create_time: datetime
    update_time: datetime
    balances: tuple[Balance, ...] = ()


def check(name: str, terms: Terms) -> None:
    """Raises InvalidArgument naming the field."""
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument(
            "a name has 1 to 63 lower-case letters, digits, '.', '_', '-'; it starts with a letter or digit",
            field="budget.name",
        )
    if len(terms.value) > _MOST_VALUE_CHARACTERS or "\x00" in terms.value:
        raise InvalidArgument(f"at most {_MOST_VALUE_CHARACTERS} characters", field="budget.scope_value")
    if terms.scope is Scope.TENANT and terms.value:
        raise InvalidArgument("a budget of the tenant names no value", field="budget.scope_value")
    if terms.limit is None and terms.soft_limit is None:
        raise InvalidArgument("a budget needs a limit or a soft limit", field="budget.limit")
    for field, amount in (("limit", terms.limit), ("soft_limit", terms.soft_limit)):
        if amount is not None and amount < 0:
            raise InvalidArgument("must not be negative", field=f"budget.{field}")
    if terms.limit is not None and terms.soft_limit is not None and terms.soft_limit > terms.limit:
        raise InvalidArgument("the soft limit is above the limit", field="budget.soft_limit")


@dataclass(frozen=True, slots=True)
class Payers:
    """Whose budgets a call counts towards. Empty: nobody's of that scope."""

    agent: str
    person: str
    key: str
    root_run: str

    @staticmethod
    def of(caller: Caller, root_run: str) -> "Payers":
        """The payers of a call: an API key's owner answers for its calls, a service in its own name for none."""
        person = "" if caller.person.startswith("service:") else caller.person
        key = caller.subject.removeprefix(API_KEY_PREFIX) if caller.subject.startswith(API_KEY_PREFIX) else ""
        return Payers((caller.act or "").partition("@")[0], person, key, root_run)


def exhausted(facts: Mapping[str, str | None], worst: Decimal) -> BudgetExhausted:
    """The error for a refusal of the store: `facts` are name, scope, value, period, limit, spent, reserved, resets."""
    limit, spent, reserved = (Decimal(facts[name] or 0) for name in ("limit", "spent", "reserved"))
    name, scope, value = facts["name"] or "", facts["scope"] or "", facts["value"] or ""
    which = f"budget {name}" if name else "the run's own limit"
    whose = "" if scope == Scope.TENANT else f" of {scope} {value}"
    per = "" if facts["period"] == Period.TOTAL else f" a {facts['period']}"
    metadata = {
        "budget": name,
        "scope": scope,
        "scope_value": value,
        "period": facts["period"] or "",
        "limit_usd": _plain(limit),
        "spent_usd": _plain(spent),
        "reserved_usd": _plain(reserved),
        "worst_case_usd": _plain(worst),
    }
    if facts.get("resets"):
        metadata["resets"] = f"{facts['resets']}T00:00:00Z"
    return BudgetExhausted(
        f"{which}{whose}: of {_plain(limit)} USD{per}, {_plain(spent)} are spent and {_plain(reserved)} reserved by "
        f"calls under way; this call may cost {_plain(worst)}",
        metadata=metadata,
    )


def _plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"
