"""How well the verifiers do: latency, and the share of answers that they broke on."""

from __future__ import annotations

from dataclasses import dataclass, field

from posttrain.errors import RewardBroken
from posttrain.types import told_apart

MOSTLY = 0.5  # of one source's answers: it would never be trained on, whatever the others do


@dataclass(slots=True)
class VerifierHealth:
    """Counts over a stage; a wrong answer is a score of 0, a broken verifier is counted here."""

    limit_share: float = 0.05  # of the answers: more, and the run stops
    min_answers: int = 256  # before the share means anything
    num_answers: int = 0
    num_broken: int = 0
    by_source: dict[str, list[int]] = field(default_factory=dict)  # [answers, broken ones]
    last_reason: str = ""
    _latencies_ms: list[float] = field(default_factory=list)

    def scored(
        self, source: str, num_answers: int, broken: tuple[str, ...], latency_ms: float
    ) -> None:
        """One prompt's answers. `source`: where the prompt came from; `broken`: what went wrong."""
        self.num_answers += num_answers
        self.num_broken += len(broken)
        of_source = self.by_source.setdefault(source, [0, 0])
        of_source[0] += num_answers
        of_source[1] += len(broken)
        self._latencies_ms.append(latency_ms)
        if broken:
            self.last_reason = broken[-1]

    @property
    def broken_share(self) -> float:
        return self.num_broken / max(1, self.num_answers)

    def require_sound(self, source: str) -> None:
        """Raises RewardBroken where so many answers broke that training would learn a bias: of all,
        or of `source`, whose counts have changed.
        """
        answers, broken = self.by_source[source]
        if answers >= self.min_answers and broken > MOSTLY * answers:
            raise RewardBroken(
                f"the verifier broke on {broken} of {answers} answers to prompts of {source}, "
                f"last: {self.last_reason}",
                help="nothing was scored 0 for it; mend the reward of that source, then "
                "posttrain run: the stage begins anew",
            )
        if self.num_answers < self.min_answers or self.broken_share <= self.limit_share:
            return
        worst = max(self.by_source, key=lambda name: self.by_source[name][1])
        of_which = f", most of them of {worst}" if len(self.by_source) > 1 else ""
        raise RewardBroken(
            f"the verifier broke on {100 * self.broken_share:.0f} % of {self.num_answers} answers "
            f"(limit {100 * self.limit_share:.0f} %){of_which}, last: {self.last_reason}",
            help="nothing was scored 0 for it; where it was too slow raise reward.timeout_s, then "
            "posttrain resume; else mend the reward, then posttrain run: the stage begins anew",
        )

    def metrics(self) -> dict[str, float]:
        """Over the stage, and of several sources each; latency since the last call."""
        found = {
            "verifier/latency_ms": self.take_latency_ms(),
            "verifier/failed_share": self.broken_share,
        }
        for source in told_apart(self.by_source):
            answers, broken = self.by_source[source]
            found[f"verifier/{source}/failed_share"] = broken / max(1, answers)
        return found

    def take_latency_ms(self) -> float:
        """Mean since the last call; 0 where nothing was scored."""
        latencies, self._latencies_ms = self._latencies_ms, []
        return sum(latencies) / len(latencies) if latencies else 0.0
