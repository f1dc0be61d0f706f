"""What a program gives up before it runs, whichever launcher made its box. Runs as text.

Limits on what it may use; the rights of root and any other; and, by a seccomp filter, the system
calls that reach past namespaces or into other processes: new namespaces and mounts, tracing,
sockets other than between the box's own processes (a virtual machine's host is one socket away),
memory that no limit counts.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys

_PR_SET_DUMPABLE, _PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 1, 22, 38
_NEWUSER = 0x10000000
_NEW_ANY = 0x7E020000  # every namespace flag that clone() takes
_NOBODY = 65534
_CAPABILITY_VERSION_3 = 0x20080522

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_KILL, _ALLOW, _REFUSE, _UNKNOWN = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026
_X32 = 0x40000000
_CLONE3 = 435  # its flags lie in memory, where a filter cannot look; libc falls back to clone
_AF_UNIX = 1

# io_uring, open_tree .. fspick, pidfd_getfd, process_madvise, mount_setattr, memfd_secret
_DENIED_EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 440, 442, 447)
# Per machine: the audit number, clone, socket, and what is denied: ptrace, process_vm_readv and
# _writev, kcmp, mount, umount2, pivot_root, chroot, unshare, setns, bpf, perf_event_open,
# userfaultfd, add_key, request_key, keyctl, memfd_create, personality, kexec_load, init_module,
# finit_module, delete_module, reboot, open_by_handle_at, shmget, msgget, semget, mq_open
_MACHINES = {
    "x86_64": (
        0xC000003E, 56, 41,
        (101, 310, 311, 312, 165, 166, 155, 161, 272, 308, 321, 298, 323, 248, 249, 250, 319, 135,
         246, 175, 313, 176, 169, 304, 29, 68, 64, 240),
    ),
    "aarch64": (
        0xC00000B7, 220, 198,
        (117, 270, 271, 272, 40, 39, 41, 51, 97, 268, 280, 241, 282, 217, 218, 219, 279, 92,
         104, 105, 273, 106, 142, 265, 194, 186, 190, 180),
    ),
}  # fmt: skip


def run(
    program_fd: int,
    isolated: bool,
    cpu_s: int,
    memory: int,
    file_bytes: int,
    open_files: int,
    processes: int,
) -> None:
    """Give everything up, then run the program that lies in `program_fd` as `__main__`."""
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: open_files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if isolated:
        limits[resource.RLIMIT_NPROC] = processes
    if isolated:
        _give_up_rights()
    for name, most in limits.items():  # a new user namespace would hand them to the one above
        resource.setrlimit(name, (most, most))
    with open(program_fd, "rb") as file:  # the box has begun: its owner sees the file's position
        program = file.read()
    # Nothing of this file stays within the program's reach by name.
    sys.modules.pop(__name__, None)
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    sys.argv = ["program"]
    exec(compile(program, "<program>", "exec"), main.__dict__)


def _give_up_rights() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        # In a user namespace of its own the number of processes is counted for this box alone.
        # Where the kernel has none to give, all boxes share one count.
        libc.unshare(_NEWUSER)
        if os.getpid() == 1:  # a change of user undid what the launcher had asked for
            _check(libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _check(libc.capset(header, bytes(24)), "capset")
    _check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _install_filter(libc)


def _install_filter(libc: ctypes.CDLL) -> None:
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise OSError(f"no system-call filter for {machine}")
    rules = _filter(*_MACHINES[machine])
    code = ctypes.create_string_buffer(rules)
    program = struct.pack("HxxxxxxQ", len(rules) // 8, ctypes.addressof(code))
    _check(libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0), "seccomp")


def _filter(architecture: int, clone: int, socket: int, denied: tuple[int, ...]) -> bytes:
    """The rules as the kernel reads them: (operation, skip if true, skip if false, operand)."""
    rules = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE),
        (_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _UNKNOWN),
    ]  # fmt: skip
    for number in (*_DENIED_EVERYWHERE, *denied):
        rules += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    rules += [
        (_EQUAL, 0, 4, clone), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 1, _NEW_ANY),
        (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW),
        (_EQUAL, 0, 4, socket), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 1, 0, _AF_UNIX),
        (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ALLOW),
    ]  # fmt: skip
    return b"".join(struct.pack("HBBI", *rule) for rule in rules)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
