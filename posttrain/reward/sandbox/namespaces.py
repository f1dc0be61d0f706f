"""Our own launcher: new namespaces and an almost empty root. Runs as text, with nothing of ours
around it; Linux 5.12 or newer.

`enter` returns only in process 1 of a new process namespace: when that ends, so does all it
started. Its root is a small read-only tmpfs that holds what was bound into it, and /box, the one
place to write. Of the network not even the loopback device is there, and no /proc.

Root needs no user namespace: it makes the others by right and gives its rights up afterwards (see
`confine`). Everybody else gets one, in which they are user 65534.
"""

from __future__ import annotations

import ctypes
import os
import select

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _SIGKILL = 1, 4, 9
_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_REST = _NEWNS | _NEWCGROUP | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
_NOSUID, _NODEV, _REMOUNT, _RDONLY, _BIND, _REC, _PRIVATE = 2, 4, 32, 1, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SYS_MOUNT_SETATTR = 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)


def enter(
    parent: int,
    binds: list[str],
    empty: list[str],
    links: list[tuple[str, str]],
    box_bytes: int,
    keep: tuple[int, ...],
) -> None:
    """Become process 1 of a box. `keep`: descriptors that only the box shall hold.

    binds: paths that are there as outside, read-only; empty: folders of them shown empty.
    Raises OSError where the kernel refuses; the parent's process ends with the box's exit status.
    """
    _die_with(parent)
    _prefer_for_oom()
    _unshare()
    _mount("none", "/", "", _REC | _PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    os.mkdir("/tmp/old")
    _check(_libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], b"/tmp", b"/tmp/old"), "pivot_root")
    os.chdir("/")
    for path in binds:
        _bind(path)
    for path in empty:
        _mount("tmpfs", path, "tmpfs", _NOSUID | _NODEV | _RDONLY, "size=4k,mode=755")
    for path, target in links:
        os.symlink(target, path)
    os.symlink("/box", "/tmp")
    os.mkdir("/box")
    options = f"size={box_bytes},nr_inodes=1024,mode=700,uid={_NOBODY},gid={_NOBODY}"
    _mount("tmpfs", "/box", "tmpfs", _NOSUID | _NODEV, options)
    _check(_libc.umount2(b"/old", _MNT_DETACH), "umount")
    os.rmdir("/old")
    _mount("tmpfs", "/", "", _REMOUNT | _RDONLY | _NOSUID | _NODEV)
    os.chdir("/box")
    _become_process_1(keep)


def die_with_parent() -> None:
    """Be killed when the process that started this one ends. Changing the user undoes it."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "prctl")


def _die_with(parent: int) -> None:
    die_with_parent()
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _prefer_for_oom() -> None:
    """Where memory runs out, the kernel shall take the box, not the run."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _unshare() -> None:
    """New namespaces; a user namespace too, where the others may be had only with one."""
    if os.geteuid() == 0:
        if _libc.unshare(_REST) == 0:
            return
        # Root without the right to. It stops being root first: of root the kernel counts no
        # processes, in whatever namespace.
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")  # else /proc/self is root's
        die_with_parent()
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_NEWUSER | _REST), "unshare")
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{_NOBODY} {uid} 1"),
        ("gid_map", f"{_NOBODY} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def _bind(path: str) -> None:
    """Show a file or folder of the old root at the same place, read-only with all below it."""
    source = f"/old{path}"
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o444))
    _mount(source, path, "", _BIND | _REC)
    is_device = path.startswith("/dev/")
    attributes = (ctypes.c_uint64 * 4)(_RDONLY | _NOSUID | (0 if is_device else _NODEV), 0, 0, 0)
    size = ctypes.sizeof(attributes)
    done = _libc.syscall(
        _SYS_MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, ctypes.byref(attributes), size
    )
    _check(done, f"mount_setattr {path}")


def _become_process_1(keep: tuple[int, ...]) -> None:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child:
        for descriptor in (*keep, 0, 1, 2):
            os.close(descriptor)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    os.close(write_end)
    die_with_parent()
    if select.select([read_end], [], [], 0)[0]:  # the parent died before we asked
        os._exit(1)
    os.close(read_end)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = [text.encode() or None for text in (source, target, kind)]
    done = _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None)
    _check(done, f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
