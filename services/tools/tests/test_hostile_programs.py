"""Programs that try to get out, to stay, or to use up the machine. Each runs in the real sandbox."""

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

# Tries an expression in a child's place and says how it went; what is refused raises.
TRY = """
import ctypes, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    outcome = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if outcome == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return outcome
def attempt(what):
    try:
        return ['done', repr(eval(what))]
    except BaseException as error:
        return ['refused', repr(error)]
"""


async def outcomes(alice: Any, *attempts: str) -> dict[str, list[str]]:
    code = TRY + f"json.dump({{a: attempt(a) for a in {list(attempts)!r}}}, open('result.json', 'w'))"
    answer = await alice.python(code)
    assert not answer.HasField("error"), answer
    return json.loads(answer.output_json)


def slots(pid: int) -> list[Path]:
    """Where the processes of the service's control groups are listed."""
    own = (line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    folders = [Path(f"/sys/fs/cgroup/{names}{path}") for _, names, path in own if names in ("memory", "pids", "cpu")]
    return [procs for folder in folders for procs in folder.glob(f"slipway-tools-{pid}/slot-*/cgroup.procs")]


def left(pid: int, mounts: str) -> list[str]:
    """What is there besides the launchers that wait for the next call."""
    found = [child.name() for child in psutil.Process(pid).children(recursive=True) if child.name() != "sh"]
    for procs in slots(pid):
        found += [name for member in procs.read_text().split() if (name := psutil.Process(int(member)).name()) != "sh"]
    if Path(f"/proc/{pid}/mounts").read_text() != mounts:
        found.append("mounts")
    return found


@pytest.fixture(autouse=True)
def nothing_is_left(tools: Any) -> Any:
    """No process, mount, or control group with a process of a call outlives it."""
    mounts = Path(f"/proc/{tools.process.pid}/mounts").read_text()
    yield
    deadline = time.monotonic() + 40
    while (found := left(tools.process.pid, mounts)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found == []


async def test_a_fork_bomb_is_contained(alice: Any) -> None:
    code = "import os, time\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        time.sleep(0.01)"
    answer = await alice.python(code, timeout_seconds=1)
    assert answer.error.code == "TIMEOUT"


async def test_a_thread_bomb_is_contained(alice: Any) -> None:
    code = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(100,)).start()"
    answer = await alice.python(code, timeout_seconds=5)
    assert answer.error.code in ("EXIT_STATUS", "TIMEOUT")


async def test_a_memory_bomb_in_one_process_is_out_of_memory(alice: Any) -> None:
    answer = await alice.python("blocks = []\nwhile True: blocks.append(bytearray(1 << 20))")
    assert answer.error.code == "OUT_OF_MEMORY"


async def test_memory_of_many_processes_together_is_bounded(alice: Any, tools: Any) -> None:
    if "downgraded" in tools.log_file.read_text():
        pytest.skip("no cgroups here: memory is bounded per process only, which the service declares")
    code = (
        "import os, time\n"
        "for _ in range(10):\n"
        "    if os.fork() == 0:\n"
        "        block = bytearray(100 << 20)\n"
        "        for at in range(0, len(block), 4096): block[at] = 1\n"
        "        time.sleep(60)\n"
        "time.sleep(5)\n"
        "raise SystemExit(1)"
    )
    answer = await alice.python(code, timeout_seconds=10)
    assert answer.error.code == "OUT_OF_MEMORY"


async def test_a_disk_fill_meets_the_workspaces_limit(alice: Any) -> None:
    code = "import os\nfor n in range(100):\n    open(f'f{n}', 'wb').write(bytes(1 << 20))"
    answer = await alice.python(code)
    assert "No space left on device" in answer.error.message


async def test_a_file_is_no_larger_than_the_workspace(alice: Any) -> None:
    answer = await alice.python("f = open('f', 'wb')\nf.truncate(1 << 40)")
    assert (answer.error.code, answer.error.limit) == ("FILE_TOO_LARGE", "file_size")


async def test_an_inode_flood_meets_the_workspaces_limit(alice: Any) -> None:
    answer = await alice.python("for n in range(100_000): open(f'f{n}', 'w').close()")
    assert "No space left on device" in answer.error.message


async def test_a_flood_of_descriptors_is_bounded(alice: Any) -> None:
    answer = await alice.python("held = [open('/dev/null') for _ in range(10_000)]")
    assert "Too many open files" in answer.error.message


async def test_a_processor_spin_is_killed_when_its_time_is_up(alice: Any) -> None:
    answer = await alice.python("while True: pass", timeout_seconds=0.5)
    assert answer.error.code == "TIMEOUT"
    assert answer.error.retryable
    assert answer.exit_status == 137


async def test_sleeping_for_ever_and_ignoring_signals_does_not_help(alice: Any) -> None:
    code = (
        "import signal, time\n"
        "for n in range(1, 65):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "while True: time.sleep(1000)"
    )
    answer = await alice.python(code, timeout_seconds=0.5)
    assert answer.error.code == "TIMEOUT"


async def test_a_daemon_that_outlives_the_program_is_ended_with_it(alice: Any) -> None:
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        while True: time.sleep(1)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "open('result.json', 'w').write('1')"
    )
    answer = await alice.python(code, timeout_seconds=20)
    assert answer.output_json == "1"


