"""Live explanations of the asynchronous engine: literal windows in, literal lines out."""

from posttrain.track.explain import StageFacts, findings

CALM = {
    "train/loss": 0.02,
    "train/grad_norm": 0.3,
    "reward/mean": 0.5,
    "groups/no_signal_share": 0.1,
    "groups/trained": 32.0,
    "groups/filtered": 0.0,
    "groups/refilled": 0.0,
    "groups/dropped": 0.0,
    "age/share/0": 0.4,
    "age/share/2": 0.4,
    "age/share/4": 0.2,
    "age/versions/max": 4.0,
    "age/buffer_groups": 5.0,
    "engine/busy_share": 0.85,
    "trainer/busy_share": 0.88,
    "overlap/both_busy_share": 0.75,
    "weights/sync_ms": 46.0,
    "weights/stall_share": 0.004,
    "weights/logprob_gap_max_nats": 3e-6,
    "ops/rollouts_lost": 0.0,
    "ops/trained_twice": 0.0,
}
FOUR = StageFacts(staleness_max=4, staleness_ahead=2)


def lines(window, facts=FOUR):
    return [note.line for note in findings(window, facts)]


def test_a_calm_engine_says_nothing():
    assert lines([CALM] * 15) == []


def test_rollouts_lost():
    window = [CALM, CALM | {"ops/rollouts_lost": 2.0}, CALM]
    assert lines(window) == [
        "act: 2 rollouts lost, 0 trained twice; both must be 0, so this is a bug."
        " Keep the stage's folder and report it"
    ]


def test_older_than_allowed():
    assert lines([CALM | {"age/versions/max": 5.0}]) == [
        "act: tokens 5 versions old were trained, staleness.max is 4; this is a bug."
        " Keep the stage's folder and report it"
    ]
    assert lines([CALM | {"age/versions/max": 5.0}], StageFacts()) == []  # bound not known


def test_logprob_gap_near_its_limit():
    near = CALM | {"weights/logprob_gap_max_nats": 0.0008}
    assert lines([near, CALM | {"weights/logprob_gap_max_nats": None}]) == [
        "watch: engine and trainer differ by 0.0008 nats on the same tokens; 0.001 stops the"
        " stage. Look at the curve of weights/logprob_gap_max_nats: rising means that they drift"
        " apart"
    ]
    assert lines([near], StageFacts(precision="bf16")) == []


def test_groups_dropped():
    # 10 steps of 32 trained, 10 dropped: 10 of 330
    window = [CALM] * 9 + [CALM | {"groups/dropped": 10.0}]
    assert lines(window) == [
        "watch: 3.0 % of groups dropped in the last 10 steps (10 of 330): none was scored 0, each"
        " is an event `dropped` with its reason"
    ]
    by_source = {key: value for key, value in CALM.items() if key != "groups/dropped"}
    by_source |= {"groups/dropped/gsm8k": 7.0, "groups/dropped/MATH": 3.0}
    assert lines([CALM] * 9 + [by_source])[0].startswith("watch: 3.0 % of groups dropped")
    assert lines([CALM] * 9 + [CALM | {"groups/dropped": 3.0}]) == []  # 3 of 323 is under 1 %


def test_many_filtered():
    # 58 filtered for 32 trained: 1.8 each
    window = [CALM | {"groups/filtered": 58.0, "groups/refilled": 58.0}] * 4
    assert lines(window) == [
        "watch: for each group trained, 1.8 were generated and filtered (all right or all wrong):"
        " engines work for nothing. Prompts nearer to what the model can half do, or"
        " filter_no_signal: false"
    ]
    assert lines([CALM | {"groups/filtered": 32.0}] * 4) == []


def test_as_old_as_allowed():
    old = CALM | {"age/share/0": 0.08, "age/share/2": 0.2, "age/share/4": 0.72}
    assert lines([old] * 3, StageFacts(staleness_max=4)) == [
        "watch: 72 % of tokens are 4 versions old, the oldest allowed, because engines may work 4"
        " steps ahead. staleness: {max: 4, ahead: 2} gives younger data; `plan` says whether"
        " engines stay full"
    ]
    assert lines([old] * 3, FOUR) == []  # they are held back already
    one = CALM | {"age/share/1": 1.0, "age/versions/max": 1.0}
    assert lines([one] * 3, StageFacts(staleness_max=1)) == []  # nothing to choose


def test_weights_stall():
    assert lines([CALM | {"weights/stall_share": 0.08}] * 3) == [
        "watch: generation stands still 8 % of the time to take new weights (46 ms each)."
        " Longer steps: more batch.prompts"
    ]


def test_taking_turns():
    turns = {
        "overlap/both_busy_share": 0.12,
        "engine/busy_share": 0.71,
        "trainer/busy_share": 0.39,
    }
    assert lines([CALM | turns] * 3) == [
        "watch: engine (71 % busy) and trainer (39 %) work in turns, together only 12 % of the"
        " time. staleness 4 → 6 lets both go on"
    ]
    assert lines([CALM | turns] * 3, StageFacts()) == []  # perhaps synchronous, as it should be


def test_trainer_waits_while_younger_groups_lie_ready():
    # 9 waits of 4.1 s in 90 s: 41 %
    window = [CALM | {"axis/time_s": 10.0 * step, "age/wait_s": 4.1} for step in range(10)]
    assert lines(window) == [
        "watch: the trainer waited 41 % of the last 10 steps for old groups, 5 younger ones lay"
        " ready. staleness 4 → 6 would hide it"
    ]


def test_idle_engines_are_normal_where_nothing_overlaps():
    assert lines([CALM | {"engine/busy_share": 0.37}], StageFacts(staleness_max=0))[1:] == [
        "normal: engines idle 63 %: with staleness 0 they wait while the trainer works."
        " staleness: 1 lets them go on"
    ]
    assert lines([CALM | {"engine/busy_share": 0.37}]) == [
        "watch: engines idle 63 %, training is the slow side."
        " More trainers, or fewer engines (resources)"
    ]
