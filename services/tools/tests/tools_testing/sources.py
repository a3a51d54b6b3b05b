"""A memory service's data source `sales`: a SQLite database that only alice of acme may query."""

import json
import sqlite3
from typing import Any, NoReturn

import grpc
from slipway.effects.v1 import effects_pb2
from slipway.memory.v1 import sources_pb2, sources_pb2_grpc
from slipway_chassis.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted, SlipwayError
from slipway_chassis.grpc_errors import DETAILS_KEY, to_status
from slipway_chassis.tokens import CallerTokenVerifier

CODES = {
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class Sales(sources_pb2_grpc.SourcesServiceServicer):
    """Performs what it is asked for; `busy`: refuses everything for the moment."""

    def __init__(self, verifier: CallerTokenVerifier) -> None:
        self.busy = False
        self.received: list[sources_pb2.QuerySourceRequest] = []
        self._verifier = verifier
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.executescript(
            "CREATE TABLE orders (id INTEGER, customer TEXT, amount INTEGER);"
            "INSERT INTO orders VALUES (1, 'ada', 10), (2, 'bob', 20), (3, 'ada', 30);"
        )

    def QuerySource(self, request: Any, context: grpc.ServicerContext) -> sources_pb2.QuerySourceResponse:
        bearer = str(dict(context.invocation_metadata())["authorization"])
        caller = self._verifier.verify(bearer.removeprefix("Bearer "))
        self.received.append(request)
        if self.busy:
            _abort(context, ResourceExhausted("too many queries", retry_after=2.0))
        if request.source != "sales":
            _abort(context, NotFound(f"there is no data source {request.source}"))
        if (caller.tenant, caller.subject) != ("acme", "alice"):
            _abort(context, PermissionDenied("columns are denied"))
        values = json.loads(request.parameters_json or "{}")
        try:
            found = self._database.execute(f"{'EXPLAIN ' if request.validate_only else ''}{request.sql}", values)
        except sqlite3.Error as error:
            _abort(context, InvalidArgument(str(error)))
        rows, most = found.fetchall(), request.limit or 100
        return sources_pb2.QuerySourceResponse(
            columns=[sources_pb2.ResultColumn(name=column[0]) for column in found.description],
            rows_json=json.dumps(rows[:most]),
            truncated=len(rows) > most,
            record=effects_pb2.RecordRef(event_id="aev_of_the_query"),
        )


def _abort(context: grpc.ServicerContext, error: SlipwayError) -> NoReturn:
    context.set_trailing_metadata([(DETAILS_KEY, to_status(error, "").SerializeToString())])
    context.abort(CODES[type(error)], error.message)
    raise AssertionError("unreachable")
