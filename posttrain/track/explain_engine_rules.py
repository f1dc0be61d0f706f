"""Rules of the live explanations on the asynchronous engine: age, waiting, idling, weights, losses.

Each rule is a function of a window (one merged row per step, oldest first, the stage's beginning in
front) and the stage's facts; it returns its sentence, with the numbers that made it speak, or None.
"""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.track.explain_window import (
    THRESHOLDS,
    Row,
    StageFacts,
    fine_percent,
    latest,
    recent_mean,
    series_of,
)
from posttrain.track.formatting import percent, significant
from posttrain.track.rows import total_of

LAST_STEPS = 10


def rollouts_lost(window: Sequence[Row], facts: StageFacts) -> str | None:
    lost, twice = (sum(series_of(window, f"ops/{n}")) for n in ("rollouts_lost", "trained_twice"))
    if lost + twice <= 0:
        return None
    return (
        f"{lost:.0f} rollouts lost, {twice:.0f} trained twice; both must be 0, so this is a bug."
        " Keep the stage's folder and report it"
    )


def older_than_allowed(window: Sequence[Row], facts: StageFacts) -> str | None:
    oldest, bound = latest(window, "age/versions/max"), facts.staleness_max
    if oldest is None or bound is None or oldest <= bound:
        return None
    return (
        f"tokens {oldest:.0f} versions old were trained, staleness.max is {bound}; this is a bug."
        " Keep the stage's folder and report it"
    )


def logprob_gap(window: Sequence[Row], facts: StageFacts) -> str | None:
    limit, gap = facts.logprob_gap_limit, latest(window, "weights/logprob_gap_max_nats")
    if gap is None or gap <= limit:
        return None
    cause = (
        "checksums differ: the weights are not the same"
        if latest(window, "weights/checksum_failures")
        else "checksums agree: not the weights; probably temperature or log-prob mode"
    )
    return (
        f"engine and trainer differ by {significant(gap)} nats on the same tokens"
        f" (limit {significant(limit)}), {cause}"
    )


def logprob_gap_near(window: Sequence[Row], facts: StageFacts) -> str | None:
    limit, gap = facts.logprob_gap_limit, latest(window, "weights/logprob_gap_max_nats")
    if gap is None or not THRESHOLDS.small_gap_share * limit < gap <= limit:
        return None
    return (
        f"engine and trainer differ by {significant(gap)} nats on the same tokens;"
        f" {significant(limit)} stops the stage. Look at the curve of"
        " weights/logprob_gap_max_nats: rising means that they drift apart"
    )


def verifier_failing(window: Sequence[Row], facts: StageFacts) -> str | None:
    share = window[-1].get("verifier/failed_share", 0.0)
    if share <= THRESHOLDS.verifier_failed_share:
        return None
    return f"the verifier broke on {fine_percent(share)} of answers; they are counted, never 0"


def groups_dropped(window: Sequence[Row], facts: StageFacts) -> str | None:
    rows = window[-LAST_STEPS:]
    dropped = total_of(rows, "groups/dropped")
    whole = dropped + total_of(rows, "groups/trained")
    if dropped <= THRESHOLDS.dropped_share * whole:
        return None
    return (
        f"{fine_percent(dropped / whole)} of groups dropped in the last {len(rows)} steps"
        f" ({dropped:.0f} of {whole:.0f}): none was scored 0, each is an event `dropped`"
        " with its reason"
    )


def many_filtered(window: Sequence[Row], facts: StageFacts) -> str | None:
    rows = window[-LAST_STEPS:]
    filtered, trained = total_of(rows, "groups/filtered"), total_of(rows, "groups/trained")
    if trained <= 0 or filtered <= THRESHOLDS.filtered_per_trained * trained:
        return None
    return (
        f"for each group trained, {significant(filtered / trained)} were generated and filtered"
        " (all right or all wrong): engines work for nothing. Prompts nearer to what the model"
        " can half do, or filter_no_signal: false"
    )


