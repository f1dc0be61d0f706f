"""Deaths in words: on the live screen, in a pipe, and in the summary of `status`."""

import io
import json

from rich.console import Console
from track_run_folder import IDENTITIES, SECONDS, START, write_run

from posttrain.track.live import LiveScreen, plain_lines
from posttrain.track.mishaps import mishap_summary, mishap_words
from posttrain.track.run_view import RunReader, read_run
from posttrain.track.summary import end_of_run

RLVR_AT = START + SECONDS["blank"] + SECONDS["base"] + SECONDS["sft"]
DEATHS = [
    {"name": "engine-lost", "engine": "0", "message": "its process died"},
    {"name": "engine-replaced", "engine": "0", "by": "1"},
    {"name": "engine-joined", "engine": "1", "process": "6ab90c29"},
    {"name": "coordinator-restarted", "next_step": 32},
    {"name": "restored", "step": 32, "buffered": 0, "unfinished": 4, "torn": 0},
    {"name": "trainer-restarted", "from_step": 40},
    {"name": "reward-worker-restarted"},
]
WORDS = [
    "engine 0 lost: its process died; its unfinished answers go on elsewhere",
    "engine 0 replaced by engine 1",
    "coordinator restarted from its ledger at step 32",
    "trainer restarted from step 40; the same batches are trained again, nothing is generated "
    "again",
    "reward worker restarted; what it was scoring is scored again",
]


def die(run):
    with (run / "rlvr" / IDENTITIES["rlvr"] / "events.jsonl").open("a") as file:
        for number, event in enumerate(DEATHS):
            file.write(json.dumps({"time": RLVR_AT + 10 * number, "stage": "rlvr", **event}) + "\n")


def test_each_death_in_words():
    assert [words for event in DEATHS if (words := mishap_words(event))] == WORDS


def test_a_pipe_gets_one_line_each(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=24)
    reader = RunReader(run)
    before = reader.view(now=RLVR_AT + 51)
    die(run)
    lines = plain_lines(before, reader.view(now=RLVR_AT + 52))
    assert [line.split(" ", 1)[1] for line in lines] == [
        'rlvr engine-lost engine=0 message="its process died"',
        "rlvr engine-replaced engine=0 by=1",
        "rlvr coordinator-restarted next_step=32",
        "rlvr trainer-restarted from_step=40",
        "rlvr reward-worker-restarted",
    ]


def test_the_live_screen_tells_each_once_and_old_ones_never(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=24)
    die(run)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=160, height=40, color_system=None)
    screen = LiveScreen(run, console)
    screen.start()
    assert "!" not in out.getvalue()
    die(run)
    screen.stop()
    assert [out.getvalue().count(f" ! rlvr   {words}") for words in WORDS] == [1] * 5


def test_the_summary_counts_and_says_how_long_ago(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=24)
    assert mishap_summary(read_run(run, now=RLVR_AT + 51)) == ""
    die(run)
    view = read_run(run, now=RLVR_AT + 10 + 41 * 60)
    assert mishap_summary(view) == (
        "1 engine replaced 41 min ago, 1 trainer restart 40 min ago, 1 coordinator restart 40 min "
        "ago, 1 reward worker restart 40 min ago, 0 rollouts lost"
    )
    assert "4 restarts, 0 rollouts lost, 0 trained twice" in end_of_run(view)
