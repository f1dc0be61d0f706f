"""The `generate` stage with engines and a scorer that are plain objects."""

import contextlib
import itertools
import json
import math
import threading
from dataclasses import replace

import pytest

from posttrain.config.answers import BestOfNStage, GenerateStage
from posttrain.config.pipeline import Cluster
from posttrain.errors import EngineFailed, InputError, Interrupted, RewardBroken
from posttrain.stages import best_of_n, generate
from posttrain.stages.context import StageContext
from posttrain.stages.dataset import DatasetFolder
from posttrain.stages.jobs import PluginRef
from posttrain.types import WATCH_PART, Artifact, Prompt, Rollout, Score

PROMPTS = 5


class Records:
    def __init__(self):
        self.rows, self.events = [], []

    def log(self, metrics, **axes):
        self.rows.append(dict(metrics) | axes)

    def event(self, name, **details):
        self.events.append(name)

    def samples(self, step, rows):
        self.shown = rows


class Engine:
    """Answers with the number of the answer in its call, times ten plus the prompt's last id."""

    def __init__(self, dies_at=None):
        self.calls, self.seeds, self.dies_at = 0, [], dies_at
        self.lock = threading.Lock()

    def generate_many(self, prompts, sampling):
        with self.lock:
            self.calls += 1
            self.seeds.append(sampling.seed)
            if self.calls == self.dies_at:
                raise EngineFailed("engine 0 died")
        return [
            Rollout(p.id, 0, p.token_ids, (5,), (1,), (-1.0,), (0,), f"{i}", "stop")
            for i, p in enumerate(prompts)
        ]


class Scorer:
    """The answer's number, in tenths; the gold score is its opposite."""

    def __init__(self, broken=()):
        self.broken = broken

    def score(self, prompts, rollouts):
        return [
            RewardBroken("no")
            if rollout.text in self.broken
            else Score(int(rollout.text) / 10, parts=parts_of(int(rollout.text)))
            for rollout in rollouts
        ]


def parts_of(number):
    """The gold score is the opposite of the number; one part of the reward knows that."""
    return {WATCH_PART: -number / 10, "wise": -float(number), "wise/members_std": 0.0}


class Launcher:
    def __init__(self, engine, scorer=None, stops_after=None):
        self.engine, self.scorer_, self.stops_after = engine, scorer or Scorer(), stops_after
        self.leases = 0

    def call(self, function, *arguments, **_):
        if function.__name__ == "render_prompts":
            row = {"answer": "3"}
            return [
                Prompt(f"rows/{n}", "rows", (1, n), f"{n}=", {"prompt": f"{n}=", **row})
                for n in range(PROMPTS)
            ]
        if function.__name__ == "keep_tokenizer":
            return None
        return function(*arguments)

    @contextlib.contextmanager
    def engines(self, spec, count):
        self.leases += 1
        yield [self.engine]

    @contextlib.contextmanager
    def scorer(self, job, tracker):
        yield self.scorer_

    def stop_asked(self):
        return self.stops_after is not None and self.engine.calls >= self.stops_after


@pytest.fixture
def context_of(tmp_path, monkeypatch):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    monkeypatch.setattr(generate, "ANSWERS_PER_PART", 8)

    def build(launcher, name="pool"):
        inputs = {
            "sft": Artifact("model", "sft", "a" * 10, str(model)),
            "pool": Artifact("dataset", "pool", "b" * 10, str(tmp_path / "pool" / "dataset")),
        }
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        return StageContext(name, directory, inputs, launcher, Records(), Cluster(), 2, 11, 0)

    return build


def stage(**changes):
    return GenerateStage(
        kind="generate",
        model="sft",
        data={"path": "rows.jsonl"},
        samples_per_prompt=4,
        sampling={"max_new_tokens": 8},
        scored_by="request",
        **changes,
    )


def run(context, select="best_worst", **changes):
    reward = PluginRef("reward", "request", {}, ".")
    chosen = PluginRef("selection", select, {}, ".")
    return generate.run(stage(select=select, **changes), reward, chosen, context)


def rows_of(context):
    path = context.directory / "dataset" / "rows.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_prompt_gets_its_answers_its_scores_and_a_pair(context_of):
    context = context_of(Launcher(Engine()))
    assert run(context) == "done"
    answers = list(DatasetFolder(context.directory / "dataset").answers())
    # Parts of two prompts: answers 0 to 3 are the first prompt's, 4 to 7 the second's.
    assert [[r.text for r in each.rollouts] for each in answers[:2]] == [
        ["0", "1", "2", "3"],
        ["4", "5", "6", "7"],
    ]
    assert [each.scores[1].value for each in answers] == [0.1, 0.5, 0.1, 0.5, 0.1]
    assert rows_of(context)[1] == {
        "prompt": "1=",
        "answer": "3",
        "source": "rows",
        "chosen": "7",
        "rejected": "4",
        "chosen_score": 0.7,
        "rejected_score": 0.4,
    }
    last = context.tracker.rows[-1]
    assert last == {"generate/rows": 5, "generate/prompts_with_rows_share": 1.0, "step": 20}
    assert max(row.get("generate/answers", 0) for row in context.tracker.rows) == 20


