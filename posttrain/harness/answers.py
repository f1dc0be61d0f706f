"""What comes back from a task of the harness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HarnessAnswers:
    """What a model made of one task: one number per question, the same questions for all models."""

    metric: str  # with the filter of the answers: "exact_match,strict-match"
    passed: tuple[float, ...]  # one per question: 0 or 1, or a grade between
    answers: tuple[Mapping[str, Any], ...]  # prompt, completion, score of the first questions
    unscored: int  # questions that the task gave no number
    cut_share: float  # of what was asked, without the beginning of its prompt: it was too long
