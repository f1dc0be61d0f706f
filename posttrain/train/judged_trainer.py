"""TRL's trainer on single answers, each good or bad: the objective's own loss, our metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from posttrain.ports import ANSWER, PreferenceInputs
from posttrain.train.pair_trainer import PreferenceTrainer

GOOD, BAD = "good", "bad"


class JudgedTrainer(PreferenceTrainer):
    """Of a batch [B, T]: one answer to each prompt.

    Means over good ones alone are those of the step's sums: a part may have none.
    """

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Tensor:
        good_B, balance_B = inputs.pop("good"), inputs.pop("balance")
        reference_B = inputs.pop("reference")[:, 0]
        logprob_B = self._logprobs(model, inputs)
        length_B = inputs["completion_mask"].sum(dim=1)
        given = PreferenceInputs(
            {ANSWER: logprob_B},
            {ANSWER: reference_B},
            {ANSWER: length_B},
            self._whole,
            good_B > 0,
            balance_B,
        )
        ratio_B = given.ratio(ANSWER).detach()
        per_token_B = given.mean_logprob(ANSWER).detach()
        for name, of_B in ((GOOD, good_B), (BAD, 1 - good_B)):
            self._note(f"{name}/share", of_B)
            self._note(f"{name}/ratio", of_B * ratio_B)
            self._note(f"{name}/logprob", of_B * per_token_B)
        assert self.objective.loss is not None
        return self.objective.loss(given).mean()

    def part_metrics(self, inputs: Mapping[str, Any]) -> dict[str, float]:
        return {}

    def own_metrics(self, logs: Mapping[str, float], tokens: float) -> dict[str, float]:
        metrics = {
            "train/real_token_share": self._real / max(self._computed, 1),
            "pref/good_share": logs[f"{GOOD}/share"],
        }
        for name in (GOOD, BAD):
            share = logs[f"{name}/share"]
            if share:  # a small batch may have none
                metrics[f"pref/{name}_ratio"] = logs[f"{name}/ratio"] / share
                metrics[f"pref/{name}_logprob_per_token"] = logs[f"{name}/logprob"] / share
        if f"pref/{GOOD}_ratio" in metrics and f"pref/{BAD}_ratio" in metrics:
            metrics["pref/margin"] = metrics[f"pref/{GOOD}_ratio"] - metrics[f"pref/{BAD}_ratio"]
        return metrics
