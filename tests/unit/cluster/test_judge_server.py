"""The server's life, with a stand-in for vLLM: a few lines that answer /health."""

import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from posttrain.cluster.judge_server import JudgeServer
from posttrain.errors import DeadlineExceeded, EngineFailed
from posttrain.ports import EngineSpec

SPEC = EngineSpec("/models/m", 128, "fp32", 64, True, 32, 4)
SERVER = """
import http.server, os, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = os.environ["VLLM_API_KEY"].encode()
        self.send_response(200); self.send_header("Content-Length", str(len(text)))
        self.end_headers(); self.wfile.write(text)
child = subprocess.Popen(["sleep", "1000"])
print("child", child.pid, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
STARTER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_judge_server import stand_in
stand_in(Path(sys.argv[2])).start()
print("started", flush=True)
time.sleep(1000)
"""


class StandIn(JudgeServer):
    program = SERVER

    def _command(self):
        return [sys.executable, "-c", self.program, str(self._port)]


def stand_in(log, program=SERVER, **settings):
    server = StandIn(SPEC, "judge@1", log, **settings)
    server.program = program
    return server


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid, within_s=20.0):
    deadline = time.monotonic() + within_s
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


def test_it_ends_where_a_raylet_kills_its_worker_s_children(tmp_path):
    """The worker dies, and at the same moment whoever it had started itself."""
    server = stand_in(tmp_path / "judge.log")
    server.start()
    child = child_of(tmp_path / "judge.log")
    os.kill(server._process.pid, signal.SIGKILL)
    os.close(server._pipe)
    server._pipe = -1
    try:
        assert gone(child)
    finally:
        server.stop()


def child_of(log):
    return int(log.read_text().split()[1])


def test_it_answers_inside_the_block_and_is_gone_behind_it(tmp_path):
    log = tmp_path / "logs" / "judge.log"
    with stand_in(log) as judge:
        key = os.environ[judge.api_key_env]
        assert judge.environment == {judge.api_key_env: key} and len(key) > 30
        assert judge.settings == {
            "endpoint": judge.endpoint,
            "model": "judge@1",
            "api_key_env": judge.api_key_env,
        }
        with urllib.request.urlopen(judge.endpoint, timeout=10) as response:
            assert response.read().decode() == key
        child = child_of(log)
        assert is_alive(child)
    assert gone(child) and judge.api_key_env not in os.environ


def test_a_server_that_ends_says_why(tmp_path):
    log = tmp_path / "judge.log"
    broken = stand_in(log, "raise ValueError('no such model')")
    with pytest.raises(EngineFailed, match="ended before it answered: ValueError: no such model"):
        broken.start()
    assert broken.api_key_env not in os.environ


def test_a_server_that_does_not_come_up_is_named_and_ended(tmp_path):
    slow = stand_in(tmp_path / "log", "import time; time.sleep(1000)", start_timeout_s=0.5)
    with pytest.raises(DeadlineExceeded, match=r"waited 0\.5 s for the server of judge `judge@1`"):
        slow.start()
    assert slow._process is None


def test_it_does_not_outlive_who_started_it(tmp_path):
    log = tmp_path / "judge.log"
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, os.path.dirname(__file__), str(log)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert starter.stdout.readline() == b"started\n"
    child = child_of(log)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    assert gone(child)


def test_vllm_is_told_what_the_spec_says_and_the_key_by_the_environment_only(tmp_path):
    server = JudgeServer(SPEC, "judge@1", tmp_path / "log", gpus=["2", "3"])
    line = " ".join(server._command())
    assert "-m vllm.entrypoints.openai.api_server --model /models/m" in line
    assert "--served-model-name judge@1 --host 127.0.0.1" in line
    assert "--kv-cache-memory-bytes 67108864 --block-size 32" in line
    environment = server._environment()
    assert environment["VLLM_API_KEY"] and environment["VLLM_API_KEY"] not in line
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment
