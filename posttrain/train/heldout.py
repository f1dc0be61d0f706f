"""What log-probs of held-out rows say of a policy that learns from preferences: metrics by name."""

from __future__ import annotations

from torch import Tensor

from posttrain import ops

ACCURACY = "pref/heldout_accuracy"


def of_pairs(rewards_N2: Tensor, means_N2: Tensor) -> dict[str, float]:
    """Of chosen and rejected answers: `rewards` are log-ratios to the reference (log-probs per
    token where there is none), `means` log-probs per token, both in nats.
    """
    margins_N = rewards_N2[:, 0] - rewards_N2[:, 1]
    return {
        ACCURACY: ops.preferences.pairs_right(margins_N),
        "pref/heldout_margin": float(margins_N.mean()),
        "pref/heldout_chosen_logprob_per_token": float(means_N2[:, 0].mean()),
        "pref/heldout_rejected_logprob_per_token": float(means_N2[:, 1].mean()),
    }


def of_judged(rewards_N: Tensor, means_N: Tensor, good_N: Tensor) -> dict[str, float]:
    """Of single answers, which are good or bad. Accuracy is over all pairs of a good and a bad one,
    whatever they answer. Means of a kind are left out where there is none of it.
    """
    found = {ACCURACY: ops.preferences.good_above_bad(rewards_N, good_N)}
    kinds = {"good": good_N, "bad": ~good_N}
    for name, those_N in kinds.items():
        if bool(those_N.any()):
            found[f"pref/heldout_{name}_logprob_per_token"] = float(means_N[those_N].mean())
    if all(bool(those_N.any()) for those_N in kinds.values()):
        margin = rewards_N[good_N].mean() - rewards_N[~good_N].mean()
        found["pref/heldout_margin"] = float(margin)
    return found
