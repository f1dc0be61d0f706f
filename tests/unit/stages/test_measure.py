"""What answers amount to: points, fingerprints, broken verifiers."""

import contextlib
import json
import math
from types import SimpleNamespace

import pytest

from posttrain.config.answers import ScoredReward
from posttrain.config.data import DataSpec
from posttrain.config.pipeline import Cluster
from posttrain.config.suites import Suite, TaskSpec
from posttrain.errors import RewardBroken
from posttrain.harness.answers import HarnessAnswers
from posttrain.stages import statistics
from posttrain.stages.measure import (
    ANSWERS_KEPT,
    Evaluator,
    TaskResult,
    _accuracy,
    grade,
    points,
    suite_fingerprint,
)
from posttrain.stages.questions import Window
from posttrain.stages.scoring import time_limit_s
from posttrain.types import Interval, Prompt, Rollout, Score

SUITE = Suite(gain=["microworld/arithmetic"], keep=["microworld/copy"], tax_since="base")
DATA = {"microworld/arithmetic": "aaaa", "microworld/copy": "bbbb"}


def result(kind, value, low, high):
    return TaskResult(kind, Interval(value, low, high), 10)


def prompt(number):
    return Prompt(f"rows/{number}", "rows", (1,), f"question {number}", {"answer": str(number)})


def test_points_are_the_mean_of_the_accuracies():
    results = {
        "a": result("accuracy", 0.5, 0.4, 0.6),
        "b": result("accuracy", 0.7, 0.4, 0.9),
        "perplexity/wikitext": result("perplexity", 20.0, 19.0, 21.0),
    }
    found = points(["a", "b", "perplexity/wikitext", "not asked"], results)
    # sqrt(0.1² + 0.3²) / 2 = 0.158114, sqrt(0.1² + 0.2²) / 2 = 0.111803
    assert (found.value, found.low, found.high) == pytest.approx(
        (0.6, 0.441886, 0.711803), abs=1e-6
    )
    assert points(["perplexity/wikitext"], results) is None
    assert points([], results) is None


def test_a_fingerprint_is_twelve_hex_digits_and_the_same_every_time():
    found = suite_fingerprint(SUITE, DATA)
    assert found == suite_fingerprint(SUITE.model_copy(), dict(reversed(DATA.items())))
    assert len(found) == 12
    assert int(found, 16) >= 0


OWN_TASK = TaskSpec(
    data=DataSpec(path="microworld/copy", split="test"), reward=ScoredReward(name="skill")
)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts_per_task": 255},
        {"temperature": 0.0},
        {"keep": []},
        {"gain": ["microworld/copy"], "keep": ["microworld/arithmetic"]},
        {"tasks": {"microworld/copy": OWN_TASK}},  # 64 tokens long, the built-in 16
    ],
    ids=str,
)
def test_what_changes_the_questions_changes_the_fingerprint(changes):
    changed = SUITE.model_copy(update=changes)
    assert suite_fingerprint(changed, DATA) != suite_fingerprint(SUITE, DATA)


def test_the_content_of_the_data_changes_the_fingerprint():
    changed = DATA | {"microworld/copy": "cccc"}
    assert suite_fingerprint(SUITE, changed) != suite_fingerprint(SUITE, DATA)


@pytest.mark.parametrize(
    "changes",
    [{"when": "only_final"}, {"tax_since": "sft"}, {"tasks": {"never asked": OWN_TASK}}],
    ids=str,
)
def test_what_changes_no_question_does_not(changes):
    changed = SUITE.model_copy(update=changes)
    assert suite_fingerprint(changed, DATA) == suite_fingerprint(SUITE, DATA)


def test_answers_are_counted():
    scores = [Score(1.0, True), Score(0.0, False), Score(1.0), Score(0.0)]
    found = _accuracy([prompt(i) for i in range(4)], ["a", "b", "c", "d"], scores)
    assert (found.kind, found.prompts, found.broken) == ("accuracy", 4, 0)
    assert found.passed == (1, 0, 1, 0)
    # 2 of 4: 0.5 ± 0.349961
    assert found.interval.value == 0.5
    assert found.interval.low == pytest.approx(0.150039, abs=1e-6)
    assert found.answers[3] == {"prompt": "question 3", "completion": "d", "score": 0.0}


