"""Loading: what is filled in, where each value came from, and every mistake at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.config.load import load_pipeline
from posttrain.config.offline import SftStage
from posttrain.config.pipeline import OnlineRlStage
from posttrain.errors import InputError

Write = Callable[..., str]


def messages(file: str, *overrides: str) -> list[str]:
    return [problem.render() for problem in load_pipeline(file, overrides).problems]


def test_a_sound_file_has_no_problems(write_pipeline: Write) -> None:
    loaded = load_pipeline(write_pipeline())
    assert loaded.problems == ()
    rlvr = loaded.pipeline.stages["rlvr"]
    assert isinstance(rlvr, OnlineRlStage)
    assert rlvr.algorithm.name == "grpo"
    assert rlvr.algorithm.settings == {"lr": 0.0003}
    assert rlvr.staleness.max == 1
    assert loaded.origins["stages.rlvr.algorithm.lr"] == ("mine.yaml", 11)
    assert loaded.origins["stages.base.data.path"] == ("mine.yaml", 6)
    assert loaded.cluster.precision == "fp32"
    assert loaded.origins["cluster.precision"][0].endswith("configs/cluster/laptop.yaml")


def test_every_mistake_is_shown_at_once(write_pipeline: Write) -> None:
    file = write_pipeline(
        "prompts: 32, samples_per_prompt: 8", "promts: 32, samples_per_prompt: many",
        "steps: 60", "steps: 0",
        "kind: average, pre", "kind: averag, pre",
        "from_scratch: micro", "from_scratch: micro, path: x/y",
    )  # fmt: skip
    assert messages(file) == [
        "error[bad-value] mine.yaml:5 stages.blank: give one of `path` and `from_scratch`",
        "error[bad-value] mine.yaml:14 stages.rlvr.batch.samples_per_prompt: is many, has to be "
        "a whole number",
        "error[unknown-key] mine.yaml:14 stages.rlvr.batch: no key `promts`\n"
        "  help: did you mean `prompts`?",
        "error[bad-value] mine.yaml:15 stages.rlvr.steps: is 0, has to be more than 0",
        "error[unknown-kind] mine.yaml:17 stages.average.kind: no kind `averag`\n"
        "  help: did you mean `average`?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "samples_per_prompt: 8",
            "sample_per_prompt: 8",
            "error[unknown-key] mine.yaml:14 stages.rlvr.batch: no key `sample_per_prompt`\n"
            "  help: did you mean `samples_per_prompt`?",
        ),
        (
            "    steps: 60\n",
            "    steps: 60\n    lr: 1e-5\n",
            "error[unknown-key] mine.yaml:16 stages.rlvr: no key `lr`\n"
            "  help: did you mean `stages.rlvr.algorithm.lr`?",
        ),
        (
            "    steps: 60\n",
            "",
            "error[missing-key] mine.yaml:8 stages.rlvr: `steps` is missing\n"
            "  help: Weight versions to make; one optimiser batch each.",
        ),
        (
            "kind: average, ",
            "",
            "error[missing-key] mine.yaml:17 stages.average: `kind` is missing\n"
            "  help: one of model, sft, reward_model, preference, generate, best_of_n, "
            "over_optimisation, online_rl, average, evaluate",
        ),
        (
            "samples_per_prompt: 8}",
            "samples_per_prompt: 8}\n    staleness: {max: 1, ahead: 2}",
            "error[bad-value] mine.yaml:15 stages.rlvr.staleness: `ahead` is 2, more than `max`, "
            "which is 1\n  help: max: 2, or ahead: 1",
        ),
        (
            "samples_per_prompt: 8}",
            "samples_per_prompt: 8}\n    staleness: {max: 4, ahead: 1, sync_every: 3}",
            "error[bad-value] mine.yaml:15 stages.rlvr.staleness: `sync_every` is 3, but work for "
            "1 steps ahead is all that engines are given between two syncs: the trainer would wait "
            "for ever\n  help: sync_every: 2 or less, or ahead: 2",
        ),
        (
            "keep: [microworld/copy]",
            "keep: microworld/copy",
            "error[bad-value] mine.yaml:3 suites.abilities.keep: is microworld/copy, has to be a "
            "list: [a, b]",
        ),
        (
            "tax_since: base}",
            "tax_since: base, when: evry_model}",
            "error[bad-value] mine.yaml:3 suites.abilities.when: is evry_model, has to be one of "
            "every_model, only_final\n  help: did you mean `every_model`?",
        ),
        (
            "name: mine\n",
            "name: my run\n",
            "error[bad-value] mine.yaml:1 name: is `my run`, has to be letters, digits, `_`, `-` "
            "and `.`",
        ),
        (
            "name: mine\n",
            "name: mine\nclustr: laptop\n",
            "error[unknown-key] mine.yaml:2: no key `clustr`\n  help: did you mean `cluster`?",
        ),
        (
            "name: mine\n",
            "name: mine\ncluster: labtop\n",
            "error[unknown-preset] mine.yaml:2 cluster.uses: no cluster preset `labtop`\n"
            "  help: did you mean `laptop`?",
        ),
        (
            "{kind: sft, model: base,",
            "{kind: sft, uses: sft/smal, model: base,",
            "error[unknown-preset] mine.yaml:7 stages.sft.uses: no preset `sft/smal`\n"
            "  help: did you mean `sft/small`?",
        ),
        (
            "  average: {",
            "  a.b: {",
            "error[bad-name] mine.yaml:17 stages: `a.b` is no name: a letter, then letters, "
            "digits, `_` and `-`",
        ),
        (
            "    data: microworld/arithmetic\n",
            '    data: "${stages.stf.data}"\n',
            "error[bad-interpolation] mine.yaml:13 stages.rlvr.data: `${stages.stf.data}` names "
            "nothing\n  help: did you mean `${stages.sft.data}`?",
        ),
    ],
)
def test_each_mistake_names_place_and_cure(
    write_pipeline: Write, old: str, new: str, expected: str
) -> None:
    assert messages(write_pipeline(old, new))[0] == expected


def test_the_pipeline_of_a_faulty_file_cannot_be_read_by_mistake(write_pipeline: Write) -> None:
    loaded = load_pipeline(write_pipeline("steps: 60", "steps: no"))
    with pytest.raises(InputError) as caught:
        _ = loaded.pipeline
    assert caught.value.exit_code == 2
    assert loaded.unreadable == {"rlvr": "online_rl"}
    assert list(loaded.draft.stages) == ["blank", "base", "sft", "average", "final"]


def test_interpolation_copies_whole_blocks(write_pipeline: Write) -> None:
    loaded = load_pipeline(
        write_pipeline("data: microworld/arithmetic_worked", 'data: "${stages.base.data}"')
    )
    stage = loaded.pipeline.stages["sft"]
    assert isinstance(stage, SftStage)
    assert stage.data.path == "microworld/skills"


def test_presets_are_put_under_the_files_own_keys(write_pipeline: Write) -> None:
    Path("mild.yaml").write_text("algorithm: {lr: 1e-6, schedule: cosine}\nbatch: {rows: 7}\n")
    file = write_pipeline(
        "{kind: sft, model: base,", "{kind: sft, uses: ./mild.yaml, batch: {rows: 9}, model: base,"
    )
    loaded = load_pipeline(file)
    assert loaded.problems == ()
    stage = loaded.pipeline.stages["sft"]
    assert isinstance(stage, SftStage)
    assert stage.batch.rows == 9
    assert stage.algorithm.name == "sft"
    assert stage.algorithm.settings == {"lr": 1e-6, "schedule": "cosine"}
    assert loaded.origins["stages.sft.algorithm.lr"] == ("mild.yaml", 1)
    assert loaded.origins["stages.sft.batch.rows"] == ("mine.yaml", 7)


def test_settings_of_another_plugin_in_a_preset_are_dropped(write_pipeline: Write) -> None:
    Path("ppo.yaml").write_text("algorithm: {name: ppo, clip_value: 0.2}\n")
    loaded = load_pipeline(
        write_pipeline("    model: sft\n", "    model: sft\n    uses: ./ppo.yaml\n")
    )
    assert loaded.raw["stages"]["rlvr"]["algorithm"] == {"name": "grpo", "lr": 0.0003}


def test_several_presets_are_read_left_to_right(write_pipeline: Write) -> None:
    Path("one.yaml").write_text("steps: 1\nepochs: null\nholdout_rows: 1\n")
    Path("two.yaml").write_text("holdout_rows: 2\n")
    change = "{kind: sft, uses: [./one.yaml, ./two.yaml], model: base,"
    stage = load_pipeline(write_pipeline("{kind: sft, model: base,", change)).pipeline.stages["sft"]
    assert isinstance(stage, SftStage)
    assert (stage.steps, stage.holdout_rows) == (10, 2)


def test_paths_are_relative_to_the_file_and_become_absolute(
    write_pipeline: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pipeline(
        "data: microworld/skills", "data: rows/a.jsonl", "reward: arithmetic", "reward: ./r.py"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    raw = load_pipeline("../mine.yaml", ["stages.sft.data.path=b.jsonl"]).raw
    assert raw["stages"]["base"]["data"]["path"] == str(tmp_path / "rows/a.jsonl")
    assert raw["stages"]["rlvr"]["reward"]["name"] == str(tmp_path / "r.py")
    assert raw["stages"]["sft"]["data"]["path"] == str(tmp_path / "elsewhere/b.jsonl")
    assert raw["stages"]["rlvr"]["data"]["path"] == "microworld/arithmetic"


def test_hub_names_stay_as_they_are(write_pipeline: Write) -> None:
    file = write_pipeline("from_scratch: micro", "path: Qwen/Qwen2.5-0.5B")
    assert load_pipeline(file).raw["stages"]["blank"]["path"] == "Qwen/Qwen2.5-0.5B"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quickstrat", "error[unknown-pipeline]: no pipeline `quickstrat`\n"
                       "  help: did you mean `quickstart`?"),
        ("min.yaml", "error[missing-file] min.yaml: no such file\n"
                     "  help: did you mean `mine.yaml`?"),
    ],
)  # fmt: skip
def test_an_unknown_file_suggests_the_nearest(
    write_pipeline: Write, name: str, expected: str
) -> None:
    write_pipeline()
    with pytest.raises(InputError) as caught:
        load_pipeline(name)
    assert caught.value.problems[0].render() == expected


def test_a_name_is_a_local_file_or_a_shipped_one(write_pipeline: Write) -> None:
    write_pipeline()
    assert load_pipeline("mine").draft.name == "mine"
    assert load_pipeline("quickstart").draft.name == "quickstart"


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "just words\n"])
def test_a_file_without_keys_is_one_sentence(write_pipeline: Write, text: str) -> None:
    Path(write_pipeline()).write_text(text)
    with pytest.raises(InputError) as caught:
        load_pipeline("mine.yaml")
    assert caught.value.problems[0].render().startswith("error[empty-pipeline] mine.yaml: holds no")


@pytest.mark.parametrize("text", ["name: x\n", "name: x\nstages:\n", "name: x\nstages: {}\n"])
def test_a_file_without_stages_says_so(write_pipeline: Write, text: str) -> None:
    Path(write_pipeline()).write_text(text)
    assert [p.code for p in load_pipeline("mine.yaml").problems] == ["missing-key"]


@pytest.mark.parametrize(
    "text",
    [
        "name: x\nstages: [a, b]\n",
        "name: x\nstages: 3\nsuites: no\ncluster: [1]\nwandb: 7\n",
        "name: [x]\nstages: {a: 1, b: null, c: [x], 4: {kind: [sft]}, d: {kind: sft, data: [1]}}\n",
        "stages: {a: {kind: model, gates: 3, resources: x, path: 3, seed: -1.5}}\n",
        "name: x\nstages: {a: {kind: online_rl, algorithm: 3, reward: [x], data: {columns: 3}}}\n",
        "name: x\nstages: {a: {kind: sft, uses: {x: 1}, model: [a]}}\n",
        "name: x\nstages: {a: {kind: model, from_scratch: micro, uses: [1, null]}}\n",
        "name: x\nstages: {a: {kind: model, path: '${stages.b.path}'},\n"
        "  b: {kind: model, path: '${stages.a.path}'}}\n",
    ],
)  # fmt: skip
def test_nonsense_is_reported_and_never_a_traceback(write_pipeline: Write, text: str) -> None:
    Path(write_pipeline()).write_text(text)
    loaded = load_pipeline("mine.yaml")
    assert [p for p in loaded.problems if p.severity == "error"]
    assert all(problem.message for problem in loaded.problems)
