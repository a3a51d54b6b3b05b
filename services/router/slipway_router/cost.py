"""What tokens cost: exact decimal arithmetic, no rounding before the wire."""

from dataclasses import dataclass
from decimal import Context, Decimal

from slipway_router.tokens import TokenCount

_MILLION = Decimal(1_000_000)
# Exact for any count of tokens up to 10^18 at prices with 12 digits after the point.
_EXACT = Context(prec=60)


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens of each class. None: as `input`."""

    input: Decimal
    cached_input: Decimal
    output: Decimal
    reasoning: Decimal
    cache_write: Decimal | None = None
    image: Decimal | None = None

    def cost(self, tokens: TokenCount) -> Decimal:
        """Dollars for `tokens`, exact."""
        total = Decimal(0)
        for count, price in (
            (tokens.input, self.input),
            (tokens.cached_input, self.cached_input),
            (tokens.output, self.output),
            (tokens.reasoning, self.reasoning),
            (tokens.cache_write, self.cache_write),
            (tokens.image, self.image),
        ):
            if count:
                total = _EXACT.add(total, _EXACT.multiply(Decimal(count), self.input if price is None else price))
        return _EXACT.divide(total, _MILLION)

    def most(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Dollars that a call of at most so many tokens can cost: each token in its dearest class."""
        dearest_input = max(self.input, self.cached_input, self.cache_write or self.input, self.image or self.input)
        dearest_output = max(self.output, self.reasoning)
        return Price(dearest_input, dearest_input, dearest_output, dearest_output).cost(
            TokenCount(input=input_tokens, output=output_tokens)
        )
