"""Every shipped reward passes its audit; rewards that can be fooled do not."""

import pytest

from posttrain.config.plugins import shipped
from posttrain.reward.audit import audit

from .test_gold import MADE_OF_OTHERS, has_examples

HEADER = """
import random, time
from posttrain.config.strict import StrictModel
from posttrain.reward.protocol import Example
from posttrain.types import Score

class Config(StrictModel):
    pass

def gold(config): return [Example({"answer": "72"}, "so 72")]
def bad(config): return [Example({"answer": "72"}, "so 71")]
"""
WEAK = {
    "0 to 100": "return Score(float(row['answer'] in completion), passed=True)",
    "empty": "return Score(1.0, passed=True) if not completion else "
    "Score(float(row['answer'] in completion.split()[-1:]), passed=False)",
    "asked twice": "return Score(random.random() if '71' in completion else 1.0, passed=True)",
    "a megabyte": "time.sleep(60 if len(completion) > 1000 else 0); "
    "return Score(float('72' in completion), passed='72' in completion)",
    "right examples": "return Score(0.0, passed=False)",
    "wrong examples": "return Score(1.0, passed=True)",
}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in shipped("reward")
        # `ensemble` reads what reward models say, not the answer
        if name not in (*MADE_OF_OTHERS, "ensemble") and has_examples(name)
    ],
)
def test_every_shipped_reward_is_sound(name):
    findings = audit(name, {})
    assert [each for each in findings if each.verdict == "unsound"] == []
    assert {"right examples", "wrong examples", "asked twice", "empty", "time"} <= {
        each.about for each in findings
    }


@pytest.mark.parametrize("about", WEAK)
def test_a_weak_reward_is_found_out(about, tmp_path):
    path = tmp_path / "weak.py"
    path.write_text(f"{HEADER}\ndef score(row, completion, config):\n    {WEAK[about]}\n")
    findings = {each.about: each for each in audit(str(path), {}, timeout_s=1.0)}
    assert findings[about].verdict == "unsound", findings


def test_real_rows_may_be_right_by_luck_now_and_then(tmp_path):
    """One in forty rows has the answer 100."""
    rows = [{"answer": str(1000 + number)} for number in range(39)] + [{"answer": "100"}]
    found = {each.about: each for each in audit("gsm8k", {}, rows)}["0 to 100"]
    assert (found.verdict, found.detail) == ("note", "scores 1 on 1 of 45 rows")