def test_answers_that_broke_the_verifier_are_left_out_and_counted():
    scores = [Score(1.0, True), RewardBroken("hung"), Score(0.0, False), RewardBroken("raised")]
    found = _accuracy([prompt(i) for i in range(4)], ["a", "b", "c", "d"], scores)
    assert (found.prompts, found.broken) == (2, 2)
    assert found.passed == (1, 0)
    assert found.interval == statistics.share([1, 0])
    assert [answer["completion"] for answer in found.answers] == ["a", "c"]


def test_a_verifier_that_broke_on_everything_is_the_news():
    with pytest.raises(RewardBroken, match="no such module"):
        _accuracy([prompt(0), prompt(1)], ["a", "b"], [RewardBroken("no such module")] * 2)


def test_every_prompt_has_its_answer_and_score():
    with pytest.raises(ValueError):
        _accuracy([prompt(0), prompt(1)], ["a", "b"], [Score(1.0)])


def test_the_first_answers_are_kept_for_the_report():
    count = ANSWERS_KEPT + 6
    found = _accuracy([prompt(i) for i in range(count)], ["x"] * count, [Score(1.0)] * count)
    assert ANSWERS_KEPT == 64
    assert [found.answers[0]["prompt"], found.answers[-1]["prompt"]] == [
        "question 0",
        "question 63",
    ]
    assert len(found.passed) == 70


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (Score(1.0), 1.0), (Score(2.0), 1.0), (Score(0.4), 0.4), (Score(-3.0), 0.0),
        (Score(0.0, True), 1.0), (Score(1.0, False), 0.0),
    ],
)  # fmt: skip
def test_a_grade_is_right_or_wrong_where_the_reward_says_so_else_its_value(score, expected):
    assert grade(score) == expected


def test_the_document_of_a_measurement(measured):
    document = measured([1, 0], None, perplexity=7.5).to_json()
    assert json.loads(json.dumps(document)) == document
    assert document["suite"] == "abilities"
    assert document["fingerprint"] == "f00d"
    assert document["seconds"] == 1.5
    assert document["tasks"]["perplexity/wikitext"] == {
        "value": 7.5, "low": 6.5, "high": 8.5, "kind": "perplexity", "prompts": 3, "broken": 0,
    }  # fmt: skip
    assert document["tasks"]["microworld/arithmetic"]["value"] == 0.5
    assert document["passed"] == {"microworld/arithmetic": [1, 0], "perplexity/wikitext": []}
    assert list(document["points"]) == ["gain"]  # nothing kept but a perplexity
    assert document["points"]["gain"] == pytest.approx(
        {"value": 0.5, "low": 0.094531, "high": 0.905469}, abs=1e-6
    )


class OneEngine:
    """A launcher whose only engine answers `7` and finds every token one half likely."""

    def __init__(self):
        self.rendered = 0
        self.asked = []

    def call(self, function, model_path, suite, context, **_):
        assert function.__name__ == "render_suite"
        self.rendered += 1
        return {
            "microworld/arithmetic": [prompt(7), prompt(8), prompt(7), prompt(7)],
            "perplexity/wikitext": [Window((1,), (2, 3)), Window((1,), (4,))],
        }

    @contextlib.contextmanager
    def engines(self, spec, count):
        self.asked.append((spec.model_path, spec.max_model_len, count))
        yield [self]

    def generate_many(self, prompts, sampling):
        self.sampling = sampling
        return [
            Rollout(p.id, 0, p.token_ids, (7,), (1,), (-0.5,), (0,), "7", "stop") for p in prompts
        ]

    def token_logprobs(self, sequences):
        return [[-math.log(2)] * len(scored) for _, scored in sequences]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 4096}')
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_a_suite_is_asked_of_one_engine(folder, monkeypatch):
    class Pool:
        """Scores without a process: right where the answer is the row's."""

        started, ended = 0, 0

        def __init__(self, reward):
            assert (reward.name, time_limit_s(reward)) == ("arithmetic", 10.0)
            Pool.started += 1

        def close(self):
            Pool.ended += 1

        def score(self, rows, texts):
            pairs = zip(rows, texts, strict=True)
            return [Score(float(row["answer"] == text)) for row, text in pairs]

    monkeypatch.setattr("posttrain.stages.scoring.reward_pool", Pool)
    launcher = OneEngine()
    suite = Suite(gain=["microworld/arithmetic"], keep=["perplexity/wikitext"])
    evaluator = Evaluator(launcher, Cluster())
    found = evaluator.measure(str(folder), "abilities", suite, "f00d")
    assert found.tasks["microworld/arithmetic"].passed == (1, 0, 1, 1)
    assert found.tasks["perplexity/wikitext"].interval.value == pytest.approx(2.0)
    assert found.tasks["perplexity/wikitext"].prompts == 2
    assert found.gain.value == 0.75
    assert found.keep is None
    assert (launcher.sampling.max_new_tokens, launcher.sampling.temperature) == (32, 1.0)
    assert launcher.sampling.seed == 20_000_003
    # 256 for a perplexity window, 2048 for a prompt, rounded up to 512: 2560
    assert launcher.asked == [(str(folder), 2560, 1)]
    evaluator.measure(str(folder), "abilities", suite, "f00d")
    assert launcher.rendered == 1  # the same tokenizer: the same questions
    (folder / "tokenizer.json").write_text('{"other": 1}')
    evaluator.measure(str(folder), "abilities", suite, "f00d")
    assert launcher.rendered == 2
    assert (Pool.started, Pool.ended) == (1, 0)  # one for all measurements
    evaluator.close()
    assert Pool.ended == 1


