"""Live explanations: literal windows in, literal lines out."""

from posttrain.track.explain import Explainer, StageFacts, findings

CALM = {
    "train/loss": 0.02,
    "train/grad_norm": 0.3,
    "train/lr": 3e-4,
    "reward/mean": 0.5,
    "groups/no_signal_share": 0.1,
}


def lines(window, facts=None):
    return [note.line for note in findings(window, facts)]


def test_a_calm_window_says_nothing():
    assert lines([CALM] * 15) == []  # fewer than the 20 steps of "flat"
    assert lines([]) == []


def test_loss_near_zero():
    row = CALM | {"train/loss": 0.0002, "train/grad_norm": 0.31}
    assert lines([row]) == [
        "normal: loss 0.0002 is no bug; advantages cancel inside a group."
        " The gradient moves the model (norm 0.31); watch reward"
    ]


def test_loss_near_zero_where_no_answers_are_compared():
    row = {**CALM, "train/loss": 0.0002, "train/grad_norm": 0.31}
    del row["groups/no_signal_share"]
    assert lines([row]) == [
        "normal: loss 0.0002 is no bug; advantages cancel over the batch."
        " The gradient moves the model (norm 0.31); watch reward"
    ]


BATCH_WIDE = {name: value for name, value in CALM.items() if not name.startswith("groups/")}


def test_equal_rewards_without_groups():
    row = BATCH_WIDE | {"reward/mean": 0.0, "reward/std": 0.0, "reward/pass_share": 0.0}
    assert lines([row]) == [
        "watch: every answer of the step scores 0: there is nothing to prefer. Easier prompts"
    ]
    right = row | {"reward/mean": 1.0, "reward/pass_share": 1.0}
    assert lines([right]) == [
        "watch: every answer of the step scores 1.0: there is nothing to prefer. Harder prompts"
    ]
    assert lines([row | {"reward/std": 0.1}]) == []


def test_nothing_learnt_without_groups():
    row = BATCH_WIDE | {
        "train/loss": 0.0,
        "train/grad_norm": 0.0,
        "reward/mean": 0.0,
        "reward/std": 0.0,
    }
    assert lines([row] * 3)[0] == (
        "act: nothing was learnt for 3 steps: every answer scores 0. Easier prompts, or a longer"
        " sft"
    )


def test_a_critic_that_warms_up():
    row = {**BATCH_WIDE, "train/warmup": 1.0, "train/value_loss": 0.012, "reward/std": 0.4}
    assert lines([row]) == [
        "normal: the critic alone learns (critic_warmup_steps), the policy stands still;"
        " value loss 0.012"
    ]


def test_a_small_loss_in_supervised_training_is_what_it_says():
    assert lines([{"train/loss": 0.0002, "train/grad_norm": 0.31}]) == []


def test_nothing_learnt():
    row = {
        "train/loss": 0.0,
        "train/grad_norm": 0.0,
        "reward/mean": 0.03,
        "groups/no_signal_share": 1.0,
        "groups/all_wrong_share": 0.96875,  # 31 of 32
        "groups/all_right_share": 0.03125,
    }
    assert lines([CALM, *[row] * 5], StageFacts(groups_per_step=32))[0] == (
        "act: nothing was learnt for 5 steps: all 32 groups are one-sided (31 all wrong)."
        " Easier prompts, more samples per prompt, or a longer sft"
    )


def test_one_sided_groups():
    row = CALM | {
        "groups/no_signal_share": 0.58,
        "groups/all_right_share": 0.55,
        "groups/all_wrong_share": 0.03,
    }
    assert lines([row]) == [
        "watch: 58 % of groups taught nothing (55 % all right): prompts are becoming too easy."
        " Harder ones, or more batch.samples_per_prompt"
    ]


