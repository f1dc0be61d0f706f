"""Running code that nobody has read: programs in boxes, and solutions judged by tests."""

from posttrain.reward.sandbox.box import available, launchers, run_python
from posttrain.reward.sandbox.limits import Limits, Outcome

__all__ = ["Limits", "Outcome", "available", "launchers", "run_python"]