def test_no_two_parts_share_a_seed(context_of):
    engine = Engine()
    run(context_of(Launcher(engine)))
    spread = sorted(engine.seeds)
    assert len(spread) == 3 and all(b - a >= 8 for a, b in itertools.pairwise(spread))


def test_a_stopped_stage_goes_on_with_what_is_missing(context_of):
    first = Engine()
    assert run(context_of(Launcher(first, stops_after=1))) == "stopped"
    made = first.calls
    assert 1 <= made < 3
    second = Engine()
    context = context_of(Launcher(second))
    assert run(context) == "done"
    assert made + second.calls == 3
    assert len(rows_of(context)) == PROMPTS


def test_where_no_part_is_missing_no_engine_is_asked_for(context_of):
    context = context_of(Launcher(Engine()))
    assert run(context) == "done"
    rows = rows_of(context)
    (context.directory / "dataset" / "rows.jsonl").unlink()  # killed before they were written
    launcher = Launcher(Engine())
    again = context_of(launcher)
    assert run(again) == "done"
    assert launcher.leases == 0
    assert rows_of(again) == rows


def test_a_dead_engine_costs_its_parts_and_a_lease(context_of):
    launcher = Launcher(Engine(dies_at=2))
    context = context_of(launcher)
    assert run(context) == "done"
    assert launcher.leases == 2 and "engine-lost" in context.tracker.events
    assert len(rows_of(context)) == PROMPTS


def test_an_engine_that_always_dies_ends_the_stage(context_of):
    class Dead(Engine):
        def generate_many(self, prompts, sampling):
            raise EngineFailed("engine 0 died")

    launcher = Launcher(Dead())
    with pytest.raises(EngineFailed, match="engine 0 died"):
        run(context_of(launcher))
    assert launcher.leases == generate.ENGINE_ATTEMPTS


def test_an_answer_that_the_verifier_broke_on_is_in_no_pair(context_of):
    context = context_of(Launcher(Engine(), Scorer(broken=("7", "3"))))
    run(context)
    assert [row["chosen"] for row in rows_of(context)] == ["2", "6", "2", "6", "2"]


def test_an_empty_answer_is_in_no_pair(context_of):
    class Silent(Engine):
        def generate_many(self, prompts, sampling):
            found = super().generate_many(prompts, sampling)
            return [replace(each, text=" ") if each.text in "04" else each for each in found]

    class Lenient(Scorer):
        def score(self, prompts, rollouts):
            return super().score(
                prompts, [replace(each, text=each.text.strip() or "0") for each in rollouts]
            )

    context = context_of(Launcher(Silent(), Lenient()))
    run(context)
    assert [row["rejected"] for row in rows_of(context)] == ["1", "5", "1", "5", "1"]
    assert context.tracker.rows[0]["generate/empty_share"] == 0.25


def test_a_verifier_that_breaks_on_all_answers_is_the_news(context_of):
    context = context_of(Launcher(Engine(), Scorer(broken=tuple(map(str, range(8))))))
    with pytest.raises(RewardBroken):
        run(context)


def test_a_selection_that_leaves_nothing_is_refused(context_of):
    context = context_of(Launcher(Engine()))
    reward = PluginRef("reward", "request", {}, ".")
    chosen = PluginRef("selection", "best", {"min_score": 2.0}, ".")
    with pytest.raises(InputError) as error:
        generate.run(stage(select="best"), reward, chosen, context)
    assert error.value.problems[0].code == "empty-data"
    assert error.value.problems[0].path == "stages.pool.select"


