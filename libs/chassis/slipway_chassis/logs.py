"""Logs: one JSON object a line on standard output, with trace id and tenant, without secrets."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from opentelemetry import trace

from slipway_chassis.caller import current_caller_or_none

_SECRET_KEY = re.compile(
    r"(^|_)(token|secret|password|passwd|authorization|api_?key|private_?key|data_key|cookie)$", re.IGNORECASE
)
_URL_PASSWORD = re.compile(r"(\w+://[^\s:/@]*:)[^\s@/]+@")
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]+")
_HIDDEN = "***"

_Event = MutableMapping[str, Any]


def _add_context(_logger: Any, _method: str, event: _Event) -> _Event:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", format(context.trace_id, "032x"))
    caller = current_caller_or_none()
    if caller is not None and caller.tenant:
        event.setdefault("tenant", caller.tenant)
    return event


def _hide_secrets(_logger: Any, _method: str, event: _Event) -> _Event:
    for key, value in event.items():
        if _SECRET_KEY.search(key):
            event[key] = _HIDDEN
        elif isinstance(value, str):
            event[key] = _BEARER.sub(rf"\1{_HIDDEN}", _URL_PASSWORD.sub(rf"\1{_HIDDEN}@", value))
    return event


def configure_logging(service: str, level: str = "INFO") -> None:
    """Send structlog and the standard library's loggers to standard output as JSON lines of ``service``."""

    def add_service(_logger: Any, _method: str, event: _Event) -> _Event:
        event["service"] = service
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        add_service,
        _add_context,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _hide_secrets,
    ]
    render = structlog.processors.JSONRenderer(default=repr)
    threshold = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries report what they do at INFO; what they complain of is enough.
    root.setLevel(max(threshold, logging.WARNING))


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger; events are dotted names (``outbox.publish_failed``), facts are keyword arguments."""
    return structlog.get_logger(component=name)
