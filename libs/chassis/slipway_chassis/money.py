"""US dollars: Decimal in Python, google.type.Money on the wire."""

from decimal import ROUND_HALF_EVEN, Decimal

from google.type.money_pb2 import Money

from slipway_chassis.errors import InvalidArgument

_NANO = Decimal("0.000000001")
_NANOS_PER_UNIT = 1_000_000_000


def to_money(amount: Decimal) -> Money:
    """``amount`` dollars as Money, rounded half-even to a billionth of a dollar. ValueError if it is not finite."""
    if not amount.is_finite():
        raise ValueError("an amount of money is a finite number")
    nanos = int(amount.quantize(_NANO, rounding=ROUND_HALF_EVEN).scaleb(9))
    units, rest = divmod(abs(nanos), _NANOS_PER_UNIT)
    sign = -1 if nanos < 0 else 1
    return Money(currency_code="USD", units=sign * units, nanos=sign * rest)


def from_money(money: Money, *, field: str = "money") -> Decimal:
    """Money as Decimal dollars. InvalidArgument (naming ``field``) if it is not USD or not well-formed."""
    if money.currency_code not in ("USD", ""):
        raise InvalidArgument(
            f"currency {money.currency_code!r} is not supported, only USD", field=f"{field}.currency_code"
        )
    if abs(money.nanos) >= _NANOS_PER_UNIT or money.units * money.nanos < 0:
        raise InvalidArgument("nanos are out of range or differ in sign from units", field=f"{field}.nanos")
    return Decimal(money.units) + Decimal(money.nanos) * _NANO
