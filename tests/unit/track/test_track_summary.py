"""What stays on the screen, to the letter."""

import json

from track_run_folder import KEPT, START, interval, write_run

from posttrain.track.gains import Change, difference, gain_table
from posttrain.track.graph_line import graph_lines
from posttrain.track.run_view import read_run
from posttrain.track.summary import end_of_run, finished_line
from posttrain.track.views import Measurement, TaskResult
from posttrain.types import Interval


def test_one_line_per_finished_stage(tmp_path):
    view = read_run(write_run(tmp_path / "quickstart", kept=("base",)))
    assert [finished_line(stage, view) for stage in view.stages] == [
        " ✓ blank     0:02   arithmetic 0 %   skills 2 %",
        " ✓ base      kept   loss 4.61 → 0.38   arithmetic 0 → 3 %   skills 97 %",
        " ✓ sft       0:44   loss 1.92 → 0.61   arithmetic 3 → 48 %   skills 93 %",
        " ✓ rlvr      1:54   reward 0.52 → 0.76   KL 2.6 nats   arithmetic 48 → 77 %   skills 87 %",
        " ✓ average   0:34   arithmetic 77 → 74 %   skills 95 %",
        " ✓ final     0:28   take average (of 4)",
    ]


def test_a_stage_that_ended_early_says_where(tmp_path):
    folder = write_run(tmp_path / "quickstart")
    (events,) = folder.glob("rlvr/*/events.jsonl")
    with events.open("a") as file:
        file.write(json.dumps({"time": START, "name": "stopped-early", "step": 40}) + "\n")
    view = read_run(folder)
    (line,) = [finished_line(stage, view) for stage in view.stages if stage.name == "rlvr"]
    assert "KL 2.6 nats   ended early at step 40   arithmetic" in line


def test_the_end_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    view = read_run(write_run(tmp_path / "runs" / "quickstart"))
    assert end_of_run(view).splitlines() == [
        "quickstart done in 4 min 33 s   6 stages, 0 restarts, 0 rollouts lost, 0 trained twice",
        "1 What did each stage gain?          2 What did it cost?",
        "            arithmetic               skills kept   tax (points)   time",
        "  blank     0 % ± 1                  2 % ± 1       -              0:02",
        "  base      3 % ± 1     +3           97 % ± 1      -              0:51",
        "  sft       48 % ± 3   +45           93 % ± 1      4.0 ± 1.2      0:44",
        "  rlvr      77 % ± 3   +29           87 % ± 1      10.0 ± 1.2     1:54",
        "  average   74 % ± 3    -3 (noise)   95 % ± 1      2.0 ± 1.2      0:34",
        "3 Which model should I take?   average: 74 % arithmetic for a tax of 2.0 points.",
        "  rlvr knows 3 points more and forgot 8 more; your rule was tax_at_most: 3",
        "model  runs/quickstart/best (Hugging Face folder, 3.6 MB)     "
        "report runs/quickstart/report.html",
        "try    posttrain chat                                         "
        "then   posttrain new mine --from gsm8k",
    ]


def test_a_failed_run_says_what_is_kept_and_how_to_go_on(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=24)
    meta = json.loads((run / "run.json").read_text())
    error = {
        "code": "engine-start",
        "message": "engine 0: not ready after 300 s",
        "place": "stage rlvr",
        "help": "set engine.kv_cache_mb: 64",
    }
    meta |= {"state": "failed", "ended": START + 150, "error": error}
    (run / "run.json").write_text(json.dumps(meta))

    assert end_of_run(read_run(run)).splitlines()[-4:] == [
        "error[engine-start] stage rlvr: engine 0: not ready after 300 s",
        "  help: set engine.kv_cache_mb: 64",
        "kept   blank, base, sft",
        "go on  posttrain resume",
    ]


def _measured(passed, low, high, fingerprint="same"):
    value = sum(passed) / len(passed)
    task = TaskResult(Interval(value, low, high), "accuracy", len(passed))
    return Measurement(
        "abilities", {"sums": task}, passed={"sums": passed}, fingerprint=fingerprint
    )


def test_paired_answers_give_a_narrower_interval():
    # 5 of 10, then 7 of 10, the same five still right. Differences: two of 1, eight of 0.
    # mean 0.2, variance 0.2 - 0.04 = 0.16, of the mean 0.016: 1.96 * sqrt(0.016) = 0.2479
    before = _measured([1] * 5 + [0] * 5, 0.2, 0.8)
    now = _measured([1] * 7 + [0] * 3, 0.4, 1.0)
    paired = difference(now, before, ["sums"], "sft")
    assert (round(paired.value, 4), round(paired.half, 4)) == (0.2, 0.2479)
    # other prompts: sqrt(0.3^2 + 0.3^2) = 0.4243
    other = _measured([1] * 5 + [0] * 5, 0.2, 0.8, fingerprint="other")
    assert round(difference(now, other, ["sums"], "sft").half, 4) == 0.4243


def test_changes_in_words():
    assert Change(0.26, 0.03, "dpo").text == "+26"
    assert Change(0.01, 0.03, "sft").text == "+1 (noise)"
    assert Change(-0.03, 0.02, "rlvr").text == "-3"


def test_tax_comes_from_the_measurements_where_nothing_else_says_it(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=24)
    rows = {row.stage.name: row for row in gain_table(read_run(run))}

    assert rows["blank"].tax is None  # stands before `tax_since`
    assert rows["base"].tax is None
    assert round(rows["sft"].tax.value, 4) == round(KEPT["base"] - KEPT["sft"], 4)
    # four tasks of 256 prompts each, two models: both halves joined
    halves = [
        (interval(KEPT[name] + spread, 256)["high"] - interval(KEPT[name] + spread, 256)["low"]) / 2
        for name in ("base", "sft")
        for spread in (0.02, 0.0, -0.01, -0.01)
    ]
    expected = sum(half**2 for half in halves) ** 0.5 / 4
    assert round(rows["sft"].tax.high - rows["sft"].tax.value, 4) == round(expected, 4)


def test_the_graph_in_one_line():
    assert graph_lines({"base": [], "sft": ["base"], "rlvr": ["sft"]}) == ["base → sft → rlvr"]


def test_the_graph_with_two_branches():
    needs = {
        "sft": [],
        "rm": ["sft"],
        "dpo": ["sft"],
        "align": ["dpo", "rm"],
        "final": ["sft", "align"],
    }
    assert graph_lines(needs, {"rm": "rm ×3"}) == [
        "sft ┬→ rm ×3 ─┬→ align → final",
        "    └→ dpo ───┘",
    ]
    assert graph_lines(needs, width=22) == ["sft → rm + dpo →", "align → final"]
