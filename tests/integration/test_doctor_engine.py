"""`posttrain doctor --engine` on the real engine of this machine."""

from posttrain.doctor.engine import engine_finding


def test_an_engine_starts_and_agrees_with_the_trainer_before_and_after_an_update():
    found = engine_finding()
    assert found.verdict == "ok", found
    assert "tokens/s, log-probs equal" in found.text
    assert found.text.endswith(", after an update too")
