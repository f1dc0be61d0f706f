"""A reward's own examples, scored in this process."""

from posttrain.reward.protocol import failed_examples, score_one

_JUDGE = {"endpoint": "http://127.0.0.1:9/v1", "model": "nobody"}
LEAST_SETTINGS = {
    "judge": _JUDGE,
    "pairwise_judge": _JUDGE,
    "ensemble": {"ensemble": "rm"},
    "calibrated": {"score": "gsm8k"},
    "weighted": {"parts": {"one": {"reward": "gsm8k"}}},
}
"""Of the shipped rewards that are nothing without any."""


def failed_gold(reward, config):
    """One line for each example that does not score what it should; its errors pass through."""
    gold, bad = list(reward.gold(config)), list(reward.bad(config))
    return failed_examples(gold, bad, [score_one(reward, each, config) for each in (*gold, *bad)])
