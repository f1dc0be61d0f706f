"""One suite, to be asked of one model after another."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.config.suites import Suite
from posttrain.stages.measure import Evaluator, Measurement


@dataclass(frozen=True, slots=True)
class SuiteMeter:
    """A stage that compares models has one of these."""

    use: str  # the suite's name
    suite: Suite
    fingerprint: str
    evaluator: Evaluator

    def measure(self, model: str) -> Measurement:
        """What the model in a folder can do."""
        return self.evaluator.measure(model, self.use, self.suite, self.fingerprint)
