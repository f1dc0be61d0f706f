"""What `check` says of stages that make sets of answers, and of those that read them."""

import functools

import pytest

from posttrain.cli.explanations import EXPLANATIONS
from posttrain.config.load import load_pipeline
from posttrain.pipeline.check import check
from posttrain.pipeline.graph import build_graph
from posttrain.pipeline.plan import make_plan
from posttrain.pipeline.store import RunFolder

STAGES = """\
  rm: {kind: reward_model, model: sft, members: 3, data: microworld/preferences, steps: 9}
  pool:
    kind: generate
    model: sft
    data: {path: microworld/requests, take: 64}
    samples_per_prompt: 16
    sampling: {max_new_tokens: 16}
    scored_by: {ensemble: rm, combine: uwo}
    select: {name: best_worst, min_margin: 0.5}
  dpo: {kind: preference, model: sft, algorithm: dpo, data: {stage: pool}, steps: 9}
  bon: {kind: best_of_n, samples: pool, scored_by: {ensemble: rm, combine: wco}, gold: request}
  sweep:
    {kind: over_optimisation, model: sft, models: [dpo, rlvr], data: microworld/requests,
     gold: request}
  rlvr:
"""


@pytest.fixture
def answers(rewritten):
    """`answers(old, new, ...)`: the sound pipeline with such stages, then changed."""
    return functools.partial(rewritten, ("  rlvr:\n", STAGES))


def report_of(file, *overrides):
    return check(load_pipeline(file, overrides))


def problems_of(file, *overrides):
    return [(p.code, p.path, p.message, p.help) for p in report_of(file, *overrides).problems]


def test_a_sound_one_checks_clean_and_says_its_arithmetic(answers):
    report = report_of(answers())
    assert [problem.render() for problem in report.problems] == []
    assert report.graph.needs["pool"] == ("sft", "rm")
    assert report.graph.needs["dpo"] == ("sft", "pool")
    assert report.graph.needs["bon"] == ("pool", "rm")
    assert report.graph.needs["sweep"] == ("sft", "dpo", "rlvr")
    assert "pool: 64 prompts × 16 samples = 1 024 answers" in report.notes
    assert "sweep: 3 models × 256 prompts = 768 answers" in report.notes


def test_a_selection_by_score_needs_scores(answers):
    ((code, path, message, help),) = problems_of(
        answers("    scored_by: {ensemble: rm, combine: uwo}\n", "")
    )
    assert (code, path) == ("missing-key", "stages.pool.select")
    assert message == "`best_worst` chooses by score, and nothing scores the answers"
    assert help.startswith("scored_by: REWARD")


def test_rows_that_are_no_pairs_are_refused_where_pairs_are_learnt_from(answers):
    ((code, path, message, help),) = problems_of(
        answers("    select: {name: best_worst, min_margin: 0.5}\n", "    select: best\n")
    )
    assert (code, path) == ("missing-column", "stages.dpo.data.stage")
    assert message == "rows of `pool` have prompt, completion; needs chosen, rejected"
    assert "best_worst" in help


def test_more_answers_than_the_pool_has(answers):
    ((code, path, message, help),) = problems_of(
        answers("gold: request}\n  sweep", "gold: request, n: [1, 32]}\n  sweep")
    )
    assert (code, path) == ("pool-too-small", "stages.bon.n")
    assert message == "best of 32, but `pool` draws 16 answers per prompt"
    assert help == "n: up to 16, or samples_per_prompt: 32 there"


def test_sizes_have_to_rise(answers):
    ((_, _, message, help),) = problems_of(
        answers("gold: request}\n  sweep", "gold: request, n: [4, 1, 0]}\n  sweep")
    )
    assert "ascending" in message and help == "n: [1, 4]"


@pytest.mark.parametrize(
    ("old", "new", "code", "path"),
    [
        ("{stage: pool}", "{stage: pol}", "unknown-stage", "stages.dpo.data.stage"),
        ("{stage: pool}", "{stage: sft}", "wrong-reference", "stages.dpo.data.stage"),
        ("samples: pool", "samples: rm", "wrong-reference", "stages.bon.samples"),
        ("models: [dpo, rlvr]", "models: [dpo, rm]", "wrong-reference", "stages.sweep.models.1"),
        (
            "ensemble: rm, combine: wco",
            "ensemble: sft",
            "wrong-reference",
            "stages.bon.scored_by.ensemble",
        ),
    ],
)
def test_names_are_typed(answers, old, new, code, path):
    assert [each[:2] for each in problems_of(answers(old, new))] == [(code, path)]


def test_a_suite_cannot_ask_rows_of_a_stage(answers):
    found = problems_of(
        answers(
            "tax_since: base}",
            "tax_since: base, tasks: {mine: {data: {stage: pool}, reward: skill}}}",
        )
    )
    assert any("no stage comes before all of them" in message for *_, message, _ in found)


def test_stage_and_path_are_two_origins(answers):
    found = problems_of(answers("{stage: pool}", "{stage: pool, path: rows.jsonl}"))
    assert any("`stage` beside `path`" in message for _, _, message, _ in found)


def test_codes_are_explained():
    assert {"pool-too-small", "missing-column", "wrong-reference"} <= EXPLANATIONS.keys()


def identities(file, tmp_path, *overrides):
    loaded = load_pipeline(file, overrides)
    plan = make_plan(loaded, build_graph(loaded.pipeline), RunFolder(tmp_path / "runs"))
    return {stage.name: stage.identity for stage in plan.stages}


def test_what_changes_the_rows_changes_who_reads_them(answers, tmp_path):
    file = answers()
    before = identities(file, tmp_path)
    more = identities(file, tmp_path, "stages.pool.samples_per_prompt=8")
    changed = {name for name in before if before[name] != more[name]}
    assert changed == {"pool", "dpo", "bon", "sweep"}


def test_how_scoring_is_run_changes_nothing(answers, tmp_path):
    file = answers()
    before = identities(file, tmp_path)
    assert identities(file, tmp_path, "stages.pool.scored_by.timeout_s=7") == before


def test_the_ensemble_that_scores_counts_by_its_identity(answers, tmp_path):
    file = answers()
    before = identities(file, tmp_path)
    other = identities(file, tmp_path, "stages.rm.steps=10")
    assert {n for n in before if before[n] != other[n]} == {"rm", "pool", "dpo", "bon", "sweep"}
