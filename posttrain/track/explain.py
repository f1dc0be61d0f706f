"""Says what the numbers mean while they run: from a window of metrics to lines to act on.

`findings(window, facts)` is pure: the rules look at one window and say what is so at its end.
`Explainer` adds patience: a finding must hold 3 steps to appear and, once it is gone, 10 to return.
The first word is the verdict: normal (looks odd, is not), watch, act. No line without its number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.track import explain_engine_rules as engine
from posttrain.track import explain_rules as learning
from posttrain.track.explain_window import (
    START_ROWS,
    THRESHOLDS,
    Row,
    Rule,
    StageFacts,
    Verdict,
)

__all__ = ["RULES", "Explainer", "Note", "StageFacts", "findings"]

RECENT_ROWS = 50

RULES: tuple[Rule, ...] = (  # worst first: the screen has room for one
    Rule("nothing-learnt", "act", learning.nothing_learnt),
    Rule("logprob-gap", "act", engine.logprob_gap),
    Rule("older-than-allowed", "act", engine.older_than_allowed),
    Rule("rollouts-lost", "act", engine.rollouts_lost),
    Rule("kl-jump", "act", learning.kl_jump),
    Rule("judges-guess", "act", learning.judges_guess),
    Rule("watched-falls", "watch", learning.watched_falls),
    Rule("verifier-failing", "watch", engine.verifier_failing),
    Rule("groups-dropped", "watch", engine.groups_dropped),
    Rule("logprob-gap-near", "watch", engine.logprob_gap_near),
    Rule("cut-answers", "watch", learning.cut_answers),
    Rule("entropy-collapse", "watch", learning.entropy_collapse),
    Rule("one-sided-groups", "watch", learning.one_sided_groups),
    Rule("equal-rewards", "watch", learning.equal_rewards),
    Rule("many-filtered", "watch", engine.many_filtered),
    Rule("reward-flat", "watch", learning.reward_flat),
    Rule("trainer-waits", "watch", engine.trainer_waits),
    Rule("engines-idle", "watch", engine.engines_idle),
    Rule("taking-turns", "watch", engine.taking_turns),
    Rule("weights-stall", "watch", engine.weights_stall),
    Rule("as-old-as-allowed", "watch", engine.as_old_as_allowed),
    Rule("critic-warms-up", "normal", learning.critic_warms_up),
    Rule("synchronous-idle", "normal", engine.synchronous_idle),
    Rule("loss-near-zero", "normal", learning.loss_near_zero),
)


@dataclass(frozen=True, slots=True)
class Note:
    """One explanation. Example: Note("normal", "loss-near-zero", "loss 0.0002 is no bug; ...")"""

    verdict: Verdict
    code: str
    text: str

    @property
    def line(self) -> str:
        return f"{self.verdict}: {self.text}"


def findings(window: Sequence[Row], facts: StageFacts | None = None) -> list[Note]:
    """What is so at the end of the window, worst first.

    `window` is one merged row per step, oldest first; its first rows are the stage's beginning.
    """
    if not window:
        return []
    known = facts or StageFacts()
    return [
        Note(rule.verdict, rule.code, text)
        for rule in RULES
        if (text := rule.find(window, known)) is not None
    ]


class Explainer:
    """Keeps the window and decides when a finding has held long enough to be said."""

    def __init__(self, facts: StageFacts | None = None) -> None:
        self._facts = facts or StageFacts()
        self._start: list[Row] = []
        self._recent: deque[Row] = deque(maxlen=RECENT_ROWS)
        self._held: dict[str, int] = {}
        self._said: set[str] = set()  # at any time
        self._showing: set[str] = set()

    def observe(self, row: Row) -> tuple[list[Note], list[str]]:
        """Take the next step's row; returns (notes that now appear, codes that are now over)."""
        target = self._start if len(self._start) < START_ROWS else self._recent
        target.append(row)
        found = findings([*self._start, *self._recent], self._facts)
        codes = {note.code for note in found}
        self._held = {code: self._held.get(code, 0) + 1 for code in codes}
        over = sorted(self._showing - codes)
        self._showing &= codes
        appearing = [note for note in found if self._is_due(note.code)]
        self._showing |= {note.code for note in appearing}
        self._said |= self._showing
        return appearing, over

    def _is_due(self, code: str) -> bool:
        again = code in self._said
        needed = THRESHOLDS.steps_to_return if again else THRESHOLDS.steps_to_appear
        return code not in self._showing and self._held[code] >= needed