def test_reward_flat():
    # alternating 0.70 and 0.72: mean 0.71, standard deviation 0.0103, no slope
    window = [
        CALM
        | {
            "reward/mean": 0.70 + 0.02 * (step % 2),
            "train/lr": 1e-7,
            "policy/ratio_mean": 1.0003,
            "groups/no_signal_share": 0.58 - 0.16,
        }
        for step in range(20)
    ]
    assert lines(window) == [
        "watch: reward flat at 71 % ± 2 for 20 steps while 58 % of groups still differ:"
        " lr 1e-7 moves the ratio by only 0.0003; try 3e-7"
    ]


def test_a_rising_reward_is_not_flat_and_a_solved_task_may_be():
    rising = [CALM | {"reward/mean": 0.5 + 0.01 * step} for step in range(20)]
    solved = [CALM | {"reward/mean": 0.98} for _ in range(20)]
    assert lines(rising) == []
    assert lines(solved) == []


def test_kl_jump():
    # median of 1.8 x 10 is 1.8; 9.4 > 3 x 1.8
    window = [CALM | {"policy/kl_reference_nats": 1.8} for _ in range(10)]
    window[4] |= {"reward/heldout_mean": 0.64}
    window[9] |= {"reward/heldout_mean": 0.61}
    window.append(CALM | {"policy/kl_reference_nats": 9.4})
    assert lines(window) == [
        "act: KL 1.8 → 9.4 nats in 10 steps and held-out fell 64 → 61 %: chasing the reward."
        " Raise kl_in_reward (or kl_in_loss), or halve lr"
    ]


def test_the_usual_growth_of_kl_says_nothing():
    window = [CALM | {"policy/kl_reference_nats": 0.003 * step**2} for step in range(30)]
    assert all(lines(window[: end + 1]) == [] for end in range(19))  # reward is flat from 20 on


def test_entropy_collapse():
    start = CALM | {"policy/entropy_nats": 0.41}
    now = CALM | {"policy/entropy_nats": 0.04, "groups/identical_share": 0.87}
    assert lines([start, start, start, now]) == [
        "watch: entropy 0.41 → 0.04 nats; 87 % of a group's answers are identical."
        " algorithm.clip_high: 0.28, or sampling.temperature back to 1.0"
    ]


def test_logprob_gap_holds_until_it_is_measured_again():
    far = CALM | {"weights/logprob_gap_max_nats": 2.9, "weights/checksum_failures": 0}
    line = (
        "act: engine and trainer differ by 2.9 nats on the same tokens (limit 0.001),"
        " checksums agree: not the weights; probably temperature or log-prob mode"
    )
    assert lines([far, CALM, CALM]) == [line]
    assert lines([far, CALM, CALM | {"weights/logprob_gap_max_nats": 3e-6}]) == []
    near = CALM | {"weights/logprob_gap_max_nats": 0.1}
    assert lines([near], StageFacts(precision="bf16")) == []


def test_cut_answers():
    start = CALM | {"answer/cut_share": 0.03}
    now = CALM | {"answer/cut_share": 0.31}
    assert lines([start, start, start, now], StageFacts(max_new_tokens=512)) == [
        "watch: 31 % of answers cut at 512 tokens (3 % at start): it learns to be short, not right."
        " sampling.max_new_tokens: 1024"
    ]


def test_verifier_failing():
    assert lines([CALM | {"verifier/failed_share": 0.021}]) == [
        "watch: the verifier broke on 2.1 % of answers; they are counted, never 0"
    ]


def test_trainer_waits_for_old_groups():
    # 9 waits of 4.1 s in 90 s: 41 %
    window = [
        CALM | {"axis/time_s": 10.0 * step, "age/wait_s": 4.1, "engine/busy_share": 0.8}
        for step in range(10)
    ]
    assert lines(window, StageFacts(staleness_max=1)) == [
        "watch: the trainer waited 41 % of the last 10 steps for old groups."
        " staleness 1 → 3 would hide it"
    ]
    assert lines(window, StageFacts(staleness_max=0)) == []


