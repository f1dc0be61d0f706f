"""A local Ray has no authentication: nothing of it may listen beyond this host."""

import subprocess
import sys
import time
from pathlib import Path

from conftest import PATIENCE_S

CODE = """
import tempfile
from pathlib import Path
from posttrain.cluster.environment import prepare_ray
prepare_ray(None)
from posttrain.cluster.session import ClusterSession
from posttrain.config.pipeline import Cluster
with ClusterSession(Cluster(cpus=1), None, Path(tempfile.gettempdir())):
    input()
"""
LISTENING = "0A"


def listening_inodes():
    """Inode -> address (hex, as the kernel prints it) of every TCP socket that listens."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING:
                found[fields[9]] = fields[1].rpartition(":")[0]
    return found


def sockets_of(session: int):
    """Inodes of the sockets of every process in a session of processes."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[3]) != session:
                continue
            for link in (folder / "fd").iterdir():
                target = str(link.readlink())
                if target.startswith("socket:["):
                    yield target[8:-1]
        except OSError:
            continue


def test_a_local_session_listens_on_loopback_only():
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + PATIENCE_S
        while not _has_raylet(process.pid):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        known = listening_inodes()
        addresses = {known[i] for i in sockets_of(process.pid) if i in known}
    finally:
        process.communicate("\n", timeout=PATIENCE_S)
    assert process.returncode == 0 and addresses
    mapped = "0000000000000000FFFF00000100007F"  # 127.0.0.1 as an IPv6 address
    loopback = {"0100007F", "00000000000000000000000001000000", mapped}
    assert addresses <= loopback


def _has_raylet(session: int) -> bool:
    """Whether Ray's last server to start has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            own = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[3]) == session
        except OSError:
            continue
        if own and b"raylet" in words and b"agent" not in words.split(b"\0")[0]:
            return True
    return False
