"""From how a program ended to what its caller is told: output or failure, with the limit that was reached named."""

from slipway_tools import jsontext
from slipway_tools.result import ToolFailure
from slipway_tools.sandbox.limits import Limits
from slipway_tools.sandbox.program import Outcome

_CPU_SIGNALS = (128 + 24, 128 + 9)
_FILE_SIZE_SIGNAL = 128 + 25
_FEW_NAMES = 8  # an open file that was removed gives its name back when its process ends


def read(outcome: Outcome, limits: Limits, seconds: float) -> tuple[ToolFailure | None, str]:
    """The failure, or None and the output as JSON text."""
    failure = _ending(outcome, limits, seconds) or _result_fault(outcome, limits)
    if failure is not None:
        return failure, ""
    if outcome.result_kind == "none":
        return None, "null"
    try:
        value = jsontext.parse(outcome.result.decode(), field="result.json", limit=limits.result)
        return None, jsontext.compact(value)
    except UnicodeDecodeError:
        return ToolFailure("INVALID_RESULT", "result.json is not UTF-8."), ""
    except jsontext.InvalidJson as error:
        return ToolFailure("INVALID_RESULT", f"result.json {error}."), ""


def _ending(outcome: Outcome, limits: Limits, seconds: float) -> ToolFailure | None:
    if outcome.ended == "timeout":
        message = f"The program did not end within {seconds:g} s and was killed."
        return ToolFailure("TIMEOUT", message, retryable=True, limit="wall_time")
    if outcome.ended == "flood":
        message = f"The program printed more than {limits.flood} bytes and was killed."
        return ToolFailure("OUTPUT_TOO_LARGE", message, limit="output")
    if outcome.ended == "setup":
        message = f"The files do not fit into {limits.workspace} bytes and {limits.inodes} names."
        return ToolFailure(
            "WORKSPACE_FULL", message, limit="inodes" if 0 <= outcome.free_names < _FEW_NAMES else "disk"
        )
    if outcome.ended == "lost" and not outcome.out_of_memory:
        return ToolFailure("KILLED", "The sandbox was killed from outside.", retryable=True)
    if outcome.exit_status == 0 and outcome.ended == "exited":
        return None
    return _limit_reached(outcome, limits, seconds) or _exit_status(outcome)


def _limit_reached(outcome: Outcome, limits: Limits, seconds: float) -> ToolFailure | None:
    """Why a program failed, when it was a limit: as the kernel counted it, or as the program's last words tell.

    A program that failed at one and went on did not fail.
    """
    last = last_words(outcome.stderr)
    status = outcome.exit_status
    if outcome.out_of_memory or last.startswith("MemoryError") or "Cannot allocate memory" in last:
        return ToolFailure(
            "OUT_OF_MEMORY", f"The program used more than {limits.memory} bytes of memory.", limit="memory"
        )
    allowed = seconds * limits.cpus
    if status in _CPU_SIGNALS and outcome.cpu_seconds >= allowed:
        message = f"The program used its {allowed:g} s of processor time."
        return ToolFailure("CPU_TIME_EXCEEDED", message, retryable=True, limit="cpu_time")
    if outcome.out_of_processes or "can't start new thread" in last or "Resource temporarily unavailable" in last:
        message = f"The program started more than {limits.processes} processes and threads: {last}"
        return ToolFailure("TOO_MANY_PROCESSES", _sentence(message), limit="processes")
    if status == _FILE_SIZE_SIGNAL or "File too large" in last:
        message = f"The program wrote a file of more than {limits.file_size} bytes: {last}"
        return ToolFailure("FILE_TOO_LARGE", _sentence(message), limit="file_size")
    if "Too many open files" in last:
        message = f"The program opened more than {limits.open_files} files: {last}"
        return ToolFailure("TOO_MANY_OPEN_FILES", _sentence(message), limit="descriptors")
    if 0 <= outcome.free_names < _FEW_NAMES:
        message = f"The program made more than {limits.inodes} files: {last}"
        return ToolFailure("TOO_MANY_FILES", _sentence(message), limit="inodes")
    if outcome.free_bytes == 0 or "No space left on device" in last:
        message = f"The program's files need more than {limits.workspace} bytes: {last}"
        return ToolFailure("WORKSPACE_FULL", _sentence(message), limit="disk")
    return None


def _exit_status(outcome: Outcome) -> ToolFailure:
    message = f"The program ended with exit status {outcome.exit_status}: {last_words(outcome.stderr)}"
    return ToolFailure("EXIT_STATUS", _sentence(message))


def _result_fault(outcome: Outcome, limits: Limits) -> ToolFailure | None:
    if outcome.result_kind == "large":
        return ToolFailure("OUTPUT_TOO_LARGE", f"result.json is longer than {limits.result} bytes.", limit="result")
    if outcome.result_kind == "unsafe":
        return ToolFailure("INVALID_RESULT", "result.json is not a regular file.")
    cut = next((file.name for file in outcome.files if not file.whole), None)
    if cut is not None:
        message = f"{cut} and the other files that come out are longer than {limits.collect} bytes."
        return ToolFailure("OUTPUT_TOO_LARGE", message, limit="files")
    return None


def last_words(stderr: bytes) -> str:
    """The last line of standard error, cut."""
    return stderr[-8192:].decode(errors="replace").strip().rpartition("\n")[2][:300]


def _sentence(text: str) -> str:
    return text.rstrip(": .") + "."
