"""The system calls that a program in the sandbox may make, as a Kafel policy for nsjail.

An allow list: whatever is not named answers ENOSYS, so that libraries fall back as on an older kernel. What people
try on purpose answers EPERM and reads as "Operation not permitted". `clone3` passes its flags in memory, where the
filter can't look, so it must not exist. Foreign ABIs are stopped too: Kafel kills calls of another architecture, and
x32 numbers are in no list.

Nothing may watch files: the root and the devices are the same for all sandboxes (and the devices for the host), so that
inotify shows what others open, and its instances are counted for the user who made the namespace, not for its own.
The names are Kafel's, which keeps the kernel's older ones (`newstat`).
"""

import platform

from slipway_tools.sandbox.errors import SandboxUnavailable

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NAMESPACE_FLAGS = 0x7E020000
_TERMINAL_QUERIES = (
    0x5401,
    0x5413,
    0x5421,
    0x541B,
    0x5450,
    0x5451,
)  # TCGETS TIOCGWINSZ FIONBIO FIONREAD FIONCLEX FIOCLEX
_WATCHING = (0x400, 0x402)  # F_SETLEASE F_NOTIFY
_PRCTL = (1, 2, 3, 15, 16, 0x53564D41)  # PDEATHSIG (set, get), GET_DUMPABLE, NAME (set, get), SET_VMA

_ALLOWED = """
brk mmap mprotect munmap mremap madvise mincore msync membarrier mlock munlock
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range
openat openat2 dup dup3 flock fsync fdatasync ftruncate truncate fallocate fadvise64 sync_file_range
newfstat newfstatat statx statfs fstatfs faccessat faccessat2 getcwd chdir fchdir getdents64
mkdirat unlinkat renameat renameat2 linkat symlinkat readlinkat mknodat fchmod fchmodat fchmodat2 fchown fchownat
utimensat umask copy_file_range sendfile64 splice tee vmsplice getxattr lgetxattr fgetxattr listxattr llistxattr
flistxattr pipe2 eventfd2 epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 ppoll pselect6 timerfd_create timerfd_settime
timerfd_gettime signalfd4
socketpair bind listen accept accept4 connect shutdown getsockname getpeername sendto recvfrom sendmsg recvmsg
sendmmsg recvmmsg setsockopt getsockopt
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo
sigaltstack restart_syscall kill tkill tgkill pidfd_open pidfd_send_signal
execve execveat exit exit_group wait4 waitid set_tid_address set_robust_list get_robust_list rseq
futex sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min
getpriority clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday times getitimer setitimer
timer_create timer_settime timer_gettime timer_getoverrun timer_delete
getpid getppid gettid getpgid getsid setpgid setsid getuid geteuid getgid getegid getresuid getresgid getgroups
getrlimit setrlimit getrusage sysinfo newuname getrandom getcpu
open creat newstat newlstat access dup2 pipe poll select fork vfork getpgrp getdents mkdir rmdir unlink rename link
symlink readlink mknod chmod chown lchown utime utimes futimesat time alarm pause eventfd epoll_create epoll_wait
signalfd arch_prctl
"""

_REFUSED = """
ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd unshare setns mount umount pivot_root chroot move_mount
open_tree fsopen fsconfig fsmount fspick mount_setattr keyctl add_key request_key bpf perf_event_open userfaultfd
io_uring_setup io_uring_enter io_uring_register kexec_load kexec_file_load init_module finit_module delete_module reboot
swapon swapoff sethostname setdomainname settimeofday clock_settime clock_adjtime adjtimex acct quotactl syslog
setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capset seccomp personality
name_to_handle_at open_by_handle_at fanotify_init fanotify_mark memfd_create memfd_secret shmget shmat shmctl shmdt
msgget msgsnd msgrcv msgctl semget semop semctl mq_open mq_unlink setpriority sched_setaffinity sched_setscheduler
sched_setparam sched_setattr ioprio_set mbind set_mempolicy migrate_pages move_pages vhangup nfsservctl lookup_dcookie
inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
"""


def policy(machine: str | None = None, *, network: bool = False) -> str:
    """Return the Kafel policy for `machine` (default: this one); `network` lets programs connect by TCP over IPv4.

    Raises:
        SandboxUnavailable: no list of system calls is known for that machine.
    """
    machine = machine or platform.machine()
    if machine != "x86_64":
        raise SandboxUnavailable(f"the sandbox has no system-call policy for {machine} machines, only for x86_64")
    rules = ",\n    ".join(
        [
            *_ALLOWED.split(),
            f"clone(flags) {{ (flags & {_NAMESPACE_FLAGS:#x}) == 0 }}",
            # AF_UNIX, AF_INET; vsock and netlink would reach out of a network namespace
            f"socket(domain, type) {{ domain == 1{' || (domain == 2 && (type & 0xf) == 1)' if network else ''} }}",
            f"ioctl(fd, request) {{ {_any('request', _TERMINAL_QUERIES)} }}",
            f"prctl(option) {{ {_any('option', _PRCTL)} }}",
            "prlimit64(pid) { pid == 0 }",
            f"fcntl(fd, command) {{ {' && '.join(f'command != {value:#x}' for value in _WATCHING)} }}",
        ]
    )
    refused = ", ".join(_REFUSED.split())
    return f"""POLICY slipway {{
  ALLOW {{
    {rules}
  }},
  ERRNO(38) {{ clone3 }},
  ERRNO(1) {{ {refused}, clone, socket, ioctl, prctl, prlimit64, fcntl }}
}}
USE slipway DEFAULT ERRNO(38)
"""


def _any(name: str, values: tuple[int, ...]) -> str:
    return " || ".join(f"{name} == {value:#x}" for value in values)
