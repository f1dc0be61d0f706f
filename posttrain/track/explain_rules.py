"""Rules of the live explanations on learning: loss, reward, KL, entropy, groups, answers.

Each rule is a function of a window (one merged row per step, oldest first, the stage's beginning in
front) and the stage's facts; it returns its sentence, with the numbers that made it speak, or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from statistics import mean, median, stdev

from posttrain.track.explain_window import (
    THRESHOLDS,
    Row,
    StageFacts,
    at_start,
    series_of,
)
from posttrain.track.formatting import learning_rate, percent, significant
from posttrain.track.rows import held_out


def nothing_learnt(window: Sequence[Row], facts: StageFacts) -> str | None:
    def still(row: Row) -> bool:
        return (
            abs(row.get("train/loss", 1.0)) < THRESHOLDS.nothing
            and abs(row.get("train/grad_norm", 1.0)) < THRESHOLDS.nothing
        )

    steps = len(list(takewhile(still, reversed(window))))
    if steps == 0:
        return None
    row = window[-1]
    if "groups/no_signal_share" not in row and row.get("reward/std") == 0:
        return (
            f"nothing was learnt for {steps} steps: every answer scores"
            f" {significant(row['reward/mean'])}. {_easier(row)}, or a longer sft"
        )
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


def kl_jump(window: Sequence[Row], facts: StageFacts) -> str | None:
    series = series_of(window, "policy/kl_reference_nats")
    if len(series) <= THRESHOLDS.kl_steps:
        return None
    before, now = series[-THRESHOLDS.kl_steps - 1 : -1], series[-1]
    usual = median(before)
    if now < THRESHOLDS.kl_floor_nats or now <= THRESHOLDS.kl_times_median * usual:
        return None
    if now < before[-1]:
        return None  # falling again
    asked = [value for _, value in held_out(window)]
    fell = (
        f" and held-out fell {asked[-2] * 100:.0f} → {percent(asked[-1])}: chasing the reward"
        if len(asked) > 1 and asked[-1] < asked[-2]
        else ""
    )
    return (
        f"KL {significant(before[0])} → {significant(now)} nats in {THRESHOLDS.kl_steps} steps"
        f"{fell}. Raise kl_in_reward (or kl_in_loss), or halve lr"
    )


def judges_guess(window: Sequence[Row], facts: StageFacts) -> str | None:
    """The members of an ensemble differ much more than at the start, while their reward rises."""
    name = "reward/members_std"
    now = window[-1].get(name)
    if now is None:
        return None
    start, limit = at_start(window, name), THRESHOLDS.spread_times_start
    rose = window[-1].get("reward/mean", 0.0) - at_start(window, "reward/mean")
    if rose <= 0 or start <= 0 or now < limit * start:
        return None
    since = next((row for row in window if row.get(name, 0.0) >= limit * start), window[-1])
    return (
        f"reward rose {significant(rose)} but the reward models' spread went {significant(start)}"
        f" → {significant(now)}: they are guessing. Stop near step {since.get('axis/step', 0):.0f},"
        " or combine: wco"
    )


def watched_falls(window: Sequence[Row], facts: StageFacts) -> str | None:
    """The reward rises, and what is watched beside it is past its best by more than its noise."""
    size = THRESHOLDS.watched_steps
    seen = series_of(window, "reward/watch_mean")
    rewards = series_of(window, "reward/mean")
    if len(seen) < 3 * size or mean(rewards[-size:]) <= mean(rewards[:size]):
        return None
    means = [mean(seen[i : i + size]) for i in range(len(seen) - size + 1)]
    noise = stdev(seen[-2 * size :]) / size**0.5
    fell = max(means) - means[-1]
    if fell < THRESHOLDS.flat_standard_errors * 2**0.5 * noise or fell <= 0:
        return None
    return (
        f"reward rises, but what is watched fell {significant(max(means))} →"
        f" {significant(means[-1])}: the reward is being gamed. Raise kl_in_reward, or stop earlier"
    )


def cut_answers(window: Sequence[Row], facts: StageFacts) -> str | None:
    share = window[-1].get("answer/cut_share", 0.0)
    if share <= THRESHOLDS.cut_share:
        return None
    limit, cure = "", "Raise sampling.max_new_tokens"
    if facts.max_new_tokens:
        limit = f" at {facts.max_new_tokens} tokens"
        cure = f"sampling.max_new_tokens: {2 * facts.max_new_tokens}"
    start = percent(at_start(window, "answer/cut_share"))
    return (
        f"{percent(share)} of answers cut{limit} ({start} at start):"
        f" it learns to be short, not right. {cure}"
    )


def entropy_collapse(window: Sequence[Row], facts: StageFacts) -> str | None:
    now, start = window[-1].get("policy/entropy_nats"), at_start(window, "policy/entropy_nats")
    if now is None or now >= THRESHOLDS.entropy_share_of_start * start:
        return None
    identical = window[-1].get("groups/identical_share")
    same = "" if identical is None else f"; {percent(identical)} of a group's answers are identical"
    return (
        f"entropy {significant(start)} → {significant(now)} nats{same}."
        " algorithm.clip_high: 0.28, or sampling.temperature back to 1.0"
    )


def critic_warms_up(window: Sequence[Row], facts: StageFacts) -> str | None:
    row = window[-1]
    if not row.get("train/warmup"):
        return None
    return (
        "the critic alone learns (critic_warmup_steps), the policy stands still;"
        f" value loss {significant(row.get('train/value_loss', 0.0))}"
    )


def equal_rewards(window: Sequence[Row], facts: StageFacts) -> str | None:
    """Where nothing is compared inside a group: a critic is left with nothing to predict."""
    row = window[-1]
    if "groups/no_signal_share" in row or row.get("reward/std") != 0:
        return None
    if row.get("answer/cut_share", 0.0) > 0:
        return None  # the algorithm may charge for those
    return (
        f"every answer of the step scores {significant(row['reward/mean'])}: there is nothing to"
        f" prefer. {_easier(row)}"
    )


def _easier(row: Row) -> str:
    return "Harder prompts" if row.get("reward/pass_share", 0.0) > 0.5 else "Easier prompts"


def one_sided_groups(window: Sequence[Row], facts: StageFacts) -> str | None:
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


def reward_flat(window: Sequence[Row], facts: StageFacts) -> str | None:
    series = series_of(window, "reward/mean")[-THRESHOLDS.flat_steps :]
    if len(series) < THRESHOLDS.flat_steps or mean(series) >= THRESHOLDS.solved_reward:
        return None
    if not _slope_is_noise(series):
        return None
    row = window[-1]
    share = row.get("groups/no_signal_share")
    differ = "" if share is None else f" while {percent(1.0 - share)} of groups still differ"
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
        f" for {len(series)} steps{differ}{cure}"
    )


def loss_near_zero(window: Sequence[Row], facts: StageFacts) -> str | None:
    row = window[-1]
    loss, norm = row.get("train/loss"), row.get("train/grad_norm", 0.0)
    if loss is None or "reward/mean" not in row:
        return None  # in supervised training a loss near zero is what it says
    if abs(loss) >= THRESHOLDS.loss_near_zero or norm <= THRESHOLDS.nothing:
        return None
    where = "inside a group" if "groups/no_signal_share" in row else "over the batch"
    return (
        f"loss {significant(loss, 1)} is no bug; advantages cancel {where}."
        f" The gradient moves the model (norm {significant(norm)}); watch reward"
    )


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
