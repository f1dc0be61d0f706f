import os
import re
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
    found = messages(outcomes)
    assert re.fullmatch(r"score\(\) raised ValueError: cannot parse \(.*\.py:\d+\)", found.pop(1))
    assert found == [
        10.0,
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
    assert time.monotonic() - start < 60


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


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_process_killed_before_it_is_ready_is_started_again_but_not_for_ever(tmp_path, deaths):
    tally = tmp_path / "starts"
    dying = (
        "import os, signal\n"
        f"open({str(tally)!r}, 'a').write('x')\n"
        f"if os.path.getsize({str(tally)!r}) <= {deaths}:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "dying.py").write_text(dying + REWARD)
    with RewardPool(str(tmp_path / "dying.py"), {}, 5.0) as pool:
        if deaths == 2:
            assert messages(pool.score([{"answer": "x"}], ["x"])) == [1.0]
        else:
            with pytest.raises(RewardBroken, match=r"dying\.py. cannot be used: .* 3 times"):
                pool.score([{}], ["x"])
    assert tally.read_text() == "xxx"


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


SIDE_BY_SIDE = """
import asyncio, time
from posttrain.config.strict import StrictModel
from posttrain.types import Score

class Config(StrictModel):
    pass

def gold(config): return []
def bad(config): return []

async def score(row, completion, config):
    if completion == "block":
        time.sleep(60)  # holds the whole loop, as no async code should
    await asyncio.sleep(30 if completion == "wait" else 0.05)
    return Score(float(len(completion)), reason="counted")
"""
BATCHED = """
import time
from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.types import Score

class Config(StrictModel):
    pass

def gold(config): return []
def bad(config): return []

def score_many(rows, completions, config):
    if "block" in completions:
        time.sleep(60)
    if "short" in completions:
        return []
    return [RewardBroken("no") if c == "broken" else Score(float(len(completions)))
            for c in completions]
"""
GREEDY = """
from posttrain.config.strict import StrictModel
from posttrain.types import Score

class Config(StrictModel):
    pass

def gold(config): return []
def bad(config): return []

def score(row, completion, config):
    return Score(float(len(bytearray(int(completion) * 1_000_000)) > 0))
"""


def pool_of(tmp_path, source, timeout_s=1.0, **settings):
    path = tmp_path / "mine.py"
    path.write_text(source)
    return RewardPool(str(path), {}, timeout_s, **settings)


def test_async_answers_wait_side_by_side_each_with_a_limit_of_its_own(tmp_path):
    with pool_of(tmp_path, SIDE_BY_SIDE) as pool:
        pool.score([{}], ["warm"])
        began = time.monotonic()
        outcomes = pool.score([{}] * 41, ["x" * 5] * 20 + ["wait"] + ["y" * 7] * 20)
        elapsed_s = time.monotonic() - began
    assert [o.value for o in outcomes[:20] + outcomes[21:]] == [5.0] * 20 + [7.0] * 20
    assert outcomes[20].message == "no score within 1 s"
    assert outcomes[0].reason == "counted" and 0.04 < outcomes[0].seconds < 1.0
    assert elapsed_s < 5.0  # two tries of the one that waits; the others cost nothing beside it


@pytest.fixture
def short_grace(monkeypatch):
    """A hang of several answers is waited for only a little longer than for one."""
    monkeypatch.setattr("posttrain.reward.worker.GRACE_S", 0.3)


@pytest.mark.usefixtures("short_grace")
def test_where_one_of_many_blocks_all_it_alone_is_blamed(tmp_path):
    with pool_of(tmp_path, SIDE_BY_SIDE) as pool:
        outcomes = pool.score([{}] * 3, ["a", "block", "abc"])
    assert [getattr(o, "value", None) for o in outcomes] == [1.0, None, 3.0]
    assert "no score within" in outcomes[1].message


@pytest.mark.usefixtures("short_grace")
def test_a_reward_of_batches_gets_them_whole_and_one_by_one_after_a_hang(tmp_path):
    with pool_of(tmp_path, BATCHED) as pool:
        whole = pool.score([{}] * 3, ["a", "broken", "b"])
        assert [getattr(o, "value", None) for o in whole] == [3.0, None, 3.0]
        assert whole[1].message == "no"
        hung = pool.score([{}] * 3, ["a", "block", "b"])
        assert [getattr(o, "value", None) for o in hung] == [1.0, None, 1.0]
        (short,) = pool.score([{}], ["short"])
        assert short.message == "score_many() gave 0 scores for 1"


def test_a_reward_that_wants_too_much_memory_is_broken_and_the_rest_is_scored(tmp_path):
    with pool_of(tmp_path, GREEDY, timeout_s=5.0, memory_mb=1000) as pool:
        outcomes = pool.score([{}] * 3, ["10", "4000", "20"])
    assert [getattr(o, "value", None) for o in outcomes] == [1.0, None, 1.0]
    assert "MemoryError" in outcomes[1].message
