"""The report: one file, no request, hostile text stays text, light enough."""

import gzip
import json
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from track_run_folder import write_run

from posttrain.track.report import write_report
from posttrain.track.report.curves import stage_curves
from posttrain.track.report.figure import Series, change_in_words, curve_figure, thin_indices
from posttrain.track.run_view import read_run
from posttrain.track.views import StageView

HOSTILE = "</script><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>&amp;"


class Page(HTMLParser):
    """Gathers what a browser would act on."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.handlers, self.text, self.ids = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                self.links.append(value)
            if name.startswith("on"):
                self.handlers.append((tag, name))
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("runs") / "quickstart", hostile=HOSTILE)
    return write_report(run, run / "report.html").read_text("utf-8")


def own_text(report):
    """The page without plotly's packed script."""
    return re.sub(r'(?s)<script type="text/plain" id="plotly">.*?</script>', "", report)


def test_the_page_asks_for_nothing(report):
    page = Page(report)
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert page.handlers == []
    own = own_text(report)
    code = re.findall(r"(?s)<(?:script|style)>(.*?)</(?:script|style)>", own)
    assert len(code) == 2
    for piece in code:
        assert not re.search(r"https?://|@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", piece)
    assert "default-src 'none'" in report


def test_hostile_answers_stay_text(report):
    page = Page(own_text(report))
    assert page.tags.count("script") == 2  # the figures' data and our own
    assert "img" not in page.tags
    assert HOSTILE in "".join(page.text)
    assert HOSTILE not in own_text(report)


def test_hostile_names_cannot_leave_the_figures(tmp_path):
    run = write_run(tmp_path / "quickstart")
    meta = json.loads((run / "run.json").read_text())
    meta |= {"name": HOSTILE, "description": HOSTILE}
    for stage in meta["stages"]:
        stage["description"] = HOSTILE
    meta["suites"]["abilities"]["tax_since"] = "base"
    (run / "run.json").write_text(json.dumps(meta))
    events = run / "rlvr" / "4f1c9a2e" / "events.jsonl"
    note = {"time": 1, "name": "note", "verdict": "act", "code": "x", "text": HOSTILE, "step": 5}
    events.write_text(json.dumps(note) + "\n")
    page = Page(own_text(write_report(run, run / "report.html").read_text("utf-8")))
    assert page.tags.count("script") == 2
    assert "img" not in page.tags


def test_a_stage_is_described_beside_its_curves_and_its_lineage(tmp_path):
    run = write_run(tmp_path / "quickstart")
    meta = json.loads((run / "run.json").read_text())
    for stage in meta["stages"]:
        stage["description"] = f"why {stage['name']} is there"
    (run / "run.json").write_text(json.dumps(meta))
    page = own_text(write_report(run, run / "report.html").read_text("utf-8"))
    assert page.count("why rlvr is there") == 2
    assert page.count("why average is there") == 1  # it has no curves


def test_plotly_is_inside_and_whole(report):
    packed = re.search(r'(?s)id="plotly">(.*?)</script>', report).group(1)
    script = gzip.decompress(b64decode(packed))
    assert script.startswith(b"/**\n* plotly.js v")
    assert len(script) > 1_000_000


def test_every_picture_has_a_finding_and_its_data(report):
    own = own_text(report)
    places = re.findall(r'data-figure="([^"]+)" role="img" aria-label="([^"]+)"', own)
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', own).group(1))
    assert (
        [place[0] for place in places]
        == [figure["id"] for figure in figures]
        == [
            "pareto",
            "curve-base-loss",
            "curve-base-gradient",
            "curve-sft-loss",
            "curve-sft-gradient",
            "curve-rlvr-reward",
            "curve-rlvr-kl",
            "curve-rlvr-entropy",
            "curve-rlvr-length",
            "curve-rlvr-gradient",
            "age-rlvr",
            "timeline-rlvr",
            "timeline-rlvr-busy",
            "timeline-rlvr-queues",
            "timeline-rlvr-sync",
        ]
    )
    findings = dict(places)
    assert findings["curve-sft-loss"] == "training loss falls from 1.92 to 0.61, held out 0.64"
    assert findings["curve-rlvr-reward"] == "reward rises from 49 % to 76 %"
    assert findings["pareto"] == ("rlvr gains most, 77 %; average is chosen: 74 % for 2.0 points")
    assert findings["age-rlvr"] == (
        "61 % of tokens trained by the version that made them, the oldest 1 version later"
    )
    assert own.count("<summary>data</summary>") == len(places)


