"""Calls of sandboxed programs as their callers see them: files out, sessions of a run, usage, and limits by name."""

from typing import Any

import pytest
from slipway_chassis.errors import ErrorKind, SlipwayError
from slipway_chassis.ids import new_id

PNG = "b'\\x89PNG\\r\\n\\x1a\\n' + bytes(20)"


async def test_files_that_were_asked_for_and_pictures_are_stored_with_the_callers_access(
    alice: Any, memory: Any
) -> None:
    answer = await alice.python(
        f"import os\nos.mkdir('out')\nopen('out/a.csv', 'w').write('1,2')\nopen('plot.png', 'wb').write({PNG})\n"
        "open('fake.png', 'w').write('no picture')\nopen('other.txt', 'w').write('x')",
        outputs=["out/*.csv"],
    )
    assert not answer.HasField("error"), answer
    files = {file.name: file for file in answer.files}
    assert {name: file.content_type for name, file in files.items()} == {
        "out/a.csv": "text/csv",
        "plot.png": "image/png",
    }
    assert memory.files[files["out/a.csv"].file_id] == b"1,2"
    assert memory.uploads[files["out/a.csv"].file_id].filename == "a.csv"
    assert files["out/a.csv"].digest.startswith("sha256:")
    assert files["plot.png"].size_bytes == 28


async def test_an_output_that_is_not_there_or_can_not_be_stored_is_an_error(alice: Any, memory: Any) -> None:
    missing = await alice.python("print(1)", outputs=["report.csv"])
    assert (missing.error.code, missing.error.message) == ("MISSING_OUTPUT", "The program left no file report.csv.")
    memory.full = True
    try:
        program = "open('report.csv', 'w').write('1')\nprint('x' * 70000)"
        lost = await alice.python(program, outputs=["report.csv"])
        cut = await alice.python(program)
    finally:
        memory.full = False
    assert (lost.error.code, lost.error.retryable) == ("FILES_NOT_STORED", True)
    assert not cut.HasField("error")
    assert cut.stdout.endswith("[truncated: 4465 more bytes; they could not be stored]")


async def test_output_that_is_too_long_is_cut_with_a_marker_and_kept_whole_as_a_file(alice: Any, memory: Any) -> None:
    answer = await alice.python("print('x' * 70000)")
    assert answer.stdout == "x" * 65536 + "\n[truncated: 4465 more bytes; the first 70001 are the file stdout.txt]"
    assert memory.files[answer.files[0].file_id] == b"x" * 70000 + b"\n"


async def test_what_a_program_used_is_in_the_answer(alice: Any) -> None:
    answer = await alice.python("block = bytearray(30 << 20)\nn = 0\nwhile n < 2_000_000: n += 1")
    assert answer.usage.cpu_ms > 10
    assert answer.usage.peak_memory_bytes > 30 << 20
    assert not answer.HasField("session")


@pytest.mark.parametrize(
    ("code", "limit"),
    [
        ("import time; time.sleep(100)", "wall_time"),
        ("held = []\nwhile True: held.append(bytearray(1 << 20))", "memory"),
        ("for n in range(9): open(f'f{n}', 'wb').write(bytes(1 << 20))", "disk"),
        ("import os\nwhile True: os.write(1, bytes(65536))", "output"),
    ],
)
async def test_an_error_names_the_limit_that_was_reached(alice: Any, code: str, limit: str) -> None:
    answer = await alice.python(code, timeout_seconds=1 if limit == "wall_time" else 30)
    assert answer.error.limit == limit


async def test_a_session_is_the_runs_and_the_subjects_alone(alice: Any, client: Any, effect: Any, unique: Any) -> None:
    run, other = unique("run_"), unique("run_")
    arguments = {"code": "open('a.txt', 'w').write('kept')", "session": "work"}
    first = await alice.invoke("python", arguments, effect=effect(f"{run}/one/1"))
    assert (first.session.session, first.session.created) == ("work", True)
    assert [(file.name, file.size_bytes) for file in first.session.files] == [("a.txt", 4)]
    assert first.session.free_bytes > 0
    look = {"code": "import os; print(os.path.exists('a.txt'))", "session": "work"}
    second = await alice.invoke("python", look, effect=effect(f"{run}/two/1"))
    assert (second.stdout, second.session.created) == ("True\n", False)
    assert second.session.expire_time.ToSeconds() > 0
    bob = client(subject="bob", roles=["developer"])
    for somebody, key in ((alice, f"{other}/one/1"), (bob, f"{run}/three/1")):
        elsewhere = await somebody.invoke("python", look, effect=effect(key))
        assert (elsewhere.stdout, elsewhere.session.created) == ("False\n", True)


async def test_variables_stay_in_a_session_that_keeps_state(alice: Any, unique: Any) -> None:
    session = unique("s")
    await alice.python("x = 20", session=session, keep_state=True)
    answer = await alice.python("print(x + 1)", session=session, keep_state=True)
    assert answer.stdout == "21\n"
    with pytest.raises(SlipwayError) as refused:
        await alice.python("1", keep_state=True)
    assert refused.value.violations[0].field == "/keep_state"


async def test_the_shell_runs_scripts_with_files_and_gives_a_result(alice: Any, memory: Any) -> None:
    file_id = new_id("file")
    memory.files[file_id] = b"b\na\n"
    arguments = {
        "code": "sort in.txt; echo '{\"lines\":' $(wc -l < in.txt) '}' > result.json",
        "files": {"in.txt": file_id},
    }
    answer = await alice.invoke("shell", arguments)
    assert (answer.stdout, answer.output_json) == ("a\nb\n", '{"lines":2}')
    failed = await alice.invoke("shell", {"code": "echo no >&2; exit 3"})
    assert (failed.error.code, failed.exit_status) == ("EXIT_STATUS", 3)


async def test_a_tenant_beyond_its_number_of_programs_is_told_the_limit(start_tools: Any, client: Any) -> None:
    tools = start_tools(SANDBOX_TENANT_CALLS="1", SANDBOX_TENANT_SESSIONS="1")
    alice = client(tools.target)
    await alice.python("1", session="one")
    with pytest.raises(SlipwayError) as refused:
        await alice.python("1", session="two")
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.RESOURCE_EXHAUSTED, "TENANT_SANDBOX_LIMIT")
    assert refused.value.metadata["limit"] == "tenant_sessions"
    tools.stop()


async def test_warm_sandboxes_serve_one_call_each_and_are_made_again(
    start_tools: Any, client: Any, eventually: Any
) -> None:
    import httpx

    tools = start_tools(SANDBOX_WARM="2")

    def waiting() -> bool:
        text = httpx.get(f"http://127.0.0.1:{tools.metrics_port}/metrics").text
        return "\nslipway_tools_sandboxes_warm 2.0" in text

    for _ in range(2):
        await eventually(waiting)
        for _ in range(3):
            answer = await client(tools.target).python("import os; print(os.listdir('.')); open('left', 'w')")
            assert answer.stdout == "['main.py']\n"
    tools.stop()
