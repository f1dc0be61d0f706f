import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.errors import RewardBroken
from posttrain.reward.worker import RewardPool
from posttrain.types import Score

REWARD = """
import os, re, time
from posttrain.config.strict import StrictModel
from posttrain.types import Score

class Config(StrictModel):
    right: float = 1.0

def gold(config): return []
def bad(config): return []

def score(row, completion, config):
    print("a secret")
    if completion == "sleep":
        time.sleep(60)
    if completion == "backtrack":  # holds the interpreter's lock: only a signal ends it
        re.match(r"(a+)+$", "a" * 40 + "b")
    if completion == "raise":
        raise ValueError("cannot parse")
    if completion == "nan":
        return Score(float("nan"))
    if completion == "exit":
        os._exit(3)
    if completion == "once" and not os.path.exists(row["flag"]):
        open(row["flag"], "w").close()
        raise OSError("disk full")
    if completion == "pid":
        return Score(float(os.getpid()))
    return Score(config.right if completion == row.get("answer") else 0.0)
"""


@pytest.fixture
def reward(tmp_path):
    path = tmp_path / "flaky.py"
    path.write_text(REWARD)
    return str(path)


def messages(outcomes):
    return [o.message if isinstance(o, RewardBroken) else o.value for o in outcomes]


def test_shipped_reward_in_order():
    with RewardPool("arithmetic", {}, 5.0) as pool:
        outcomes = pool.score([{"answer": "85"}, {"answer": "85"}], ["7+8=15 85", "84"])
    assert outcomes == [Score(1.0, passed=True), Score(0.0, passed=False)]


def test_what_breaks_is_told_and_the_rest_is_scored(reward, capfd):
    answers = ["good", "raise", "nan", "sleep", "bad", "exit", "good"]
    with RewardPool(reward, {"right": 10}, 0.4) as pool:
        outcomes = pool.score([{"answer": "good"}] * len(answers), answers)
    assert messages(outcomes) == [
        10.0,
        "score() raised ValueError: cannot parse",
        "score() returned nan as value, not a finite number",
        "no score within 0.4 s; its process was killed",
        0.0,
        "its process died while scoring",
        10.0,
    ]
    assert "secret" not in "".join(capfd.readouterr())


def test_a_reward_that_holds_the_interpreter_is_killed(reward):
    start = time.monotonic()
    with RewardPool(reward, {}, 0.3) as pool:
        outcomes = pool.score([{}], ["backtrack"])
    assert messages(outcomes) == ["no score within 0.3 s; its process was killed"]
    assert time.monotonic() - start < 10


def test_one_failure_is_forgiven(reward, tmp_path):
    row = {"answer": "once", "flag": str(tmp_path / "flag")}
    with RewardPool(reward, {}, 5.0) as pool:
        assert messages(pool.score([row], ["once"])) == [1.0]


def test_several_workers_keep_the_order(reward):
    with RewardPool(reward, {}, 5.0, workers=2) as pool:
        rows = [{"answer": str(i % 2)} for i in range(7)]
        assert messages(pool.score(rows, ["1"] * 7)) == [0, 1, 0, 1, 0, 1, 0]
        assert len(set(messages(pool.score([{}] * 2, ["pid"] * 2)))) == 2
        assert pool.score([], []) == []


def test_a_reward_that_cannot_be_loaded_says_why(tmp_path):
    (tmp_path / "bad.py").write_text("import nothing_like_it\n")
    for name, settings, message in (
        (str(tmp_path / "bad.py"), {}, "nothing_like_it"),
        ("arithmetic", {"colour": "red"}, "colour"),
        ("no_such_reward", {}, "no_such_reward"),
    ):
        with RewardPool(name, settings, 5.0) as pool, pytest.raises(RewardBroken, match=message):
            pool.score([{}], ["x"])


def test_closing_leaves_no_process(reward):
    pool = RewardPool(reward, {}, 5.0)
    pid = int(messages(pool.score([{}], ["pid"]))[0])
    pool.close()
    assert not Path(f"/proc/{pid}").exists()


def test_no_child_outlives_a_killed_parent(reward):
    code = (
        "import sys, time\n"
        "from posttrain.reward.worker import RewardPool\n"
        f"pool = RewardPool({reward!r}, {{}}, 5.0)\n"
        "print(int(pool.score([{}], ['pid'])[0].value), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and is_running(child):
        time.sleep(0.02)
    alive = is_running(child)
    if alive:
        os.kill(child, signal.SIGKILL)
    assert not alive


def is_running(pid):
    """Not gone, and not a zombie that waits for whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