def test_what_a_reader_reads(report):
    text = re.sub(r"\s+", " ", " ".join(Page(own_text(report)).text))
    for line in (
        "Take average: arithmetic 3 → 74 % (± 3), tax 2.0 points (± 1.2).",
        "rlvr knows 3 points more and forgot 8 more; your rule was tax_at_most: 3",
        "Of 67 prompts 46 improved, 17 are unchanged, 4 are worse.",
        "Nothing to see: 0 restarts, 0 retries, 0 rollouts lost, 0 trained twice.",
        "microworld/arithmetic, 4096 rows, fingerprint ab12cd34",
        "posttrain run quickstart",
        "algorithm: {name: grpo, lr: 3.0e-4}",
    ):
        assert line in text, line


def test_rows_left_out_stand_beside_the_data(tmp_path):
    run = write_run(tmp_path / "quickstart")
    folder = next((run / "sft").iterdir())
    example = {"row": "a:1", "prompt": "<b>copy</b> ab=", "question": "copy ab=", "share": 1.0}
    found = {"rows": 1, "examples": [example]}
    report = {
        "text": "1 of 4096 rows overlap with questions and are left out: mine 1",
        "sources": {"part": {"rows": 4096, "left_out": 1, "tasks": {"mine": found}}},
    }
    for content, shown in ((report, True), ({"text": 3}, False)):
        (folder / "decontamination.json").write_text(json.dumps(content))
        page = own_text(write_report(run, run / "report.html").read_text("utf-8"))
        text = re.sub(r"\s+", " ", " ".join(Page(page).text))
        assert ("1 of 4096 rows overlap with questions and are left out: mine 1" in text) == shown
        assert ("part mine 1 <b>copy</b> ab= copy ab=" in text) == shown


def test_boxes_of_the_graph_lead_to_places_that_exist(report):
    page = Page(own_text(report))
    missing = [link for link in page.links if link.removeprefix("#") not in page.ids]
    assert missing == []
    assert len(set(page.ids)) == len(page.ids)


def test_a_run_of_500_steps_stays_under_6_mb(tmp_path):
    run = write_run(tmp_path / "quickstart", rl_steps=2000)
    path = write_report(run, run / "report.html")
    assert path.stat().st_size < 6_000_000
    view = read_run(run)
    reward = stage_curves(view.stage("rlvr"), view).figures[0]
    assert len(reward.data[0]["y"]) == 500
    assert (reward.data[0]["x"][0], reward.data[0]["x"][-1]) == (1, 2000)
    assert len(reward.table.rows) == 22  # 12 of each line, first and last shared or not


def test_a_running_run_is_a_page_that_loads_itself_again(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=24)
    text = own_text(write_report(run, run / "live.html", live=True).read_text("utf-8"))
    assert '<body data-refresh="10">' in text
    assert "3 of 6 stages done; running: rlvr at step 24 of 60." in text
    done = write_run(tmp_path / "done")
    text = own_text(write_report(done, done / "live.html", live=True).read_text("utf-8"))
    assert '<body data-refresh="0">' in text


def test_a_run_that_has_hardly_begun_has_a_page_too(tmp_path):
    text = write_report(tmp_path, tmp_path / "report.html").read_text("utf-8")
    assert "0 of 0 stages done." in text
    assert 'id="plotly"' not in text


def test_thinning_keeps_first_and_last():
    assert thin_indices(5, 10) == [0, 1, 2, 3, 4]
    assert thin_indices(1000, 5) == [0, 250, 500, 749, 999]


def test_findings_in_words():
    assert change_in_words("KL", [0.1, 2.6]) == "KL rises from 0.1 to 2.6"
    assert change_in_words("share", [0.5, 0.5], shares=True) == "share stays at 50 %"
    assert change_in_words("loss", []) == "loss: nothing recorded"


def test_notes_are_marks_on_the_curve():
    line = Series("loss", {"step": [1, 2, 3]}, [3.0, 2.0, 1.0])
    figure = curve_figure("x", "Loss", [line], y_title="nats", finding="falls", marks=[(2, "a")])
    assert figure.layout["marks"] == [{"x": 2, "text": "a"}]
    assert figure.table.rows == [["1", "3.000"], ["2", "2.000"], ["3", "1.000"]]


def test_a_reward_models_curve_says_what_likeness_it_sees_through(tmp_path):
    rows = [
        {"axis/step": 10, "rm/0/pair_accuracy": 0.6},
        {"axis/step": 20, "rm/contrast_responses": 0.9, "rm/contrast_instructions": 0.625},
    ]
    stage = StageView("rm", "reward_model", "done", "1", "new", (), tmp_path, rows=rows)
    stage = replace(stage, metrics={name: value for row in rows for name, value in row.items()})
    view = read_run(write_run(tmp_path / "run"))
    finding = stage_curves(stage, view).figures[0].finding
    assert "like prompts the fitting answer 90 %" in finding
    assert "like answers the fitting prompt 62 %" in finding
