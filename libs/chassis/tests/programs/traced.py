"""Makes a span with a child and an error, sends them to the collector at ENDPOINT, prints its trace id."""

import contextlib
import sys

from slipway_chassis import telemetry

telemetry.setup("traced", sys.argv[1])
with telemetry.span("outer", attributes={"slipway.tenant": "acme"}):
    sys.stdout.write(telemetry.current_trace_id())
    with contextlib.suppress(KeyError), telemetry.span("inner"):
        raise KeyError("card 4711")
telemetry.shutdown()
