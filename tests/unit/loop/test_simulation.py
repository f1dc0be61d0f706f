"""The virtual clock: cases whose answer is known by hand, and rules that always hold."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from posttrain.loop.latency import (
    ONE_STEP_OVERLAP,
    SYNCHRONOUS,
    AnswerLengths,
    EngineSpeed,
    LengthTable,
    Schedule,
    System,
    TrainerSpeed,
)
from posttrain.loop.limits import filling_ahead, speedup_bound
from posttrain.loop.simulation import simulate

EQUAL = AnswerLengths(median_tokens=100, sigma=0, longest_tokens=100)
HEAVY = AnswerLengths(median_tokens=100, sigma=0.91, longest_tokens=1600)

# 4 answers of 100 tokens, 10 ms per token whatever runs beside: generating takes 1 s.
# 400 tokens at 1 ms: training takes 0.4 s.
ONE_ENGINE = System(
    num_engines=1,
    num_trainers=1,
    engine=EngineSpeed(base_s=0.01, per_sequence_s=0.0, max_running=8),
    trainer=TrainerSpeed(seconds_per_token=0.001),
    lengths=EQUAL,
    groups_per_step=4,
    samples_per_prompt=1,
)


def test_synchronous_is_generating_plus_training() -> None:
    result = simulate(ONE_ENGINE, SYNCHRONOUS, num_steps=10)
    assert (result.num_steps, result.num_warm_up_steps) == (10, 4)
    assert result.seconds_per_step == pytest.approx(1.4)
    assert result.rollouts_per_s == pytest.approx(4 / 1.4)
    assert result.tokens_per_s == pytest.approx(400 / 1.4)
    assert result.engine_busy_share == pytest.approx(1 / 1.4)
    assert result.trainer_busy_share == pytest.approx(0.4 / 1.4)
    assert result.trainer_wait_s == pytest.approx(1.0)
    assert result.train_s == pytest.approx(0.4)
    assert result.engine_depth == pytest.approx(4)
    assert result.age_shares == {0: 1.0}
    assert result.groups_in_flight == pytest.approx(4 * 1 / 1.4)


def test_new_weights_and_scores_take_their_time() -> None:
    engine = replace(ONE_ENGINE.engine, sync_s=0.1)
    system = replace(ONE_ENGINE, engine=engine, score_s=0.25)
    result = simulate(system, SYNCHRONOUS, num_steps=10)
    assert result.seconds_per_step == pytest.approx(1 + 0.25 + 0.4 + 0.1)
    assert result.engine_stall_share == pytest.approx(0.1 / 1.75)


def test_sequences_share_the_engine() -> None:
    # 10 ms + 4 x 5 ms = 30 ms per token of each of the four: 3 s, then 0.4 s of training.
    engine = EngineSpeed(base_s=0.01, per_sequence_s=0.005, max_running=8)
    result = simulate(replace(ONE_ENGINE, engine=engine), SYNCHRONOUS, num_steps=5)
    assert result.seconds_per_step == pytest.approx(3.4)


def test_what_has_no_place_waits() -> None:
    # Two places for four answers: two rounds of 1 s.
    engine = replace(ONE_ENGINE.engine, max_running=2)
    result = simulate(replace(ONE_ENGINE, engine=engine), SYNCHRONOUS, num_steps=5)
    assert result.seconds_per_step == pytest.approx(2.4)
    assert result.engine_depth == pytest.approx(2)


def test_prompts_are_trained_and_fixed_costs_counted() -> None:
    # 4 x (100 + 50) tokens at 1 ms over 2 trainers + 0.1 s = 0.4 s.
    trainer = TrainerSpeed(seconds_per_token=0.001, fixed_s=0.1)
    system = replace(ONE_ENGINE, trainer=trainer, num_trainers=2, prompt_tokens=50)
    assert simulate(system, SYNCHRONOUS, num_steps=5).train_s == pytest.approx(0.4)


def test_trainers_are_the_slow_side() -> None:
    # Training takes 2 s, generating 1 s: a step takes 2 s and the engine rests for half of it.
    system = replace(ONE_ENGINE, trainer=TrainerSpeed(seconds_per_token=0.005))
    result = simulate(system, Schedule(1, 1), num_steps=10)
    assert result.seconds_per_step == pytest.approx(2.0)
    assert result.trainer_busy_share == pytest.approx(1.0)
    assert result.engine_busy_share == pytest.approx(0.5)
    assert result.age_shares == {1: 1.0}


def test_engines_are_the_slow_side() -> None:
    # Four places, always full: four answers per second; training (0.4 s) is hidden.
    system = replace(ONE_ENGINE, engine=replace(ONE_ENGINE.engine, max_running=4))
    result = simulate(system, Schedule(1, 1), num_steps=10)
    assert result.seconds_per_step == pytest.approx(1.0)
    assert result.engine_busy_share == pytest.approx(1.0)
    assert result.engine_depth == pytest.approx(4)
    assert result.trainer_busy_share == pytest.approx(0.4)


def test_one_step_overlap_takes_the_longer_of_both() -> None:
    engine = replace(ONE_ENGINE.engine, sync_s=0.1)
    system = replace(ONE_ENGINE, engine=engine)
    result = simulate(system, ONE_STEP_OVERLAP, num_steps=10)
    assert result.seconds_per_step == pytest.approx(1.1)  # generating 1, training 0.4, sync 0.1
    slow = replace(system, trainer=TrainerSpeed(seconds_per_token=0.005))
    result = simulate(slow, ONE_STEP_OVERLAP, num_steps=10)
    assert result.seconds_per_step == pytest.approx(2.1)  # generating 1, training 2, sync 0.1
    assert result.age_shares == {1: 1.0}


def test_filtered_groups_are_generated_again() -> None:
    # One place, so that time is work: half of the groups teach nothing, two are made for each used.
    engine = EngineSpeed(base_s=0.01, per_sequence_s=0.0, max_running=1)
    system = replace(ONE_ENGINE, engine=engine, filtered_share=0.5)
    result = simulate(system, Schedule(1, 1), num_steps=200)
    assert result.seconds_per_step == pytest.approx(8.0, rel=0.1)  # 4 s without filtering


def test_the_law_is_met_with_equality_where_trainers_never_wait() -> None:
    # Four devices: generating 1 s, training 800 tokens x 10 ms / 4 = 2 s. x = 2/3.
    # Two trainers (f = 1/2) train 4 s per step: 3 / 4 = f / x.
    system = replace(
        ONE_ENGINE,
        num_engines=2,
        num_trainers=2,
        trainer=TrainerSpeed(seconds_per_token=0.01),
        groups_per_step=8,
    )
    synchronous = simulate(system.colocated(), SYNCHRONOUS, num_steps=10)
    x = synchronous.train_s / synchronous.seconds_per_step
    assert x == pytest.approx(2 / 3)
    ahead = simulate(system, Schedule(1, 1), num_steps=10)
    ratio = synchronous.seconds_per_step / ahead.seconds_per_step
    assert ratio == pytest.approx(0.75)
    assert speedup_bound(system.trainer_share, x) == pytest.approx(0.75)


def device_bound(training_share: float) -> tuple[System, float]:
    """8 engines, 3 trainers, 64 samples per engine and step, heavy tails; x as given."""
    engine = EngineSpeed(base_s=0.01, per_sequence_s=0.0, max_running=256)
    system = System(8, 3, engine, TrainerSpeed(1e-9), HEAVY, 512, 1)
    generating_s = simulate(system.colocated(), SYNCHRONOUS, num_steps=20).seconds_per_step
    training_s = generating_s * training_share / (1 - training_share)
    speed = TrainerSpeed(training_s * 11 / system.tokens_per_step)
    system = replace(system, trainer=speed)
    return system, simulate(system.colocated(), SYNCHRONOUS, num_steps=20).seconds_per_step


def test_heavy_tails_on_eleven_devices() -> None:
    system, synchronous_s = device_bound(0.10)

    def ratio(schedule: Schedule) -> float:
        return synchronous_s / simulate(system, schedule, num_steps=20).seconds_per_step

    assert synchronous_s == pytest.approx(15.92, abs=0.01)
    assert ratio(SYNCHRONOUS) == pytest.approx(0.79, abs=0.01)  # fewer engines: a loss
    assert ratio(ONE_STEP_OVERLAP) == pytest.approx(1.09, abs=0.01)
    assert ratio(Schedule(1, 1)) == pytest.approx(1.50, abs=0.01)
    assert ratio(Schedule(1, 3)) == pytest.approx(2.67, abs=0.01)
    assert ratio(Schedule(4, 4)) == pytest.approx(2.74, abs=0.01)  # its batches were shorter
    assert speedup_bound(system.trainer_share, 0.10) == pytest.approx(2.727, abs=0.001)


@pytest.mark.parametrize("training_share", [0.05, 0.3, 0.7])
def test_the_law_always_holds(training_share: float) -> None:
    system, synchronous_s = device_bound(training_share)
    synchronous = simulate(system.colocated(), SYNCHRONOUS, num_steps=20)
    bound = speedup_bound(system.trainer_share, synchronous.train_s / synchronous_s)
    for schedule in (Schedule(1, 1), Schedule(2, 4), Schedule(6, 6)):
        ahead = simulate(system, schedule, num_steps=8)
        # Batches differ in tokens: compare per trained token, not per step.
        ratio = ahead.tokens_per_s / synchronous.tokens_per_s
        assert ratio <= bound * (1 + 1e-9)


@pytest.mark.parametrize("ahead", [0, 1, 2, 4])
@pytest.mark.parametrize("slack", [0, 1, 3])
def test_nothing_is_older_than_the_bound(ahead: int, slack: int) -> None:
    system = replace(
        ONE_ENGINE,
        num_engines=3,
        lengths=HEAVY,
        groups_per_step=6,
        samples_per_prompt=3,
        engine=EngineSpeed(0.01, 0.001, 5, sync_s=0.3),
        score_s=0.5,
    )
    result = simulate(system, Schedule(ahead, ahead + slack), num_steps=60, seed=ahead)
    assert result.age_max <= ahead + slack
    assert sum(result.age_shares.values()) == pytest.approx(1.0)
    assert 0 < result.trainer_busy_share <= 1 and 0 < result.engine_busy_share <= 1
    assert result.engine_depth <= 5


def test_equal_seeds_give_equal_results() -> None:
    system = replace(ONE_ENGINE, lengths=HEAVY)
    first, again, other = (
        simulate(system, Schedule(1, 2), num_steps=10, seed=seed) for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_a_part_of_a_large_system_takes_as_long() -> None:
    system = replace(ONE_ENGINE, num_engines=8, groups_per_step=64, trainer=TrainerSpeed(0.0002))
    whole = simulate(system, Schedule(1, 1), num_steps=10)
    part = simulate(system.smaller(4), Schedule(1, 1), num_steps=10)
    assert part.seconds_per_step == pytest.approx(whole.seconds_per_step)
    assert part.trainer_busy_share == pytest.approx(whole.trainer_busy_share)


def test_1024_engines_with_64_sequences_each() -> None:
    system = System(
        num_engines=1024,
        num_trainers=300,
        engine=EngineSpeed(0.008, 0.0001, max_running=64, sync_s=0.5),
        trainer=TrainerSpeed(0.0001),
        lengths=HEAVY,
        groups_per_step=1024,
        samples_per_prompt=8,
    )
    began = time.process_time()
    result = simulate(system, Schedule(7, 9), num_steps=6, num_warm_up_steps=12)
    assert time.process_time() - began < 30
    assert result.groups_in_flight * 8 / 1024 > 40  # samples per engine
    assert result.age_max <= 9


def test_answer_lengths() -> None:
    assert AnswerLengths(100, 0, 60).mean_tokens == 60
    assert AnswerLengths(100, 0.91, 10**9).mean_tokens == pytest.approx(151.3, abs=0.1)
    lengths = AnswerLengths(100, 0.91, 400)
    table = LengthTable(lengths, 4, seed=1)
    drawn = [table.of(draw, sample) for draw in range(20_000) for sample in range(4)]
    assert sum(drawn) / len(drawn) == pytest.approx(lengths.mean_tokens, rel=0.01)
    assert (min(drawn) >= 1, max(drawn)) == (True, 400)
    late = LengthTable(lengths, 4, seed=1)
    assert late.of(9_999, 3) == table.of(9_999, 3)  # asked for in another order
    assert late.of_draw(17) == sum(table.of(17, sample) for sample in range(4))


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match="median >= 1"):
        AnswerLengths(0.5, 0, 10)
    with pytest.raises(ValueError, match="1 or more"):
        replace(ONE_ENGINE, num_trainers=0)
    with pytest.raises(ValueError, match="steps_ahead <= max_staleness"):
        simulate(ONE_ENGINE, Schedule(2, 1))


@pytest.mark.parametrize(
    ("places", "rollouts", "maximum", "expected"),
    [(8, 4, 9, 2), (8, 4, 1, 1), (8, 4, 0, 0), (9, 4, 9, 3), (1, 512, 4, 1)],
)
def test_filling_ahead(places: int, rollouts: int, maximum: int, expected: int) -> None:
    assert filling_ahead(places, rollouts, maximum) == expected


def test_filling_ahead_fills() -> None:
    # Eight places, four answers per step: with two steps ahead they are always full.
    full = simulate(ONE_ENGINE, Schedule(filling_ahead(8, 4, 4), 4), num_steps=20)
    assert full.engine_depth == pytest.approx(8)
    assert full.engine_busy_share == pytest.approx(1)
    less = simulate(ONE_ENGINE, Schedule(1, 4), num_steps=20)
    assert less.engine_depth < 7


def test_limits_refuse_what_means_nothing() -> None:
    with pytest.raises(ValueError, match="shares lie in"):
        speedup_bound(0.0, 0.5)
    with pytest.raises(ValueError, match="rollouts_per_step >= 1"):
        filling_ahead(8, 0, 1)


def test_weights_that_are_told_of_seldom_stop_engines_less_and_make_answers_older() -> None:
    # Places for four answers, always full: 1 s of generating per step, and 0.2 s per sync.
    engine = replace(ONE_ENGINE.engine, max_running=4, sync_s=0.2)
    system = replace(ONE_ENGINE, engine=engine)
    often = simulate(system, Schedule(3, 4), num_steps=60)
    seldom = simulate(system, Schedule(3, 4, sync_every=2), num_steps=60)
    assert often.seconds_per_step == pytest.approx(1.2, rel=0.02)
    assert seldom.seconds_per_step == pytest.approx(1.1, rel=0.02)
    assert seldom.age_mean > often.age_mean
    assert seldom.age_max <= 4


@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
def test_the_fewest_steps_ahead_for_seldom_weights_still_serve_every_step(ahead: int) -> None:
    schedule = Schedule(ahead, ahead + 1, sync_every=ahead + 1)
    assert simulate(ONE_ENGINE, schedule, num_steps=30).num_steps == 30


def test_greedy_answers_are_generated_and_not_trained_on() -> None:
    # Two places for eight answers of 1 s: 4 s where 2 s were enough; 400 tokens are trained still.
    engine = replace(ONE_ENGINE.engine, max_running=2)
    plain = replace(ONE_ENGINE, engine=engine)
    alone = simulate(plain, SYNCHRONOUS, num_steps=5)
    beside = simulate(replace(plain, greedy=True), SYNCHRONOUS, num_steps=5)
    assert alone.seconds_per_step == pytest.approx(2.0 + 0.4)
    assert beside.seconds_per_step == pytest.approx(4.0 + 0.4)
    assert beside.train_s == pytest.approx(0.4)
