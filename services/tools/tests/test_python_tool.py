"""The python tool, as its callers see it."""

import json
from typing import Any

import psutil
import pytest
from slipway_chassis.errors import ErrorKind, SlipwayError
from slipway_chassis.ids import new_id


async def test_the_json_in_result_json_is_the_output_and_prints_are_returned_apart(alice: Any) -> None:
    answer = await alice.python(
        "import json, sys\n"
        "print('to out'); print('to err', file=sys.stderr)\n"
        "json.dump({'refund': 12.5, 'who': sys.stdin.read()}, open('result.json', 'w'))",
        stdin="Zoë",
    )
    assert not answer.HasField("error")
    assert json.loads(answer.output_json) == {"refund": 12.5, "who": "Zoë"}
    assert (answer.stdout, answer.stderr, answer.exit_status) == ("to out\n", "to err\n", 0)
    assert answer.sandbox.startswith("nsjail")
    assert answer.record.event_id.startswith("aev_")
    assert len(answer.record.commitment) == 64


async def test_a_program_without_result_json_answers_null(alice: Any) -> None:
    answer = await alice.python("print(1)")
    assert (answer.output_json, answer.stdout) == ("null", "1\n")


async def test_files_come_from_the_memory_service_with_the_callers_access_or_from_the_arguments(
    alice: Any, client: Any, memory: Any
) -> None:
    file_id = new_id("file")
    memory.files[file_id] = b"order,amount\r\n" + b"1,99.5\r\n" * 10_000
    code = (
        "import csv, json\n"
        "rows = list(csv.DictReader(open('data/orders.csv')))\n"
        "json.dump([len(rows), rows[0]['amount'], open('note.txt').read()], open('result.json', 'w'))"
    )
    files = {"data/orders.csv": file_id, "note.txt": "inline"}
    answer = await alice.python(code, files=files)
    assert json.loads(answer.output_json) == [10_000, "99.5", "inline"]
    with pytest.raises(SlipwayError) as refused:
        await client(subject="bob", roles=["developer"]).python(code, files=files)
    assert refused.value.kind is ErrorKind.NOT_FOUND


async def test_a_damaged_file_id_is_refused_and_not_taken_for_content(alice: Any) -> None:
    with pytest.raises(SlipwayError) as refused:
        await alice.python("1", files={"orders.csv": "file_01abc"})
    assert refused.value.reason == "INVALID_TOOL_ARGUMENTS"
    assert [violation.field for violation in refused.value.violations] == ["/files/orders.csv"]


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "",
        "a//b",
        ".",
        "a\nb",
        "a\u0000b",
        "x" * 101,
        "main.py",
        "result.json",
        "d/" * 9,
    ],
)
async def test_a_file_name_that_leaves_the_workspace_or_cannot_be_is_refused(alice: Any, name: str) -> None:
    with pytest.raises(SlipwayError) as refused:
        await alice.python("1", files={name: "x"})
    assert refused.value.reason == "INVALID_TOOL_ARGUMENTS"


async def test_files_that_do_not_fit_into_the_workspace_are_refused(alice: Any, memory: Any) -> None:
    file_id = new_id("file")
    memory.files[file_id] = bytes(9 << 20)
    with pytest.raises(SlipwayError) as refused:
        await alice.python("1", files={"big": file_id})
    assert refused.value.reason == "FILES_TOO_LARGE"
    memory.files[file_id] = bytes((8 << 20) - 1)
    answer = await alice.python("1", files={"big": file_id})
    assert answer.error.code == "WORKSPACE_FULL"


async def test_an_exception_names_the_line_of_the_program_and_ends_with_its_status(alice: Any) -> None:
    answer = await alice.python("def f():\n    raise ValueError('no such order')\nf()")
    assert answer.error.code == "EXIT_STATUS"
    assert answer.error.message == "The program ended with exit status 1: ValueError: no such order."
    assert 'File "main.py", line 2, in f' in answer.stderr
    assert "runner" not in answer.stderr
    assert answer.exit_status == 1
    assert answer.output_json == ""
    assert not answer.error.retryable


async def test_sys_exit_gives_the_exit_status(alice: Any) -> None:
    answer = await alice.python("import sys; sys.exit(7)")
    assert (answer.error.code, answer.exit_status) == ("EXIT_STATUS", 7)


async def test_modules_given_as_files_can_be_imported_but_never_replace_the_standard_library(alice: Any) -> None:
    answer = await alice.python(
        "import helper, json\njson.dump(helper.X, open('result.json', 'w'))",
        files={"helper.py": "X = 5", "json.py": "raise SystemExit(9)"},
    )
    assert answer.output_json == "5"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("b'{'", "is not JSON"),
        ("b'\\xff'", "is not UTF-8"),
        ("b'NaN'", "is not JSON"),
        ("b'1e999'", "is not JSON"),
        ('b\'{"a":1,"a":2}\'', "stands twice"),
        # Of a hundred thousand names the last: finding it must not hold up the service.
        ("b'{%s}' % b','.join(b'\"%x\":0' % (n >> (n == 90000)) for n in range(90001))", "stands twice"),
        ("b'[' * 100000", "nested too deeply"),
        ("b'\"' + bytes([92]) + b'ud800\"'", "surrogate"),
    ],
)
async def test_a_result_that_is_no_strict_json_is_an_invalid_result(alice: Any, content: str, says: str) -> None:
    answer = await alice.python(f"open('result.json', 'wb').write({content})")
    assert answer.error.code == "INVALID_RESULT"
    assert says in answer.error.message


async def test_arguments_that_do_not_fit_the_schema_are_refused_with_pointers(alice: Any) -> None:
    with pytest.raises(SlipwayError) as refused:
        await alice.invoke("python", {"code": 5, "timeout_seconds": 1e9, "nonsense": 1})
    assert refused.value.kind is ErrorKind.INVALID_ARGUMENT
    assert [violation.field for violation in refused.value.violations] == ["/", "/code", "/timeout_seconds"]


async def test_a_program_that_asks_for_a_longer_time_than_allowed_is_refused(alice: Any) -> None:
    with pytest.raises(SlipwayError) as refused:
        await alice.python("1", timeout_seconds=301)
    assert refused.value.violations[0].field == "/timeout_seconds"


async def test_a_launcher_that_died_while_it_waited_is_replaced(alice: Any, tools: Any) -> None:
    await alice.python("1")
    for child in psutil.Process(tools.process.pid).children():
        if child.name() == "sh":
            child.kill()
    for _ in range(3):
        answer = await alice.python("print('still')")
        assert answer.stdout == "still\n"


async def test_files_that_the_program_opens_stay_open_to_its_end(alice: Any) -> None:
    answer = await alice.python(
        "import atexit, gc\n"
        "held = [open('/dev/null', 'w') for _ in range(20)]\n"
        "gc.collect()\n"
        "atexit.register(lambda: [file.write('x') or file.flush() for file in held])"
    )
    assert (answer.exit_status, answer.stderr) == (0, "")
