"""The rules of the live explanations: what a window of metrics has to look like, and what is said.

Each rule is a function of a window (one merged row per step, oldest first, the stage's beginning in
front) and the stage's facts; it returns its sentence, with the numbers that made it speak, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import mean, median, stdev
from typing import Any, Literal

from posttrain.track.formatting import learning_rate, percent, significant

Row = Mapping[str, float]
Verdict = Literal["normal", "watch", "act"]

START_ROWS = 3  # the beginning of the stage, kept for "how it was at the start"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Every number that decides whether a line appears."""

    steps_to_appear: int = 3
    steps_to_return: int = 10
    loss_near_zero: float = 1e-3  # nats per token
    nothing: float = 1e-12  # a loss or gradient norm that is zero
    one_sided_share: float = 0.5
    flat_steps: int = 20
    flat_standard_errors: float = 2.0  # a slope within so many of its standard errors is noise
    solved_reward: float = 0.95  # flat up here is success, not trouble
    kl_times_median: float = 3.0
    kl_steps: int = 10
    kl_floor_nats: float = 1.0  # small divergences triple all the time
    entropy_share_of_start: float = 0.2
    logprob_gap_fp32_nats: float = 1e-3
    logprob_gap_bf16_nats: float = 0.15
    cut_share: float = 0.1
    verifier_failed_share: float = 0.01
    old_groups_wait_share: float = 0.1
    slow_engines_wait_share: float = 0.3
    engines_busy: float = 0.9  # busier than this, engines are what everyone waits for
    engines_idle_share: float = 0.3