def as_old_as_allowed(window: Sequence[Row], facts: StageFacts) -> str | None:
    bound, ahead = facts.staleness_max, facts.staleness_ahead
    if bound is None or bound < THRESHOLDS.at_bound_from or (ahead or bound) < bound:
        return None
    share = recent_mean(window, f"age/share/{bound}")
    if share is None or share <= THRESHOLDS.at_bound_share:
        return None
    return (
        f"{percent(share)} of tokens are {bound} versions old, the oldest allowed, because engines"
        f" may work {bound} steps ahead. staleness: {{max: {bound}, ahead: {max(1, bound - 2)}}}"
        " gives younger data; `plan` says whether engines stay full"
    )


def weights_stall(window: Sequence[Row], facts: StageFacts) -> str | None:
    share = recent_mean(window, "weights/stall_share")
    if share is None or share <= THRESHOLDS.stall_share:
        return None
    sync = recent_mean(window, "weights/sync_ms")
    each = "" if sync is None else f" ({sync:.0f} ms each)"
    return (
        f"generation stands still {percent(share)} of the time to take new weights{each}."
        " Longer steps: more batch.prompts"
    )


def taking_turns(window: Sequence[Row], facts: StageFacts) -> str | None:
    both = recent_mean(window, "overlap/both_busy_share")
    engine = recent_mean(window, "engine/busy_share")
    trainer = recent_mean(window, "trainer/busy_share")
    if both is None or engine is None or trainer is None or not facts.staleness_max:
        return None
    if both >= THRESHOLDS.turns_both_busy or engine + trainer <= THRESHOLDS.turns_either_busy:
        return None
    bound = facts.staleness_max
    return (
        f"engine ({percent(engine)} busy) and trainer ({percent(trainer)}) work in turns, together"
        f" only {percent(both)} of the time. staleness {bound} → {bound + 2} lets both go on"
    )


def trainer_waits(window: Sequence[Row], facts: StageFacts) -> str | None:
    rows = [row for row in window[-LAST_STEPS:] if "age/wait_s" in row and "axis/time_s" in row]
    if len(rows) < 2 or facts.staleness_max == 0:
        return None  # with staleness 0 waiting is the point
    elapsed = rows[-1]["axis/time_s"] - rows[0]["axis/time_s"]
    if elapsed <= 0:
        return None
    share = min(1.0, sum(row["age/wait_s"] for row in rows[1:]) / elapsed)
    busy = recent_mean(window, "engine/busy_share")
    if busy is not None and busy >= THRESHOLDS.engines_busy:
        if share <= THRESHOLDS.slow_engines_wait_share:
            return None
        return (
            f"the trainer waited {percent(share)} of the last {len(rows)} steps, engines are busy"
            f" {percent(busy)}: generation is the slow side. More engines (resources.engines)"
        )
    if share <= THRESHOLDS.old_groups_wait_share:
        return None
    bound, ready = facts.staleness_max, latest(window, "age/buffer_groups")
    cure = f"staleness {bound} → {bound + 2}" if bound else "A larger staleness"
    meanwhile = f", {ready:.0f} younger ones lay ready" if ready else ""
    return (
        f"the trainer waited {percent(share)} of the last {len(rows)} steps for old groups"
        f"{meanwhile}. {cure} would hide it"
    )


def engines_idle(window: Sequence[Row], facts: StageFacts) -> str | None:
    busy = recent_mean(window, "engine/busy_share")
    if busy is None or 1.0 - busy <= THRESHOLDS.engines_idle_share or facts.staleness_max == 0:
        return None
    return (
        f"engines idle {percent(1.0 - busy)}, training is the slow side."
        " More trainers, or fewer engines (resources)"
    )


def synchronous_idle(window: Sequence[Row], facts: StageFacts) -> str | None:
    busy = recent_mean(window, "engine/busy_share")
    if busy is None or 1.0 - busy <= THRESHOLDS.engines_idle_share or facts.staleness_max != 0:
        return None
    return (
        f"engines idle {percent(1.0 - busy)}: with staleness 0 they wait while the trainer works."
        " staleness: 1 lets them go on"
    )
