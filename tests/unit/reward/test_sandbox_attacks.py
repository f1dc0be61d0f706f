"""Programs that want out, to stay, or to use up the machine: each is contained, the host unharmed.

Run in every launcher that works here; `-v` says which.
"""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from posttrain.reward.sandbox import Limits, launchers, run_python

ROOT = Path(__file__).parents[3]
REWARD = ROOT / "rewards" / "code.py"
# On the command line of everything in these boxes, and of nothing else.
LIMITS = Limits(wall_s=20.0, memory_mb=257 + os.getpid() % 251)

LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
CALL = LIBC + "if libc.{} != 0: raise OSError(ctypes.get_errno())"

PROBES = {
    "secret in the environment": "os.environ['POSTTRAIN_TEST_SECRET']",
    "secret of the process before": "open('/proc/1/environ').read()",
    "file of the host": "open({marker!r}).read()",
    "list the host's folder": "os.listdir(os.path.dirname({marker!r}))",
    "file through a link": "os.symlink({marker!r}, 'link'); open('link').read()",
    "write through a link": "os.symlink({reward!r}, 'link'); open('link', 'w').write('x')",
    "link a folder over our own": "os.symlink('/', 'up'); os.listdir('up/proc')",
    "climb out": "os.chdir('/..'); os.listdir('../../../proc')",
    "write the reward": "open({reward!r}, 'a').write('x')",
    "write the root": "open('/new', 'w')",
    "write the library": "open(os.__file__, 'a')",
    "delete the library": "os.remove(os.__file__)",
    "users": "open('/etc/passwd').read()",
    "site-packages": "os.listdir(os.path.dirname(os.__file__) + '/site-packages')[0]",
    "loopback": "socket.create_connection(('127.0.0.1', {port}), 2)",
    "any internet socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "raw socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "the virtual machine's host": "socket.socket(socket.AF_VSOCK)",
    "kernel's socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "memory device": "open('/dev/mem', 'rb')",
    "disk device": "open('/dev/vda', 'rb')",
    "terminal": "open('/dev/tty', 'w')",
    "make a device": "os.mknod('disk', 0o60600, os.makedev(254, 0)); open('disk', 'rb')",
    "become root": "os.setuid(0)",
    "another root": "os.chroot('.')",
    "mount": CALL.format("mount(b'x', b'/box', b'tmpfs', 0, None)"),
    "new user namespace": CALL.format("unshare(0x10000000)"),
    "new namespace by clone": LIBC
    + "number = 56 if os.uname().machine == 'x86_64' else 220\n"
    + "if libc.syscall(number, 0x10000011, 0, 0, 0, 0) < 0: raise OSError",
    "trace the parent": CALL.format("ptrace(16, os.getppid(), 0, 0)"),
    "trace process 1": CALL.format("ptrace(16, 1, 0, 0)"),
    "read another's memory": LIBC + "if libc.process_vm_readv(1, 0, 0, 0, 0, 0) < 0: raise OSError",
    "memory that no limit counts": "os.memfd_create('x')",
    "a shell": "if os.system('echo x') != 0: raise OSError",
    "more memory": "bytearray(1 << 30)",
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "raise the limit": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "fill the disk": "open('x', 'wb').write(bytes(17 << 20))",
    "fill the disk with many files": "for n in range(40): open(str(n), 'wb').write(bytes(1 << 20))",
    "threads": "for n in range(99): threading.Thread(target=time.sleep, args=(9,)).start()",
    "processes": "for n in range(50): os.fork() or time.sleep(30)",
    "many open files": "files = [os.dup(1) for _ in range(2000)]",
    "endless recursion": "f = lambda: f()\nf()",
}  # fmt: skip

ENDLESS = {
    "sleep": "time.sleep(1000)",
    "sleep and ignore signals": "for n in range(1, 65):\n"
    "    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass\n"
    "    except ValueError: pass\ntime.sleep(1000)",
    "close everything and compute": "os.closerange(0, 1024)\nwhile True: pass",
    "fork bomb": "while True:\n    try: os.fork()\n    except OSError: pass",
    "huge number": "9 ** 9 ** 9",
    "deep recursion": "sys.setrecursionlimit(1 << 30)\nf = lambda: f()\nf()\ntime.sleep(1000)",
    "kill all others": "signal.signal(15, signal.SIG_IGN)\n"
    "for pid in (-1, os.getppid()):\n"
    "    try: os.kill(pid, 9)\n    except OSError: pass\ntime.sleep(1000)",
}