def test_best_of_n_of_the_pool_by_a_reward_that_is_wrong(context_of):
    run(context_of(Launcher(Engine())))
    context = context_of(Launcher(Engine()), "bon")
    asked = BestOfNStage(kind="best_of_n", samples="pool", scored_by="request", gold="request")
    reward = PluginRef("reward", "request", {}, ".")
    document = best_of_n.run(asked, reward, reward, context)["best_of_n"]
    points = document["points"]
    assert [point["n"] for point in points] == [1, 2, 4]
    assert document["prompts"] == PROMPTS and document["broken"] == 0
    # Of four answers 0, .1, .2, .3 (three prompts) and .4 to .7 (two): means .15 and .55, so
    # (3 * .15 + 2 * .55) / 5 = .31 on average, and the best (3 * .3 + 2 * .7) / 5 = .46.
    assert points[0]["proxy"]["value"] == pytest.approx(0.31)
    assert points[-1]["proxy"]["value"] == pytest.approx(0.46)
    # The best of two of 0, 1, 2, 3 is (1*1 + 2*2 + 3*3) / 6 = 7/3; the lowest are .16 on average.
    assert points[1]["proxy"]["value"] == pytest.approx(0.16 + 0.7 / 3)
    assert points[-1]["gold"]["value"] == pytest.approx(-0.46)
    assert points[-1]["kl"] == pytest.approx(math.log(4) - 0.75)


def test_a_stop_ends_the_scoring(context_of):
    run(context_of(Launcher(Engine())))
    asked = BestOfNStage(kind="best_of_n", samples="pool", scored_by="request", gold="request")
    reward = PluginRef("reward", "request", {}, ".")
    with pytest.raises(Interrupted, match="bon was stopped; it goes on"):
        best_of_n.run(asked, reward, reward, context_of(Launcher(Engine(), stops_after=0), "bon"))


def test_scoring_that_was_stopped_goes_on_with_the_next_call(context_of, monkeypatch):
    run(context_of(Launcher(Engine())))
    monkeypatch.setattr(best_of_n, "ANSWERS_PER_CALL", 8)  # two prompts
    asked = BestOfNStage(kind="best_of_n", samples="pool", scored_by="request", gold="request")
    reward = PluginRef("reward", "request", {}, ".")

    class Counted(Scorer):
        """Of `killed_at` and `stops_at` calls, one ends the process and one asks for a stop."""

        def __init__(self, killed_at=None, stops_at=None):
            super().__init__(broken=("6",))
            self.calls, self.killed_at, self.stops_at = [], killed_at, stops_at

        def score(self, prompts, rollouts):
            if len(self.calls) == self.killed_at:
                raise KeyboardInterrupt
            self.calls.append([prompt.id for prompt in prompts])
            if len(self.calls) == self.stops_at:
                launcher.stops_after = 0
            return super().score(prompts, rollouts)

    def score_with(scorer, name):
        nonlocal launcher
        launcher = Launcher(Engine(), scorer)
        return best_of_n.run(asked, reward, reward, context_of(launcher, name))

    launcher = None
    straight, first, second, third = Counted(), Counted(killed_at=1), Counted(stops_at=1), Counted()
    expected = score_with(straight, "straight")
    with pytest.raises(KeyboardInterrupt):
        score_with(first, "bon")
    with pytest.raises(Interrupted, match="bon was stopped; it goes on with what is left"):
        score_with(second, "bon")
    assert score_with(third, "bon") == expected and expected["best_of_n"]["broken"] == 2
    calls = [each.calls for each in (first, second, third)]
    assert calls == [[call] for call in straight.calls]


def test_each_part_of_the_reward_chooses_by_itself(context_of):
    run(context_of(Launcher(Engine())))
    context = context_of(Launcher(Engine()), "bon")
    asked = BestOfNStage(
        kind="best_of_n", samples="pool", scored_by="request", gold="request", by_part=True
    )
    reward = PluginRef("reward", "request", {}, ".")
    document = best_of_n.run(asked, reward, reward, context)["best_of_n"]
    assert list(document["parts"]) == ["wise"]
    # It chooses the lowest number: 0 of three prompts, 4 of two.
    assert document["parts"]["wise"][-1]["gold"]["value"] == pytest.approx(-0.16)
    assert document["points"][-1]["gold"]["value"] == pytest.approx(-0.46)
    last = context.tracker.rows[-1]
    assert last["best_of/wise/score"] == pytest.approx(-0.16) and last["step"] == 4


def test_more_than_the_pool_holds_is_refused_with_its_place(context_of):
    run(context_of(Launcher(Engine())))
    asked = BestOfNStage(
        kind="best_of_n", samples="pool", scored_by="request", gold="request", n=[1, 8]
    )
    reward = PluginRef("reward", "request", {}, ".")
    with pytest.raises(InputError) as error:
        best_of_n.run(asked, reward, reward, context_of(Launcher(Engine()), "bon"))
    problem = error.value.problems[0]
    assert (problem.code, problem.path) == ("pool-too-small", "stages.bon.n")
    assert "more than 4" in problem.message


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_sizes_double_up_to_the_pool(largest, sizes):
    assert best_of_n.doubling(largest) == sizes