THRESHOLDS = Thresholds()


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What a rule may know of the stage beside its metrics; None where it is not known."""

    max_new_tokens: int | None = None
    precision: str = "fp32"
    staleness_max: int | None = None
    groups_per_step: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> StageFacts:
        """Read from a resolved stage configuration (`config.yaml`); missing keys are unknown."""
        sampling, batch, staleness = (
            value if isinstance(value := config.get(key), Mapping) else {}
            for key in ("sampling", "batch", "staleness")
        )
        return cls(
            max_new_tokens=sampling.get("max_new_tokens"),
            precision=str(config.get("precision", "fp32")),
            staleness_max=staleness.get("max"),
            groups_per_step=batch.get("prompts"),
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """A code with its verdict and the function that finds it in a window (None: not so)."""

    code: str
    verdict: Verdict
    find: Callable[[Sequence[Row], StageFacts], str | None]


# --- the rules, each a function of the window (oldest row first) -----------------------------


def _nothing_learnt(window: Sequence[Row], facts: StageFacts) -> str | None:
    def still(row: Row) -> bool:
        return (
            abs(row.get("train/loss", 1.0)) < THRESHOLDS.nothing
            and abs(row.get("train/grad_norm", 1.0)) < THRESHOLDS.nothing
        )

    steps = len(list(takewhile(still, reversed(window))))
    if steps == 0:
        return None
    row = window[-1]
    if row.get("groups/no_signal_share", 0.0) < 1.0:
        return f"nothing was learnt for {steps} steps: loss and gradient are 0. Look with `show`"
    groups = facts.groups_per_step or round(row.get("groups/trained", 0))
    right, wrong = (row.get(f"groups/all_{side}_share", 0.0) for side in ("right", "wrong"))
    side, share = ("right", right) if right > wrong else ("wrong", wrong)
    cure = (
        "Harder prompts"
        if side == "right"
        else "Easier prompts, more samples per prompt, or a longer sft"
    )
    return (
        f"nothing was learnt for {steps} steps: all {groups} groups are one-sided"
        f" ({round(share * groups)} all {side}). {cure}"
    )


def _logprob_gap(window: Sequence[Row], facts: StageFacts) -> str | None:
    low = facts.precision == "bf16"
    limit = THRESHOLDS.logprob_gap_bf16_nats if low else THRESHOLDS.logprob_gap_fp32_nats
    gap = _latest(window, "weights/logprob_gap_max_nats")
    if gap is None or gap <= limit:
        return None
    cause = (
        "checksums differ: the weights are not the same"
        if _latest(window, "weights/checksum_failures")
        else "checksums agree: not the weights; probably temperature or log-prob mode"
    )
    return (
        f"engine and trainer differ by {significant(gap)} nats on the same tokens"
        f" (limit {significant(limit)}), {cause}"
    )


def _kl_jump(window: Sequence[Row], facts: StageFacts) -> str | None:
    series = _series(window, "policy/kl_reference_nats")
    if len(series) <= THRESHOLDS.kl_steps:
        return None
    before, now = series[-THRESHOLDS.kl_steps - 1 : -1], series[-1]
    usual = median(before)
    if now < THRESHOLDS.kl_floor_nats or now <= THRESHOLDS.kl_times_median * usual:
        return None
    if now < before[-1]:
        return None  # falling again
    held_out = _series(window, "eval/heldout/score")
    fell = (
        f" and held-out fell {held_out[-2] * 100:.0f} → {percent(held_out[-1])}: chasing the reward"
        if len(held_out) > 1 and held_out[-1] < held_out[-2]
        else ""
    )
    return (
        f"KL {significant(before[0])} → {significant(now)} nats in {THRESHOLDS.kl_steps} steps"
        f"{fell}. Raise kl or halve lr"
    )


def _verifier_failing(window: Sequence[Row], facts: StageFacts) -> str | None:
    share = window[-1].get("verifier/failed_share", 0.0)
    if share <= THRESHOLDS.verifier_failed_share:
        return None
    return f"the verifier broke on {_fine_percent(share)} of answers; they are counted, never 0"


def _cut_answers(window: Sequence[Row], facts: StageFacts) -> str | None:
    share = window[-1].get("answer/cut_share", 0.0)
    if share <= THRESHOLDS.cut_share:
        return None
    limit, cure = "", "Raise sampling.max_new_tokens"
    if facts.max_new_tokens:
        limit = f" at {facts.max_new_tokens} tokens"
        cure = f"sampling.max_new_tokens: {2 * facts.max_new_tokens}"
    start = percent(_at_start(window, "answer/cut_share"))
    return (
        f"{percent(share)} of answers cut{limit} ({start} at start):"
        f" it learns to be short, not right. {cure}"
    )


def _entropy_collapse(window: Sequence[Row], facts: StageFacts) -> str | None:
    now, start = window[-1].get("policy/entropy_nats"), _at_start(window, "policy/entropy_nats")
    if now is None or now >= THRESHOLDS.entropy_share_of_start * start:
        return None
    identical = window[-1].get("groups/identical_share")
    same = "" if identical is None else f"; {percent(identical)} of a group's answers are identical"
    return (
        f"entropy {significant(start)} → {significant(now)} nats{same}."
        " algorithm.clip_high: 0.28, or sampling.temperature back to 1.0"
    )


def _one_sided_groups(window: Sequence[Row], facts: StageFacts) -> str | None:
    row = window[-1]
    share = row.get("groups/no_signal_share", 0.0)
    if share <= THRESHOLDS.one_sided_share:
        return None
    right, wrong = row.get("groups/all_right_share", 0.0), row.get("groups/all_wrong_share", 0.0)
    if right >= wrong:
        why, cure = f"{percent(right)} all right", "prompts are becoming too easy. Harder ones"
    else:
        why, cure = f"{percent(wrong)} all wrong", "prompts are too hard. Easier ones"
    return (
        f"{percent(share)} of groups taught nothing ({why}): {cure},"
        " or more batch.samples_per_prompt"
    )


def _reward_flat(window: Sequence[Row], facts: StageFacts) -> str | None:
    series = _series(window, "reward/mean")[-THRESHOLDS.flat_steps :]
    if len(series) < THRESHOLDS.flat_steps or mean(series) >= THRESHOLDS.solved_reward:
        return None
    if not _slope_is_noise(series):
        return None
    row = window[-1]
    differ = 1.0 - row.get("groups/no_signal_share", 0.0)
    rate, ratio = row.get("train/lr"), row.get("policy/ratio_mean")
    cure = ""
    if rate and ratio is not None:
        cure = (
            f": lr {learning_rate(rate)} moves the ratio by only {significant(abs(ratio - 1))};"
            f" try {learning_rate(3 * rate)}"
        )
    elif rate:
        cure = f": at lr {learning_rate(rate)}; try {learning_rate(3 * rate)}"
    return (
        f"reward flat at {percent(mean(series))} ± {1.96 * stdev(series) * 100:.0f}"
        f" for {len(series)} steps while {percent(differ)} of groups still differ{cure}"
    )


def _trainer_waits(window: Sequence[Row], facts: StageFacts) -> str | None:
    rows = [row for row in window[-10:] if "age/wait_s" in row and "axis/time_s" in row]
    if len(rows) < 2 or facts.staleness_max == 0:
        return None  # with staleness 0 waiting is the point
    elapsed = rows[-1]["axis/time_s"] - rows[0]["axis/time_s"]
    if elapsed <= 0:
        return None
    share = min(1.0, sum(row["age/wait_s"] for row in rows[1:]) / elapsed)
    busy = _recent_mean(window, "engine/busy_share")
    if busy is not None and busy >= THRESHOLDS.engines_busy:
        if share <= THRESHOLDS.slow_engines_wait_share:
            return None
        return (
            f"the trainer waited {percent(share)} of the last {len(rows)} steps, engines are busy"
            f" {percent(busy)}: generation is the slow side. More engines (resources.engines)"
        )
    if share <= THRESHOLDS.old_groups_wait_share:
        return None
    bound = facts.staleness_max
    cure = f"staleness {bound} → {bound + 2}" if bound else "A larger staleness"
    return (
        f"the trainer waited {percent(share)} of the last {len(rows)} steps for old groups."
        f" {cure} would hide it"
    )


def _engines_idle(window: Sequence[Row], facts: StageFacts) -> str | None:
    busy = _recent_mean(window, "engine/busy_share")
    if busy is None or 1.0 - busy <= THRESHOLDS.engines_idle_share:
        return None
    return (
        f"engines idle {percent(1.0 - busy)}, training is the slow side."
        " More trainers, or fewer engines (resources)"
    )


def _loss_near_zero(window: Sequence[Row], facts: StageFacts) -> str | None:
    row = window[-1]
    loss, norm = row.get("train/loss"), row.get("train/grad_norm", 0.0)
    if loss is None or "reward/mean" not in row:
        return None  # in supervised training a loss near zero is what it says
    if abs(loss) >= THRESHOLDS.loss_near_zero or norm <= THRESHOLDS.nothing:
        return None
    return (
        f"loss {significant(loss, 1)} is no bug; advantages cancel inside a group."
        f" The gradient moves the model (norm {significant(norm)}); watch reward"
    )


# --- small readings of a window ----------------------------------------------------------------


def _series(window: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in window if row.get(name) is not None]


def _latest(window: Sequence[Row], name: str) -> float | None:
    series = _series(window[-10:], name)
    return series[-1] if series else None


def _recent_mean(window: Sequence[Row], name: str) -> float | None:
    series = _series(window[-3:], name)
    return mean(series) if series else None


def _at_start(window: Sequence[Row], name: str) -> float:
    series = _series(window[:START_ROWS], name)
    return mean(series) if series else 0.0


def _fine_percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _slope_is_noise(series: Sequence[float]) -> bool:
    """Least squares: is the slope within its standard errors? A constant series is flat."""
    count = len(series)
    middle, level = (count - 1) / 2, mean(series)
    spread = sum((index - middle) ** 2 for index in range(count))
    slope = sum((index - middle) * (value - level) for index, value in enumerate(series)) / spread
    residual = sum(
        (value - level - slope * (index - middle)) ** 2 for index, value in enumerate(series)
    )
    error = (residual / (count - 2) / spread) ** 0.5
    return abs(slope) <= THRESHOLDS.flat_standard_errors * error + 1e-12


RULES: tuple[Rule, ...] = (  # worst first: the screen has room for one
    Rule("nothing-learnt", "act", _nothing_learnt),
    Rule("logprob-gap", "act", _logprob_gap),
    Rule("kl-jump", "act", _kl_jump),
    Rule("verifier-failing", "watch", _verifier_failing),
    Rule("cut-answers", "watch", _cut_answers),
    Rule("entropy-collapse", "watch", _entropy_collapse),
    Rule("one-sided-groups", "watch", _one_sided_groups),
    Rule("reward-flat", "watch", _reward_flat),
    Rule("trainer-waits", "watch", _trainer_waits),
    Rule("engines-idle", "watch", _engines_idle),
    Rule("loss-near-zero", "normal", _loss_near_zero),
)