LEFT_BEHIND = {
    "daemon": "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(1000)",
    "child holding the pipes": "if os.fork() == 0: time.sleep(1000)",
    "leave at once": "if os.fork() == 0: time.sleep(1000)\nos._exit(0)",
}


@pytest.fixture(params=launchers() or ["none"])
def launcher(request):
    if request.param == "none":
        pytest.skip("no sandbox works here")
    return request.param


@pytest.fixture
def host(tmp_path, monkeypatch):
    """What must not change, and what must not be found."""
    monkeypatch.setenv("POSTTRAIN_TEST_SECRET", "secret")
    marker = tmp_path / "marker"
    marker.write_text("secret")
    before = hashlib.sha256(REWARD.read_bytes()).digest()
    bystander = os.fork()
    if bystander == 0:
        signal.pause()
        os._exit(0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield {"marker": str(marker), "reward": str(REWARD), "port": server.getsockname()[1]}
        with pytest.raises(BlockingIOError):
            server.accept()
    assert marker.read_text() == "secret"
    assert list(tmp_path.iterdir()) == [marker]
    assert hashlib.sha256(REWARD.read_bytes()).digest() == before
    assert os.waitpid(bystander, os.WNOHANG) == (0, 0), "a process of the host was killed"
    os.kill(bystander, signal.SIGKILL)
    os.waitpid(bystander, 0)
    assert left_over() == []


def in_boxes():
    """Processes of our boxes."""
    text = b" " + str(LIMITS.memory_mb << 20).encode() + b","
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended while we looked
            content = path.read_bytes()
            if b"posttrain.reward.sandbox" in content and text in content:
                found.append(path.parent.name)
    return found


def left_over():
    """Those that are still there after a while."""
    deadline = time.monotonic() + 20
    while (found := in_boxes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def indented(code):
    return "".join(f"    {line}\n" for line in code.splitlines())


IMPORTS = "import os, signal, socket, sys, threading, time\n"


@pytest.mark.parametrize("name", PROBES)
def test_what_is_out_of_reach_is_refused(name, launcher, host):
    code = PROBES[name]
    code = code if code.startswith("import ctypes") else code.format(**host)
    program = f"{IMPORTS}try:\n{indented(code)}except BaseException as error:\n"
    program += "    print('refused', type(error).__name__, flush=True)\nelse:\n"
    program += "    print('escaped', flush=True)\nos._exit(0)"
    outcome = run_python(program, limits=LIMITS, launcher=launcher)
    assert outcome.killed_by == ""
    words = {line.split()[0] for line in outcome.stdout.splitlines()}
    assert words == {"refused"}, outcome


@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_is_ended(name, launcher, host):
    limits = Limits(wall_s=3.0, memory_mb=LIMITS.memory_mb)
    begun = time.monotonic()
    outcome = run_python(IMPORTS + "print('begun', flush=True)\n" + ENDLESS[name],
                         limits=limits, launcher=launcher)  # fmt: skip
    assert outcome.stdout == "begun\n"
    assert outcome.killed_by == "time" or outcome.exit_code not in (0, None)
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_a_program_started_ends_with_it(name, launcher, host):
    outcome = run_python(IMPORTS + LEFT_BEHIND[name], limits=LIMITS, launcher=launcher)
    assert (outcome.killed_by, outcome.exit_code) == ("", 0)
    assert outcome.seconds < LIMITS.wall_s


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output_is_cut_off(stream, launcher, host):
    program = f"import sys\nwhile True: sys.{stream}.write('x' * 1000)"
    outcome = run_python(program, limits=LIMITS, launcher=launcher)
    assert (outcome.killed_by, outcome.exit_code) == ("output", None)
    assert len(getattr(outcome, stream)) == LIMITS.output_bytes
    assert outcome.seconds < LIMITS.wall_s


def test_a_box_ends_with_the_process_that_started_it(launcher):
    program = (
        "from posttrain.reward.sandbox import Limits, run_python\n"
        f"limits = Limits(wall_s=60.0, memory_mb={LIMITS.memory_mb})\n"
        f"run_python('import time; time.sleep(60)', limits=limits, launcher={launcher!r})\n"
    )
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program], env=paths) as owner:
        deadline = time.monotonic() + 20
        while not in_boxes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert in_boxes() and owner.poll() is None
        owner.kill()
    assert left_over() == []