def test_tasks_of_the_harness_count_like_any_other(folder):
    """Asked first, of the same engine; one number per question, and its 95 % interval."""
    told = HarnessAnswers("acc,none", (1.0, 0.0, 1.0, 1.0), ({"prompt": "q"},), 1, 0.25)

    class Harness(OneEngine):
        def call(self, function, *args, **options):
            if function.__name__ != "run_tasks":
                return {"perplexity/wikitext": [Window((1,), (2, 3))]}
            self.harness = (args, options)
            return {"lm_eval/mmlu": told}

    launcher = Harness()
    suite = Suite(gain=["perplexity/wikitext"], keep=["lm_eval/mmlu"], prompts_per_task=4)
    found = Evaluator(launcher, Cluster()).measure(str(folder), "abilities", suite, "f00d")
    assert list(found.tasks) == ["perplexity/wikitext", "lm_eval/mmlu"]
    task = found.tasks["lm_eval/mmlu"]
    assert (task.kind, task.prompts, task.broken) == ("accuracy", 4, 1)
    assert task.interval == statistics.share([1, 0, 1, 1])
    assert (task.passed, task.answers) == (told.passed, told.answers)
    assert task.details == {"prompts cut": 0.25}
    assert found.keep.value == 0.75
    assert launcher.asked == [(str(folder), 4096, 1)]  # long enough for worked examples
    args, options = launcher.harness
    assert args == (launcher, str(folder), suite.model_dump(), 4096, ANSWERS_KEPT)
    assert options["cpus"] == 0


def test_an_engine_is_no_longer_than_the_model(folder):
    (folder / "config.json").write_text('{"max_position_embeddings": 384}')
    evaluator = Evaluator(SimpleNamespace(), Cluster())
    assert evaluator.engine_for(str(folder), SUITE).max_model_len == 384


def test_rewards_that_ask_something_outside_have_more_time():
    judge = {"name": "judge", "endpoint": "http://127.0.0.1:1/v1", "model": "m"}
    gated = {"combine": "gated", "score": "skill", "judges": {"taste": judge}}
    assert time_limit_s(ScoredReward.model_validate(gated)) == 300.0
    assert time_limit_s(ScoredReward.model_validate(gated | {"timeout_s": 7})) == 7.0
    assert time_limit_s(ScoredReward(name="gsm8k")) == 10.0


def test_a_suite_s_fingerprint_knows_the_content_of_rewards_inside_rewards(tmp_path):
    file = tmp_path / "mine.py"
    head = "from posttrain.config.strict import StrictModel\nclass Config(StrictModel): pass\n"
    rest = "def score(r, c, k): return 1.0\ndef gold(k): return []\ndef bad(k): return []\n"
    file.write_text(head + rest)
    reward = {"combine": "gated", "score": "skill", "judges": {"mine": str(file)}}
    task = TaskSpec(data=DataSpec(path="microworld/copy"), reward=reward)
    suite = Suite(gain=["copy"], tasks={"copy": task})
    before = suite_fingerprint(suite, {})
    assert suite_fingerprint(suite, {}) == before
    file.write_text(head + rest + "# another\n")
    assert suite_fingerprint(suite, {}) != before
