"""What the engine's trial says, and what is made of it. The trial itself is an integration test."""

import json
import sys

import pytest

from posttrain.doctor.engine import engine_finding

WELL = {"start_s": 7.44, "tokens_per_s": 14321.0, "gap_nats": 2e-6, "gap_after_update_nats": 1e-6}


def program(*lines: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "\n".join(lines))


def saying(seen: dict[str, float]) -> tuple[str, ...]:
    return program("print('what vLLM says')", f"print({json.dumps(json.dumps(seen))})")


def test_an_engine_that_agrees():
    found = engine_finding(saying(WELL))
    assert (found.verdict, found.help) == ("ok", "")
    assert found.text == (
        "started in 7.4 s, 14,321 tokens/s, log-probs equal to the trainer's within 2e-06 nats, "
        "after an update too"
    )


def test_where_weights_travel_otherwise_no_update_is_claimed():
    found = engine_finding(saying({k: v for k, v in WELL.items() if k != "gap_after_update_nats"}))
    assert found.verdict == "ok" and "update" not in found.text


@pytest.mark.parametrize(
    ("name", "words"),
    [("gap_nats", "log-probs lie"), ("gap_after_update_nats", "after an update of its weights")],
)
@pytest.mark.parametrize("gap", [0.31, float("nan")])
def test_one_that_computes_something_else_is_to_be_acted_on(name: str, words: str, gap: float):
    found = engine_finding(program(f"print({json.dumps(json.dumps(WELL | {name: gap}))})"))
    assert found.verdict == "act" and words in found.text
    assert "engine_trial" not in found.help and found.help.startswith(sys.executable)


def test_one_that_dies_and_one_that_hangs():
    died = engine_finding(program("raise SystemExit('no kernel for this CPU')"))
    assert (died.verdict, died.text) == ("act", "no kernel for this CPU")
    hung = engine_finding(program("import time; time.sleep(60)"), deadline_s=0.5)
    assert hung.verdict == "act" and hung.text.startswith("has not started within")
