"""From the bus into the log."""

from prometheus_client import Counter
from slipway_chassis import telemetry
from slipway_chassis.bus import Bus, Message
from slipway_chassis.errors import SlipwayError
from slipway_chassis.logs import get_logger
from slipway_chassis.receipts import Receipts

from slipway_audit.leaf import parse_leaf
from slipway_audit.sequencer import Sequencer

TOPIC, GROUP = "audit.events", "audit"
MAX_DELIVERIES = 5
_CONCURRENCY = 256  # events that may wait for one commit together

_log = get_logger(__name__)
_dead = Counter(
    "slipway_audit_dead_letters", "Events given up, kept as dead letters", ["reason"], registry=telemetry.registry
)


class EventConsumer:
    """Consumes `audit.events`. An event that the log cannot take ends among the dead letters, with the reason.

    Its sender is told then as well: the dead letters keep it.
    """

    def __init__(
        self, bus: Bus, sequencer: Sequencer, receipts: Receipts, max_deliveries: int = MAX_DELIVERIES
    ) -> None:
        self._bus = bus
        self._sequencer = sequencer
        self._receipts = receipts
        self._max_deliveries = max_deliveries

    async def run(self) -> None:
        """Consume until cancelled."""
        await self._bus.consume(
            TOPIC, GROUP, self._handle, concurrency=_CONCURRENCY, max_deliveries=self._max_deliveries
        )

    async def _handle(self, message: Message, deliveries: int) -> None:
        try:
            await self._sequencer.append(parse_leaf(message.id, message.tenant, message.body, message.headers))
        except Exception as error:
            reason = error.reason if isinstance(error, SlipwayError) else type(error).__name__
            if deliveries >= self._max_deliveries:
                _dead.labels(reason).inc()
                self._receipts.give([message.id])
                _log.error(
                    "audit.event_given_up",
                    message_id=message.id,
                    tenant=message.tenant,
                    reason=reason,
                    error=str(error),
                )
            raise
