"""Budgets: what calls may cost."""

from collections.abc import Iterator
from decimal import Decimal

from slipway_client.models import Budget
from slipway_client.transport import Transport, read, route


class Budgets:
    """`/v1/budgets`. Amounts are US dollars."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def put(
        self,
        budget: str,
        *,
        scope: str,
        period: str,
        limit_usd: Decimal | str | None = None,
        soft_limit_usd: Decimal | str | None = None,
        scope_value: str = "",
    ) -> Budget:
        """Makes a budget, or changes it.

        `scope` is `tenant`, `agent`, `user`, `key` or `run`; without `scope_value` each of them has the budget for
        itself. `period` is `day`, `month` or `total`.
        """
        body: dict[str, object] = {"scope": scope, "scope_value": scope_value, "period": period}
        amounts = {"limit_usd": limit_usd, "soft_limit_usd": soft_limit_usd}
        body |= {name: str(amount) for name, amount in amounts.items() if amount is not None}
        return read(Budget, self._transport.call("PUT", route("budgets", budget), json=body))

    def get(self, budget: str) -> Budget:
        """One budget, with what is spent and reserved in its current period."""
        return read(Budget, self._transport.call("GET", route("budgets", budget)))

    def list(self) -> Iterator[Budget]:
        """The tenant's budgets, by name."""
        return self._transport.pages(route("budgets"), "budgets", Budget)

    def delete(self, budget: str) -> None:
        """Removes a budget: it no longer limits anything."""
        self._transport.call("DELETE", route("budgets", budget))
