"""What decides whether code passes its tests, and solutions that want to pass without solving."""

import random

import pytest

from posttrain.errors import NoSandbox, RewardBroken
from posttrain.reward.sandbox import Limits, box, launchers
from posttrain.reward.sandbox.judge import Verdict, judge
from posttrain.reward.sandbox.tests import with_asserts, with_check

LIMITS = Limits(wall_s=20.0)
SHORT = Limits(wall_s=4.0)
# Nobody guesses these: who passes has read them.
NUMBERS = [random.getrandbits(64) for _ in range(2)]
SECRET = with_asserts("", [f"assert f({n}) == {number}" for n, number in enumerate(NUMBERS)])


@pytest.fixture(params=launchers() or ["none"])
def launcher(request):
    if request.param == "none":
        pytest.skip("no sandbox works here")
    return request.param


EVERYTHING_EQUAL = """
    def same(self, *_): return True
    __eq__ = __bool__ = __contains__ = __instancecheck__ = same
    def __ne__(self, *_): return False
    def __hash__(self): return 0
    def __index__(self): return 1
    def __getattr__(self, name): return Equal()
    def __call__(self, *_, **__): return Equal()
"""
FRAMES = """
import socket, struct
def frame(content): return struct.pack('<I', len(content)) + content
def shout(content):
    for fd in range(3, 1025):
        try: os.write(fd, content)
        except OSError: pass
"""

CHEATS = {
    "exit 0": "sys.exit(0)",
    "exit 0 at once": "os._exit(0)",
    "exit 0 when called": "def f(n): os._exit(0)",
    "kill all": "os.kill(os.getpid(), 9)",
    "kill the parent when called": "def f(n):\n"
    "    for pid in (os.getppid(), 1, -1):\n"
    "        try: os.kill(pid, 9)\n        except OSError: pass",
    "print the verdict": "print('started\\njudged 2 0 ')\ndef f(n): print('judged 2 0 ')",
    "equal to everything": f"class Equal:{EVERYTHING_EQUAL}\ndef f(n): return Equal()",
    "such a number": f"class Equal(int):{EVERYTHING_EQUAL}\ndef f(n): return Equal()",
    "a list of such": f"class Equal(str):{EVERYTHING_EQUAL}\ndef f(n): return [Equal()]",
    "f is such": f"class Equal:{EVERYTHING_EQUAL}\nf = Equal()",
    "changed built-ins": "import builtins\nbuiltins.AssertionError = KeyError\n"
    "builtins.isinstance = lambda *_: True\nbuiltins.len = lambda _: 0\ndef f(n): return 0",
    "catch the assertion": "sys.excepthook = lambda *_: os._exit(0)\n"
    "import atexit\natexit.register(os._exit, 0)\ndef f(n): return 1",
    "raise the assertion": "def f(n): raise AssertionError",
    "stop the iteration": "def f(n): raise StopIteration",
    "interrupt": "def f(n): raise KeyboardInterrupt",
    "leave": "def f(n): raise SystemExit(0)",
    "an exception named so": "class OutOfTime(Exception): pass\ndef f(n): raise OutOfTime",
    "read what is in memory": "import gc, re\ndef f(n):\n    for each in gc.get_objects():\n"
    "        for found in re.findall(r'== (\\d{12,})', repr(each)): return int(found)",
    "read the frames": "def f(n):\n    frame = sys._getframe()\n    while frame:\n"
    "        for each in map(str, frame.f_locals.values()):\n"
    "            if 'assert' in each and '==' in each: return int(each.split()[-1])\n"
    "        frame = frame.f_back",
    "read the processes": "def f(n):\n    for name in os.listdir('/proc'):\n"
    "        text = open(f'/proc/{name}/cmdline').read()\n"
    "        if '== ' in text: return int(text.split('== ')[1].split()[0])",
    "read the command": "def f(n): return int(sys.orig_argv[-1].split('== ')[-1].split('\"')[0])",
    "write everywhere": f"{FRAMES}shout(b'judged 2 0 \\n')\ndef f(n): shout(b'judged 2 0 \\n')",
    "answer before the question": f"{FRAMES}shout(frame(b't\\2\\0\\0\\0u\\5\\0\\0\\0valueT') * 50)",
    "a frame too long": f"{FRAMES}def f(n): shout(b'\\xff' * 64)",
    "more items than bytes": f"{FRAMES}def f(n): shout(frame(b'l\\xff\\xff\\xff\\xff'))",
    "lists in lists": f"{FRAMES}def f(n): shout(frame(b'l\\1\\0\\0\\0' * 100000))",
    "unhashable keys": f"{FRAMES}def f(n): shout(frame(b's\\1\\0\\0\\0l\\0\\0\\0\\0'))",
    "no frame but a socket's end": f"{FRAMES}import socket\ndef f(n):\n"
    "    for fd in range(3, 33):\n"
    "        try: socket.socket(fileno=fd).shutdown(socket.SHUT_RDWR)\n"
    "        except OSError: pass",
    "an answer without end": "def f(n):\n    x = []\n    x.append(x)\n    return x",
    "a huge answer": "def f(n): return 'x' * (9 << 20)",
    "a huge number": "def f(n): return 1 << (8 << 20)",
    "two processes": "os.fork()\ndef f(n): return n",
    "no function": "",
    "not Python": "def f(n) return 1",
    "null bytes": "def f(n): return 1\0",
}