async def test_a_background_process_cannot_swap_the_result_while_it_is_read(alice: Any) -> None:
    code = (
        "import os\n"
        "open('result.json', 'w').write('1')\n"
        "if os.fork() == 0:\n"
        "    while True:\n"
        "        open('other', 'w').write('2'); os.rename('other', 'result.json')\n"
        "        os.unlink('result.json'); os.symlink('/etc/shadow', 'result.json')\n"
        "        os.unlink('result.json')"
    )
    answer = await alice.python(code)
    assert answer.output_json in ("1", "2", "null", "")


async def test_gigabytes_of_output_end_the_program_and_the_rest_is_cut(alice: Any) -> None:
    answer = await alice.python("import os\nwhile True: os.write(1, b'x' * 65536)", timeout_seconds=30)
    assert answer.error.code == "OUTPUT_TOO_LARGE"
    assert answer.stdout.startswith("x" * 65536 + "\n[truncated: ")


async def test_output_on_both_streams_and_binary_does_not_block_the_program(alice: Any) -> None:
    code = "import os\nfor n in range(80): os.write(1 + n % 2, bytes(range(256)) * 128)"
    answer = await alice.python(code)
    assert not answer.HasField("error")
    assert len(answer.stdout.partition("\n[truncated: ")[0]) == 65536
    assert {file.name: file.size_bytes for file in answer.files} == {"stdout.txt": 1310720, "stderr.txt": 1310720}
    assert "�" in answer.stdout


@pytest.mark.parametrize(
    "make",
    [
        "os.symlink('/etc/passwd', 'result.json')",
        "os.symlink('/usr/lib/slipway/runner.py', 'result.json')",
        "os.mkfifo('result.json')",
        "os.mkdir('result.json')",
        "socket.socket(socket.AF_UNIX).bind('result.json')",
        "os.symlink('result.json', 'result.json')",
    ],
)
async def test_a_result_that_is_no_regular_file_is_refused(alice: Any, make: str) -> None:
    answer = await alice.python(f"import os, socket\n{make}")
    assert answer.error.code == "INVALID_RESULT"
    assert answer.output_json == ""


async def test_a_device_or_a_hard_link_to_the_outside_cannot_be_made(alice: Any) -> None:
    found = await outcomes(
        alice,
        "os.mknod('result.json', 0o20666, os.makedev(1, 5))",
        "os.link('/usr/lib/slipway/runner.py', 'result.json')",
        "os.link('/dev/zero', 'result.json')",
    )
    assert {outcome for outcome, _ in found.values()} == {"refused"}


async def test_a_result_longer_than_its_limit_is_refused(alice: Any) -> None:
    answer = await alice.python("open('result.json', 'w').write('\"' + 'x' * (1 << 20) + '\"')")
    assert answer.error.code == "OUTPUT_TOO_LARGE"


async def test_nothing_of_the_host_can_be_seen(alice: Any) -> None:
    found = await outcomes(
        alice,
        "sorted(os.listdir('/'))",
        "sorted(os.listdir('/dev'))",
        "os.listdir('/etc')",
        "open('/etc/shadow').read()",
        "open('/etc/passwd').read()",
        "os.listdir('/proc')",
        "open('/proc/1/environ').read()",
        "os.listdir('/sys')",
        "os.listdir('/root')",
        "os.listdir('/work/../home')",
        "dict(os.environ)",
        "sorted(os.listdir('/work'))",
        "(os.getuid(), os.getpid() < 10, os.uname().nodename)",
        "open('/usr/lib/x', 'w')",
        "open('/x', 'w')",
    )
    seen = {what: text for what, (outcome, text) in found.items() if outcome == "done"}
    assert seen == {
        "sorted(os.listdir('/'))": "['bin', 'dev', 'etc', 'lib', 'lib64', 'proc', 'run', 'sys', 'tmp', 'usr', 'work']",
        "sorted(os.listdir('/dev'))": "['null', 'random', 'urandom', 'zero']",
        "os.listdir('/etc')": "[]",
        "os.listdir('/proc')": "[]",
        "os.listdir('/sys')": "[]",
        "dict(os.environ)": "{}",
        "sorted(os.listdir('/work'))": "['main.py']",
        "(os.getuid(), os.getpid() < 10, os.uname().nodename)": "(1000, True, 'sandbox')",
    }


async def test_nothing_of_one_call_is_there_in_the_next(alice: Any) -> None:
    for _ in range(4):  # more than there are slots
        answer = await alice.python(
            "import json, os\n"
            "json.dump(sorted(os.listdir('/tmp')), open('result.json', 'w'))\n"
            "open('/tmp/left', 'w').write('secret')"
        )
        assert json.loads(answer.output_json) == ["main.py"]


