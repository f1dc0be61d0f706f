"""The ways to make a box, best first: bubblewrap, our own namespaces, and none at all.

Each is a command that becomes the boxed program. Whichever works is found out by running a program
in it, once per process: what a kernel or a container allows cannot be told from its version.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from posttrain.reward.sandbox.limits import Limits

_OURS = "posttrain.reward.sandbox"
_NOBODY = "65534"
_MIB = 1 << 20
# Where memory runs out, the kernel shall take the box, not the run.
_FIRST_FOR_OOM = 'echo 1000 > /proc/self/oom_score_adj; exec "$@"'

Command = Callable[[Limits, int, Sequence[int]], list[str]]


def assemble(modules: Sequence[str], call: str) -> str:
    """A program of some of this package's files and a last line; needs nothing of ours around it.

    Each file is a module under its own name, so that it may import those before it.
    """
    texts = [(f"{_OURS}.{name}", _text(name)) for name in modules]
    return (
        "import sys\n"
        f"for name, text in {texts!r}:\n"
        "    module = sys.modules[name] = type(sys)(name)\n"
        "    exec(compile(text, name, 'exec'), module.__dict__)\n"
        f"{call}\n"
    )


@cache
def _text(name: str) -> str:
    """Read once: both sides of a judgement stay of one version, whatever happens to the files."""
    return (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")


def bubblewrap(limits: Limits, program: int, keep: Sequence[int]) -> list[str]:
    """`bwrap`. Started by root it keeps the one right that is needed to stop being root."""
    binds, empty, links = _root()
    command = ["/bin/sh", "-c", _FIRST_FOR_OOM, "sh", shutil.which("bwrap") or "bwrap"]
    command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if os.geteuid() == 0:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY]
    for path in _parents(binds):
        command += ["--perms", "0755", "--dir", path]  # else as closed as outside
    for path in binds:
        kind = "--dev-bind" if path.startswith("/dev/") else "--ro-bind"
        command += [kind, path, path]
    for path in empty:
        command += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
    for path, target in links:
        command += ["--symlink", target, path]
    command += ["--symlink", "/box", "/tmp", "--size", str(limits.disk_mb * _MIB)]
    command += ["--perms", "1777", "--tmpfs", "/box", "--chdir", "/box", "--remount-ro", "/"]
    return [*command, "--", *_python(_confine(limits, program, isolated=True))]


def namespaces(limits: Limits, program: int, keep: Sequence[int]) -> list[str]:
    """Our own launcher: the same box without bubblewrap. See `namespaces.py`."""
    binds, empty, links = _root()
    parts = (os.getpid(), binds, empty, links, limits.disk_mb * _MIB, (program, *keep))
    enter = f"sys.modules[{_OURS + '.namespaces'!r}].enter{parts!r}"
    return _python(_confine(limits, program, isolated=True, before=enter))


def bare(limits: Limits, program: int, keep: Sequence[int]) -> list[str]:
    """No box: limits on resources, nothing else."""
    return _python(_confine(limits, program, isolated=False))


LAUNCHERS: dict[str, Command] = {"bwrap": bubblewrap, "namespaces": namespaces}


def _confine(limits: Limits, program: int, *, isolated: bool, before: str = "") -> str:
    parts = (
        program,
        isolated,
        limits.cpu_s,
        limits.memory_mb * _MIB,
        limits.disk_mb * _MIB,
        limits.open_files,
        limits.processes,
    )
    modules = ["namespaces", "confine"] if before else ["confine"]
    return assemble(modules, f"{before}\nsys.modules[{_OURS + '.confine'!r}].run{parts!r}")


def _python(text: str) -> list[str]:
    """Without environment, site-packages and compiled files of its own."""
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", "-X", "utf8", "-c", text]


@cache
def _root() -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Paths that a Python needs, folders of them shown empty, and links of the root."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    standard = os.path.realpath(os.path.dirname(os.__file__))
    shared = (sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
    wanted = [
        "/usr/lib",
        "/usr/lib64",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
        standard,
        os.path.join(sys.base_exec_prefix, "lib", version),
        os.path.realpath(sys.executable),
        os.path.join(*shared) if all(shared) else "",
    ]
    links = [(path, os.readlink(path)) for path in wanted if _is_link_of_root(path)]
    binds: list[str] = []
    for path in wanted:
        path = os.path.realpath(path) if path else ""
        inside = any(path == each or path.startswith(each + "/") for each in binds)
        if path and os.path.exists(path) and not inside:
            binds.append(path)
    binds += ["/dev/null", "/dev/urandom"]
    folders = [os.path.join(standard, name) for name in ("site-packages", "dist-packages")]
    return binds, [path for path in folders if os.path.isdir(path)], links


def _parents(paths: Sequence[str]) -> list[str]:
    """The folders above some paths, outermost first."""
    return sorted({str(folder) for path in paths for folder in Path(path).parents} - {"/"})


def _is_link_of_root(path: str) -> bool:
    return path.count("/") == 1 and os.path.islink(path)
