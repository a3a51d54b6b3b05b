"""The helper process of `expressions.sandbox`: reads requests from stdin until it is closed."""

import json
import resource
import struct
import sys

from slipway_orchestrator.expressions.evaluation import ExpressionFailed, ExpressionTooCostly, compiled, evaluate_here

_LENGTH = struct.Struct("!I")
_MEMORY = 512 << 20


def main() -> None:
    """Answer each request (length, JSON) with `{value}` or `{error, too_costly}`."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    compiled("true")
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    stdout.write(b"\0")
    stdout.flush()
    while len(head := stdin.read(_LENGTH.size)) == _LENGTH.size:
        request = json.loads(stdin.read(_LENGTH.unpack(head)[0]))
        try:
            answer = {"value": evaluate_here(request["expression"], request["names"])}
        except ExpressionFailed as error:
            answer = {"error": str(error), "too_costly": isinstance(error, ExpressionTooCostly)}
        body = json.dumps(answer).encode()
        stdout.write(_LENGTH.pack(len(body)) + body)
        stdout.flush()


if __name__ == "__main__":
    main()