async def test_there_is_no_network(alice: Any) -> None:
    found = await outcomes(
        alice,
        "socket.create_connection(('127.0.0.1', 80), 1)",
        "socket.create_connection(('169.254.169.254', 80), 1)",
        "socket.create_connection(('8.8.8.8', 53), 1)",
        "socket.getaddrinfo('example.com', 80)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)",
    )
    assert {outcome for outcome, _ in found.values()} == {"refused"}, found


async def test_an_abstract_unix_socket_of_the_host_is_out_of_reach(alice: Any) -> None:
    import socket

    name = "\0slipway-host-socket"
    with socket.socket(socket.AF_UNIX) as host:
        host.bind(name)
        host.listen()
        found = await outcomes(alice, f"socket.socket(socket.AF_UNIX).connect({name!r})")
        assert next(iter(found.values()))[0] == "refused"


# Numbers of x86-64: what the filter must stop, by name.
SYSCALLS = {
    "ptrace(TRACEME)": (101, 0, 0, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "unshare(NEWUSER)": (272, 0x10000000),
    "unshare(NEWNS)": (272, 0x20000),
    "setns": (308, 3, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "pivot_root": (155, 0, 0),
    "chroot": (161, 0),
    "open_tree": (428, -100, 0, 0),
    "fsopen": (430, 0, 0),
    "keyctl": (250, 0, -1, 0, 0, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "userfaultfd": (323, 0),
    "io_uring_setup": (425, 8, 0),
    "io_uring_enter": (426, 0, 0, 0, 0, 0),
    "memfd_create": (319, 0, 0),
    "shmget": (29, 0, 1 << 30, 0o1600),
    "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "personality": (135, 0x0400000),
    "setuid": (105, 0),
    "setgroups": (116, 0, 0),
    "clone(NEWUSER)": (56, 0x10000000 | 17, 0, 0, 0, 0),
    "clone3": (435, 0, 0),
    "name_to_handle_at": (303, -100, 0, 0, 0, 0),
    "open_by_handle_at": (304, -100, 0, 0),
    "pidfd_getfd": (438, 3, 0, 0),
    "seccomp": (317, 1, 0, 0),
    "prctl(SET_SECCOMP)": (157, 22, 2, 0, 0, 0),
    "prctl(SET_DUMPABLE)": (157, 4, 1, 0, 0, 0),
    "prlimit64(of the runner)": (302, 1, 9, 0, 0),
    "sched_setaffinity": (203, 0, 0, 0),
    "getpid of the x32 ABI": (0x40000000 | 39,),
    "a number that does not exist": (9999,),
}


async def test_the_system_calls_that_widen_the_kernels_surface_are_stopped(alice: Any) -> None:
    attempts = [f"syscall{numbers}" if len(numbers) > 1 else f"syscall({numbers[0]})" for numbers in SYSCALLS.values()]
    found = await outcomes(alice, *attempts)
    let_through = {
        name: found[attempt]
        for name, attempt in zip(SYSCALLS, attempts, strict=True)
        # EPERM and ENOSYS are the filter's answers: anything else came from the system call itself.
        if "PermissionError(1," not in found[attempt][1] and "OSError(38," not in found[attempt][1]
    }
    assert let_through == {}


async def test_the_32_bit_entry_to_the_kernel_kills(alice: Any) -> None:
    code = (
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"  # mov eax, 20 (getpid); int 0x80; ret
        "call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))\n"
        "open('result.json', 'w').write(str(call()))"
    )
    answer = await alice.python(code)
    # 31: SIGSYS; or the kernel was built without the entry.
    assert answer.exit_status in (128 + 31, 128 + 11), answer


async def test_the_first_process_of_the_sandbox_cannot_be_signalled_nor_starved(alice: Any) -> None:
    code = (
        "import os, signal, resource\n"
        "for n in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT):\n"
        "    try: os.kill(1, n)\n"
        "    except OSError: pass\n"
        "try: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))\n"
        "except OSError: pass\n"
        "open('result.json', 'w').write('\"survived\"')"
    )
    answer = await alice.python(code, timeout_seconds=20)
    assert answer.output_json == '"survived"'


async def test_the_report_of_the_runner_cannot_be_forged(alice: Any) -> None:
    code = (
        "import os\n"
        "for descriptor in range(3, 64):\n"
        "    try: os.write(descriptor, b'0 file 1\\n9')\n"
        "    except OSError: pass\n"
        "open('result.json', 'w').write('1')"
    )
    answer = await alice.python(code)
    assert answer.output_json == "1"


async def test_limits_are_hard_ones(alice: Any) -> None:
    names = ["AS", "CORE", "FSIZE", "MEMLOCK", "MSGQUEUE", "NOFILE", "NPROC", "RTPRIO", "STACK"]
    code = (
        "import json, resource\n"
        f"found = [resource.getrlimit(getattr(resource, 'RLIMIT_' + name)) for name in {names}]\n"
        "json.dump(found, open('result.json', 'w'))"
    )
    found = dict(zip(names, json.loads((await alice.python(code)).output_json), strict=True))
    mib = 1 << 20
    expected = [256 * mib, 0, 8 * mib, 0, 0, 256, 40, 0, 8 * mib]
    assert found == {name: [limit, limit] for name, limit in zip(names, expected, strict=True)}