def test_trainer_waits_because_engines_are_full():
    window = [
        CALM | {"axis/time_s": 10.0 * step, "age/wait_s": 4.1, "engine/busy_share": 0.97}
        for step in range(10)
    ]
    assert lines(window, StageFacts(staleness_max=1)) == [
        "watch: the trainer waited 41 % of the last 10 steps, engines are busy 97 %:"
        " generation is the slow side. More engines (resources.engines)"
    ]


def test_engines_idle():
    assert lines([CALM | {"engine/busy_share": 0.37}]) == [
        "watch: engines idle 63 %, training is the slow side."
        " More trainers, or fewer engines (resources)"
    ]


def test_the_worst_comes_first():
    row = CALM | {
        "train/loss": 0.0002,
        "answer/cut_share": 0.3,
        "weights/logprob_gap_max_nats": 1.0,
    }
    assert [note.verdict for note in findings([row])] == ["act", "watch", "normal"]


def codes(explainer, rows):
    """(appearing, over) per step, codes only."""
    said = []
    for row in rows:
        appearing, over = explainer.observe(row)
        said.append(([note.code for note in appearing], over))
    return said


def test_three_steps_to_appear_ten_to_return():
    odd = CALM | {"answer/cut_share": 0.3}
    explainer = Explainer()

    first = codes(explainer, [odd, odd, odd, odd])
    assert first == [([], []), ([], []), (["cut-answers"], []), ([], [])]
    assert codes(explainer, [CALM]) == [([], ["cut-answers"])]
    again = codes(explainer, [odd] * 10)
    assert [step for step, (appearing, _) in enumerate(again) if appearing] == [9]


def test_a_finding_that_flickers_never_appears():
    odd = CALM | {"answer/cut_share": 0.3}
    assert codes(Explainer(), [odd, odd, CALM] * 5) == [([], [])] * 15


def test_facts_come_from_a_resolved_configuration():
    config = {
        "sampling": {"max_new_tokens": 12},
        "batch": {"prompts": 32},
        "staleness": {"max": 1},
        "precision": "bf16",
    }
    assert StageFacts.from_config(config) == StageFacts(12, "bf16", 1, 32)
    assert StageFacts.from_config({"kind": "sft"}) == StageFacts()


def test_judges_that_guess():
    start = CALM | {"reward/mean": 0.1, "reward/members_std": 0.3, "axis/step": 0}
    rows = [start] * 3 + [
        start | {"reward/mean": 0.1 + 0.05 * i, "reward/members_std": 0.3 + 0.1 * i, "axis/step": i}
        for i in range(1, 6)
    ]
    assert lines(rows)[0] == (
        "act: reward rose 0.25 but the reward models' spread went 0.30 → 0.80: they are guessing."
        " Stop near step 3, or combine: wco"
    )
    assert lines([start] * 3 + [start | {"reward/mean": 0.4, "reward/members_std": 0.5}]) == []
    fell = start | {"reward/mean": 0.05, "reward/members_std": 0.9}
    assert lines([start] * 3 + [fell]) == []


def test_what_is_watched_falls_while_the_reward_rises():
    seen = [0.5, 0.55, 0.6, 0.65, 0.7, 0.71, 0.7, 0.69, 0.6, 0.58, 0.55, 0.5, 0.48, 0.45, 0.4]
    rows = [
        CALM | {"reward/mean": 0.1 * i, "reward/watch_mean": value} for i, value in enumerate(seen)
    ]
    assert lines(rows)[0].startswith("watch: reward rises, but what is watched fell 0.6")
    falling = [row | {"reward/mean": -row["reward/mean"]} for row in rows]
    assert not any("what is watched" in line for line in lines(falling))
    flat = [row | {"reward/watch_mean": 0.5 + 0.01 * (i % 2)} for i, row in enumerate(rows)]
    assert not any("what is watched" in line for line in lines(flat))