@pytest.mark.parametrize("name", CHEATS)
def test_no_trick_passes_a_test(name, launcher):
    solution = CHEATS[name]
    if name not in ("not Python", "null bytes"):
        solution = f"import os, sys\n{solution}"
    verdict = judge(solution, SECRET, limits=SHORT, launcher=launcher)
    assert (verdict.num_passed, verdict.num_tests) == (0, 2)
    assert verdict.reason


SLOW = {
    "sleep": "import time\ndef f(n): time.sleep(1000)",
    "sleep at once": "import time; time.sleep(1000)",
    "an iterator without end": "import itertools\ndef f(n): return itertools.count()",
    "not reading": "import os\ndef f(n): os.kill(os.getpid(), 19); return 1",
}


@pytest.mark.parametrize("name", SLOW)
def test_what_takes_too_long_fails_in_time(name, launcher):
    tests = with_asserts("", ["assert list(f(1)) == [1]", f"assert f({'x' * 100_000!r}) == 2"])
    verdict = judge(SLOW[name], tests, limits=SHORT, launcher=launcher)
    assert verdict.num_passed == 0


def judged(solution, *asserts, setup=""):
    return judge(solution, with_asserts(setup, asserts), limits=LIMITS, launcher=launchers()[0])


needs_sandbox = pytest.mark.skipif(not launchers(), reason="no sandbox works here")


@needs_sandbox
def test_plain_data_arrives_as_it_was():
    values = (
        "None, True, -1 << 99, 1.5, -0.0, 2j, 'é\\ud800', b'\\x00', [], (1,), {1: {2}}, set(), "
    )
    values += "frozenset([3]), float('inf'), '', int"
    text = f"assert repr(f(({values}))) == repr(({values}))"
    assert judged("def f(x): return x", text) == Verdict(1, 1)


@needs_sandbox
def test_asserts_are_counted_one_by_one():
    asserts = ["assert f(1) == 1", "assert f(2) == 4", "assert f(3) == 9"]
    assert judged("def f(x): return x", *asserts) == Verdict(1, 3, "assert f(2) == 4")
    tests = with_check(
        "def f(x):", "f", "def check(c):\n    for n in range(4): assert c(n) == n * n"
    )
    verdict = judge("def f(x): return x", tests, limits=LIMITS, launcher=launchers()[0])
    assert verdict == Verdict(2, 4, "assert c(n) == n * n")


@needs_sandbox
def test_objects_of_the_solutions_can_be_made_changed_and_given_back():
    solution = (
        "class Node:\n    def __init__(self, v): self.v, self.left = v, None\n"
        "def depth(n): return 0 if n is None else 1 + depth(n.left)\n"
        "def up(n):\n    yield from range(n)"
    )
    setup = "root = Node(1)\r\nroot.left = Node(2)\r\nroot.left.left = Node(3)"
    asserts = ["assert depth(root) == 3", "assert root.left.v == 2", "assert list(up(2)) == [0, 1]"]
    assert judged(solution, *asserts, setup=setup) == Verdict(3, 3)
    assert judged(solution, "assert Node(1)").reason.endswith("is an object, not plain data)")


@needs_sandbox
def test_built_in_exceptions_arrive():
    text = "try:\n    f(0)\nexcept ZeroDivisionError:\n    pass\nelse:\n    assert False"
    assert judged("def f(x): return 1 / x", text) == Verdict(1, 1)
    assert judged("def f(x): return x", text).num_passed == 0


@needs_sandbox
def test_what_the_prompt_defines_is_the_prompts():
    prompt = "def double(x):\n    return 2 * x\ndef half(x):\n    'undo'\n"
    tests = with_check(prompt, "half", "def check(c):\n    assert double(c(10)) == 10")
    cheat = "class Ten(int):\n    pass\ndef double(x): return 10\ndef half(x): return 0"
    assert judge(cheat, tests, limits=LIMITS).num_passed == 0
    assert judge("def half(x): return x // 2", tests, limits=LIMITS) == Verdict(1, 1)


@needs_sandbox
def test_tests_that_cannot_be_run_are_no_fault_of_the_answers():
    with pytest.raises(RewardBroken, match="pass a function"):
        judged("def f(x): return x", "assert f(lambda: 1) == 1")
    with pytest.raises(RewardBroken, match="not Python"):
        with_asserts("", ["assert f(1) =="])
    with pytest.raises(RewardBroken, match="call no function"):
        with_asserts("", ["assert True"])


def test_without_a_sandbox_nothing_runs_unless_told_to(monkeypatch):
    monkeypatch.setattr(box, "_trials", lambda: [("bwrap", "no such file")])
    tests = with_asserts("", ["assert f(2) == 4"])
    with pytest.raises(NoSandbox, match="bwrap: no such file"):
        judge("def f(x): return x * x", tests)
    right = judge("def f(x): return x * x", tests, limits=LIMITS, allow_unsandboxed=True)
    assert right == Verdict(1, 1)
