"""How nsjail closes a program off: what of the host is there, which system calls, which limits.

What hostile programs achieve against it is tested in tests/hostile.
"""

import json
from typing import Any

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


async def test_a_device_or_a_hard_link_to_the_outside_cannot_be_made(alice: Any) -> None:
    found = await outcomes(
        alice,
        "os.mknod('result.json', 0o20666, os.makedev(1, 5))",
        "os.link('/usr/lib/slipway/runner.py', 'result.json')",
        "os.link('/dev/zero', 'result.json')",
    )
    assert {outcome for outcome, _ in found.values()} == {"refused"}


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
