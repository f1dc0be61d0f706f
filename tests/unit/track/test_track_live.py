"""The live view at two sizes, and the lines that go into a pipe."""

import io
import json
import re
import time

import pytest
from rich.console import Console
from track_run_folder import IDENTITIES, SECONDS, START, write_run

from posttrain.track import live
from posttrain.track.live import LiveScreen, plain_lines, render_live
from posttrain.track.run_view import RunReader, read_run

RLVR_AT = START + SECONDS["blank"] + SECONDS["base"] + SECONDS["sft"]


def picture(view, width, height, **options):
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
    console.print(render_live(view, width, height, **options))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def running(tmp_path, **options):
    run = write_run(tmp_path / "quickstart", running_step=24, kept=("base",), **options)
    return read_run(run, now=RLVR_AT + 51)


def test_a_window_of_80_by_24(tmp_path):
    lines = picture(running(tmp_path), 80, 24)
    rule = "─" * 80
    assert lines == [
        " quickstart   2:28",
        " ✓ blank → ✓ base → ✓ sft → ▶ rlvr → · average → · final",
        " ✓ blank     0:02   arithmetic 0 %   skills 2 %",
        " ✓ base      kept   loss 4.61 → 0.38   arithmetic 0 → 3 %   skills 97 %",
        " ✓ sft       0:44   loss 1.92 → 0.61   arithmetic 3 → 48 %   skills 93 %",
        rule,
        " rlvr   GRPO  step 24/60   0:51, about 1:01 left                       run 2:28",
        rule,
        " reward       ▁▂▃▃▃▄▅▅▅▆▆▇▇▇████   69 %   held out 62 % (step 20)",
        " entropy      ██▇▇▆▅▅▅▅▄▄▃▃▂▂▂▁▁   0.63 nats/token",
        " KL to start  ▁▂▂▃▃▄▄▄▅▅▆▆▆▇▇▇██   1.4 nats   length 9.3 tokens, 0.8 % cut",
        " age of data  same version █████████▏ 61 %  one older █████▉ 39 %   max 1",
        " busy         engine ██████████▎ 93 %   trainer █████████▋ 88 %   both 81 %",
        " engines      41 running   3 waiting   5 groups ready   13.1k tok/s",
        " weights      v24   sync 41 ms   engine = trainer to 3e-6 nats",
        " groups       768 trained   19 % taught nothing   0 dropped, 0 lost",
        rule,
        " normal: loss 0.0002 is no bug; advantages cancel inside a group. The gradient",
        "         moves the model (norm 0.31); watch reward",
        ' last    "12+30=" → "42" ✓   from v19',
        '         "91-47=" → "54" ✗   from v19',
        rule,
        " next: average, final                                      Ctrl-C: pause safely",
    ]


def test_every_size_fits_its_window(tmp_path):
    view = running(tmp_path)
    for width, height in ((40, 10), (60, 16), (80, 24), (119, 30), (120, 24), (200, 60)):
        lines = picture(view, width, height)
        assert len(lines) <= height, (width, height)
        assert max(len(line) for line in lines) <= width, (width, height)
        assert any("step 24/60" in line for line in lines), (width, height)


def test_wide_windows_show_the_graph_at_the_left(tmp_path):
    lines = picture(running(tmp_path), 140, 40)
    assert lines[0].startswith("╭─ quickstart  2:28 ─")
    assert "╭─ rlvr   GRPO  step 24/60   0:51, about 1:01 left ─" in lines[0]
    assert lines[4].startswith("│ ▶ rlvr      0:51  ████▊        40 %")
    assert '"7+58=" → "65" ✓   from v9' in lines[16]


def test_answers_of_a_model_are_text_not_markup(tmp_path):
    lines = picture(running(tmp_path, hostile="[bold]\x1b[2J[/bold]"), 80, 24)
    assert any('"12+30=" → "[bold]·[2J[/bold]" ✓' in line for line in lines)


def test_a_stage_without_numbers_says_what_it_waits_for(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=3)
    (run / "rlvr" / IDENTITIES["rlvr"] / "metrics.jsonl").unlink()
    lines = picture(read_run(run, now=RLVR_AT + 2), 80, 24)
    assert " waiting for  starting engine 0 (about 10 s)" in lines


def test_an_empty_folder_is_not_a_blank_screen(tmp_path):
    assert picture(read_run(tmp_path, now=START), 80, 24)[-1] == (
        "                                                           Ctrl-C: pause safely"
    )


@pytest.fixture
def in_utc(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def test_plain_lines_of_one_run(tmp_path, in_utc):
    run = write_run(tmp_path / "quickstart", running_step=24)
    reader = RunReader(run)
    first = reader.view(now=RLVR_AT + 51)
    lines = plain_lines(None, first)
    assert lines[2] == (
        "09:15:48 sft done time_s=44 loss=0.61 heldout_loss=0.64 tokens_per_s=6100"
        " arithmetic=0.48 copy=0.95 reverse=0.93 sort=0.92 count=0.92"
    )
    assert lines[3:] == [
        "09:15:48 rlvr started kind=online_rl why=new",
        '09:15:48 rlvr waiting text="starting engine 0 (about 10 s)"',
        '09:15:48 rlvr normal loss-near-zero "loss 0.0002 is no bug; advantages cancel inside a'
        ' group. The gradient moves the model (norm 0.31); watch reward"',
        "09:15:48 rlvr step=24/60 loss=-3e-06 reward=0.688 heldout=0.623 kl_nats=1.38"
        " entropy_nats=0.631 age_max=1 both_busy=0.81 tokens_per_s=9800 eta_s=61",
    ]
    assert plain_lines(first, reader.view(now=RLVR_AT + 52)) == []
    beat = plain_lines(first, reader.view(now=RLVR_AT + 81), heartbeat=True)
    assert len(beat) == 1
    assert beat[0].startswith("09:16:18 rlvr step=24/60 loss=-3e-06 reward=0.688")


def test_a_pipe_gets_lines_without_escapes(tmp_path):
    run = write_run(tmp_path / "quickstart")
    out = io.StringIO()
    screen = LiveScreen(run, Console(file=out, force_terminal=False))
    screen.start()
    screen.stop()
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert [re.sub(r"^[\d:]{8} ", "", line).split(" time_s")[0] for line in lines] == [
        f"{name} done" for name in IDENTITIES
    ]


def test_the_first_picture_comes_at_once_and_ended_stages_stay(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    run = write_run(tmp_path / "quickstart", running_step=24)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=24, color_system=None)
    monkeypatch.setattr(live, "REFRESH_S", 3600)
    screen = LiveScreen(run, console)
    screen.start()
    assert "step 24/60" in out.getvalue()
    manifest = run / "rlvr" / IDENTITIES["rlvr"] / "manifest.json"
    manifest.write_text(
        json.dumps(json.loads(manifest.read_text()) | {"state": "done", "seconds": 99})
    )
    screen.stop()
    assert out.getvalue().count(" ✓ rlvr      1:39   reward 0.52 → 0.70") == 1


def test_no_color_is_honoured(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    view = running(tmp_path)
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    console.print(render_live(view, 80, 24))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", console.file.getvalue())
