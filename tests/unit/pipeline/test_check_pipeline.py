"""`check` over whole pipelines: one literal message for each kind of bad input."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.config.load import load_pipeline, shipped_pipelines
from posttrain.config.presets import shipped_presets
from posttrain.errors import InputError
from posttrain.pipeline.check import CheckReport, check

Write = Callable[..., str]


def report_of(file: str, *overrides: str) -> CheckReport:
    return check(load_pipeline(file, overrides))


def rendered(file: str, *overrides: str) -> list[str]:
    return [problem.render() for problem in report_of(file, *overrides).problems]


@pytest.mark.parametrize("name", shipped_pipelines())
def test_every_shipped_pipeline_checks_clean(name: str) -> None:
    assert rendered(name) == []


@pytest.mark.parametrize("name", [n for n in shipped_presets() if not n.startswith("cluster/")])
def test_every_shipped_preset_checks_clean(write_pipeline: Write, name: str) -> None:
    kind = name.partition("/")[0]
    stage = {"sft": "sft", "online_rl": "rlvr"}.get(kind)
    if stage is None:  # a stage that the sound pipeline has none of
        block = f"  more: {{kind: {kind}, uses: {name}, model: base, data: microworld/preferences}}"
        file = write_pipeline("  rlvr:\n", f"{block}\n  rlvr:\n")
        assert rendered(file) == []
        return
    assert rendered(write_pipeline(), f"stages.{stage}.uses={name}") == []


def test_the_arithmetic_is_said_in_words(write_pipeline: Write) -> None:
    report = report_of(write_pipeline(), "stages.rlvr.staleness=3", "stages.final.models=[rlvr]")
    assert report.notes == (
        "base: 32 rows = 1 step; 10 steps = 320 rows",
        "sft: 32 rows = 1 step; 10 steps = 320 rows",
        "rlvr: 32 prompts × 8 samples = 256 rollouts = 1 step = 1 new weight version; 60 steps = "
        # one step is enough to fill the 256 places of the one engine
        "15 360 rollouts; at most (1 + 1) × 32 = 64 groups under way",
        "final: 1 model × 2 tasks × 256 prompts = 512 answers",
    )


def test_epochs_are_counted_in_rows(write_pipeline: Write) -> None:
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 1000)
    report = report_of(
        write_pipeline(), "stages.sft.data=rows.jsonl", "stages.sft.epochs=2",
        "stages.sft.holdout_rows=40",
    )  # fmt: skip
    # (1000 - 40) * 2 / 32 = 60
    assert report.notes[1] == (
        "sft: 32 rows = 1 step; 960 rows (40 held out) × 2 epochs = 60 steps"
    )


def test_resolved_plugins_come_with_their_defaults(write_pipeline: Write) -> None:
    plugins = report_of(write_pipeline()).plugins
    assert plugins["rlvr"]["algorithm"].model_dump()["lr"] == 0.0003
    assert plugins["rlvr"]["algorithm"].model_dump()["clip_low"] == 0.2
    assert set(plugins) == {"base", "sft", "rlvr", "average"}


def test_all_kinds_of_mistakes_are_shown_together(write_pipeline: Write) -> None:
    Path("rows.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    file = write_pipeline(
        "data: microworld/arithmetic_worked", "data: rows.jsonl",
        "{name: grpo, lr: 3e-4}", "{name: grpo, lrr: 3e-4}",
        "prompts: 32, samples_per_prompt: 8", "prompts: 32, sample_per_prompt: 8",
        "pre: sft", "pre: stf",
    )  # fmt: skip
    assert rendered(file) == [
        "error[missing-column] mine.yaml:7 → rows.jsonl:1 (stage sft): needs prompt, completion; "
        "has question, answer\n  help: data.columns: {prompt: question, completion: answer}",
        "error[unknown-key] mine.yaml:11 stages.rlvr.algorithm: no key `lrr`\n"
        "  help: did you mean `lr`?",
        "error[unknown-key] mine.yaml:14 stages.rlvr.batch: no key `sample_per_prompt`\n"
        "  help: did you mean `samples_per_prompt`?",
        "error[unknown-stage] mine.yaml:17 stages.average.pre: no stage `stf`\n"
        "  help: did you mean `sft`?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "samples_per_prompt: 8",
            "samples_per_prompt: 1",
            "error[impossible-group] mine.yaml:14 stages.rlvr.batch.samples_per_prompt: 1, but "
            "grpo compares the samples of one prompt\n  help: 2 or more (8 is usual), or "
            "algorithm: remax, which needs one",
        ),
        (
            "data: microworld/skills, steps: 10",
            "data: microworld/skills, steps: 10, batch: {rows: 8}, resources: {trainers: 3}",
            "error[batch-not-divisible] mine.yaml:6 stages.base.batch.rows: 8 rows per step cannot "
            "be shared by 3 trainers\n  help: rows: 9",
        ),
        (
            "reward: arithmetic",
            "reward: arithmetics",
            "error[unknown-plugin] mine.yaml:12 stages.rlvr.reward: no reward `arithmetics`\n"
            "  help: did you mean `arithmetic`?",
        ),
        (
            "{name: grpo, lr: 3e-4}",
            "sft",
            "error[wrong-algorithm] mine.yaml:11 stages.rlvr.algorithm: `sft` is an offline "
            "algorithm, this stage needs an online one",
        ),
        (
            "suite: abilities",
            "suite: abilites",
            "error[unknown-suite] mine.yaml:18 stages.final.suite.use: no suite `abilites`\n"
            "  help: did you mean `abilities`?",
        ),
        (
            "keep: [microworld/copy]",
            "keep: [microworld/cpy]",
            "error[unknown-task] mine.yaml:3 suites.abilities.keep.0: no task `microworld/cpy`\n"
            "  help: did you mean `microworld/copy`?",
        ),
        (
            "keep: [microworld/copy]",
            "keep: [mine], tasks: {mine: {data: x.jsonl}}",
            "error[missing-file] mine.yaml:3 suites.abilities.tasks.mine.data.path: no file "
            "`x.jsonl`",
        ),
        (
            "data: microworld/skills",
            "data: microworld/skils",
            "error[unknown-source] mine.yaml:6 stages.base.data.path: no micro-world source "
            "`microworld/skils`\n  help: did you mean `microworld/skills`?",
        ),
        (
            "data: microworld/skills",
            "data: microworld/copy",
            "error[missing-column] mine.yaml:6 stages.base.data.path: `microworld/copy` has "
            "prompt, task, answer; needs prompt, completion\n"
            "  help: sources that have them: microworld/skills, microworld/arithmetic_worked",
        ),
        (
            "from_scratch: micro",
            "from_scratch: mikro",
            "error[unknown-model] mine.yaml:5 stages.blank.from_scratch: no model `mikro` to make "
            "from random weights\n  help: did you mean `micro`?",
        ),
        (
            "from_scratch: micro",
            "path: ./models/base",
            "error[missing-file] mine.yaml:5 stages.blank.path: no folder `models/base`",
        ),
        (
            "from_scratch: micro",
            "from_scratch: micro, chat_template: tuluu",
            "error[no-chat-template] mine.yaml:5 stages.blank.chat_template: no chat template "
            "`tuluu`\n  help: did you mean `tulu`?; or a path to a .jinja file",
        ),
    ],
)
def test_each_mistake_names_place_and_cure(
    write_pipeline: Write, old: str, new: str, expected: str
) -> None:
    found = rendered(write_pipeline(old, new))
    assert len(found) == 1
    assert found[0].startswith(expected)


JSONL = '{"prompt": "a", "completion": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "rows.jsonl",
            JSONL * 2 + '{"prompt": "a", "completion": "b\n' + JSONL + "[1]\n",
            "error[bad-row] rows.jsonl:3 (stage sft): not JSON, string not closed at column 31; "
            "1 more: 5\n"
            "  help: mend the rows, or `data.bad_rows: skip` leaves them out and counts them",
        ),
        (
            "rows.jsonl",
            JSONL * 4711 + '{"prompt": "a"}\n' + JSONL,
            "error[bad-row] rows.jsonl:4712 (stage sft): no column `completion`\n"
            "  help: mend the rows, or `data.bad_rows: skip` leaves them out and counts them",
        ),
        (
            "rows.jsonl",
            JSONL + '{"prompt": "a", "completion": null}\n',
            "error[bad-row] rows.jsonl:2 (stage sft): `completion` is empty, has to be text\n"
            "  help: mend the rows, or `data.bad_rows: skip` leaves them out and counts them",
        ),
        (
            "rows.jsonl",
            "",
            "error[empty-data] mine.yaml:7 → rows.jsonl (stage sft): holds no rows\n"
            '  help: one row per line: {"prompt": "...", "completion": "..."}',
        ),
        (
            "rows.json",
            "[]",
            "error[unknown-format] mine.yaml:7 → rows.json (stage sft): `.json` is no format that "
            "can be read\n  help: one of .jsonl, .jsonl.gz, .parquet, .csv",
        ),
        (
            "rows.jsonl.gz",
            "no gzip",
            "error[unreadable-file] mine.yaml:7 → rows.jsonl.gz (stage sft): cannot be read: Not a "
            "gzipped file (b'no')\n  help: download it again, or write it as .jsonl",
        ),
        (
            "rosw.jsonl",
            JSONL,
            "error[missing-file] mine.yaml:7 stages.sft.data.path: no file `rows.jsonl`\n"
            "  help: did you mean `rosw.jsonl`?",
        ),
    ],
)
def test_bad_data_names_file_and_line(
    write_pipeline: Write, name: str, content: str, expected: str
) -> None:
    Path(name).write_text(content)
    data = "rows.jsonl" if name == "rosw.jsonl" else name
    file = write_pipeline("data: microworld/arithmetic_worked", f"data: {data}")
    assert rendered(file) == [expected]


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (  # 40 rows, every prompt twice
            40,
            "path: rows.jsonl",
            "32 prompts per step, but the data holds 20 different ones\n"
            "  help: prompts: 20, or more rows",
        ),
        (
            200,
            "path: rows.jsonl, take: 60",
            "32 prompts per step, but the data holds 30 different ones\n"
            "  help: prompts: 30, or more rows",
        ),
        (
            0,
            "path: microworld/arithmetic, take: 31",
            "32 prompts per step, but the data holds 31 different ones\n"
            "  help: prompts: 31, or more rows",
        ),
    ],
)
def test_a_step_needs_a_prompt_for_each_group(
    write_pipeline: Write, rows: int, settings: str, expected: str
) -> None:
    Path("rows.jsonl").write_text(
        "".join(f'{{"prompt": "{n // 2}+1=", "answer": "{n // 2 + 1}"}}\n' for n in range(rows))
    )
    file = write_pipeline("data: microworld/arithmetic\n", f"data: {{{settings}}}\n")
    place = "error[too-few-prompts] mine.yaml:14 stages.rlvr.batch.prompts: "
    assert rendered(file) == [place + expected]
    assert rendered(file, "stages.rlvr.batch.prompts=20") == []


def test_prompts_held_out_are_no_prompts_to_train_on(write_pipeline: Write) -> None:
    file = write_pipeline()
    change = "stages.rlvr.data={path: microworld/arithmetic, take: 40}"
    assert rendered(file, change) == []
    assert rendered(file, change, "stages.rlvr.heldout={prompts: 16}") == [
        "error[too-few-prompts] mine.yaml:14 stages.rlvr.batch.prompts: 32 prompts per step, but "
        "the data holds 40 different ones, 16 of them held out\n"
        "  help: prompts: 24, or more rows"
    ]


def test_an_answer_has_to_fit_into_a_micro_batch(write_pipeline: Write) -> None:
    file = write_pipeline(
        "samples_per_prompt: 8}", "samples_per_prompt: 8, tokens_per_micro_batch: 256}"
    )
    assert rendered(file) == [
        "error[micro-batch-too-small] mine.yaml:14 stages.rlvr.batch.tokens_per_micro_batch: a "
        "micro-batch holds 256 tokens, a prompt and an answer of 256 do not fit\n"
        "  help: tokens_per_micro_batch: 257 or more, or a lower sampling.max_new_tokens"
    ]
    assert rendered(file, "stages.rlvr.sampling.max_new_tokens=255") == []


def test_a_missing_column_in_a_mapping_says_which(write_pipeline: Write) -> None:
    with gzip.open("rows.jsonl.gz", "wt") as opened:
        opened.write('{"question": "a", "answer": "b"}\n')
    columns = "{path: rows.jsonl.gz, columns: {prompt: qestion, completion: answer}}"
    file = write_pipeline("data: microworld/arithmetic_worked", f"data: {columns}")
    assert rendered(file) == [
        "error[missing-column] mine.yaml:7 → rows.jsonl.gz:1 (stage sft): no column `qestion` "
        "(data.columns.prompt); has question, answer\n  help: did you mean `question`?"
    ]


def test_skipped_rows_are_no_mistake(write_pipeline: Write) -> None:
    Path("rows.jsonl").write_text("nonsense\n" + JSONL)
    change = "data: {path: rows.jsonl, bad_rows: skip}"
    assert rendered(write_pipeline("data: microworld/arithmetic_worked", change)) == []


def test_a_hub_name_is_taken_at_its_word(write_pipeline: Write) -> None:
    change = "data: {path: openai/gsm8k, name: main}"
    assert rendered(write_pipeline("data: microworld/arithmetic_worked", change)) == []


def test_a_reward_of_ones_own_is_loaded_from_beside_the_file(write_pipeline: Write) -> None:
    Path("mine.py").write_text(
        "from posttrain.config.strict import StrictModel\n"
        "class Config(StrictModel):\n    tolerance: float = 0.5\n"
        "def score(row, completion, config): return 1.0\n"
        "def gold(config): return []\ndef bad(config): return []\n"
    )
    file = write_pipeline("reward: arithmetic", "reward: {name: ./mine.py, tolerance: 1}")
    report = report_of(file)
    assert report.problems == ()
    assert report.plugins["rlvr"]["reward"].model_dump() == {"tolerance": 1.0}


def test_a_model_folder_without_config_is_no_model(write_pipeline: Write) -> None:
    Path("models/tiny").mkdir(parents=True)
    Path("models/tiny/config.json").write_text("{}")
    assert rendered(write_pipeline("from_scratch: micro", "path: models/tiny")) == []
    assert rendered(write_pipeline("from_scratch: micro", "path: models")) == [
        "error[no-model] mine.yaml:5 stages.blank.path: `models` holds no config.json, so it is no "
        "model\n  help: did you mean `models/tiny`?"
    ]


def test_errors_can_be_raised_all_at_once(write_pipeline: Write) -> None:
    report = report_of(write_pipeline("steps: 60", "steps: 0", "pre: sft", "pre: stf"))
    with pytest.raises(InputError) as caught:
        report.raise_if_any()
    assert [problem.code for problem in caught.value.problems] == ["bad-value", "unknown-stage"]
    assert caught.value.exit_code == 2


def test_a_warning_does_not_stop_anything(write_pipeline: Write) -> None:
    report = report_of(write_pipeline("tax_since: base", "tax_since: blank"))
    assert [problem.code for problem in report.warnings] == ["untrained-tax-base"]
    report.raise_if_any()


def test_check_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from posttrain.cli import main\n"
        "codes = [main(['check', name]) for name in ('quickstart', 'gsm8k')]\n"
        "heavy = ('torch', 'ray', 'vllm', 'transformers', 'datasets', 'trl', 'wandb', 'pyarrow')\n"
        "print(codes, [name for name in heavy if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[0, 0] []"
