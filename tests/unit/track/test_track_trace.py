"""The trace: literal spans in, a file that a viewer can open at any moment out."""

import gzip
import json
import pickle
import random
import threading
import time

from posttrain.track import trace
from posttrain.track.session import TrackSession
from posttrain.track.spans import Span, SpanBuffer
from posttrain.track.stage_tracker import StageTracker
from posttrain.track.trace import TraceWriter, trace_files
from posttrain.track.trace_read import read_spans
from posttrain.track.trace_rows import row_number, track_of


def parsed(path):
    """As a viewer reads it: an array whose closing bracket may be missing."""
    text = path.read_text("utf-8")
    assert text.startswith("[\n") and text.endswith(",\n")
    return json.loads(text[:-2] + "]")


def span(track, name, start, end, **details):
    return Span(track, name, start, end, details)


def test_the_file_to_the_letter(tmp_path):
    writer = TraceWriter(tmp_path, "rlvr")
    writer.spans([span("engine 0", "generate", 10.0, 11.5, running=41)])
    writer.counters(11.5, {"engine/running": 41.0})
    writer.spans([span("trainer 0", "step 13", 10.25, 11.0)])
    writer.close()
    assert (tmp_path / "trace.json").read_text() == (
        "[\n"
        '{"ph":"M","name":"process_name","pid":1,"args":{"name":"rlvr"}},\n'
        '{"ph":"M","name":"thread_name","pid":1,"tid":2000100,"args":{"name":"engine 0"}},\n'
        '{"ph":"M","name":"thread_sort_index","pid":1,"tid":2000100,"args":{"sort_index":2000100}},\n'
        '{"ph":"X","name":"generate","pid":1,"tid":2000100,"ts":10000000,"dur":1500000,'
        '"args":{"running":41}},\n'
        '{"ph":"C","name":"engine/running","pid":1,"ts":11500000,"args":{"value":41.0}},\n'
        '{"ph":"M","name":"thread_name","pid":1,"tid":3000100,"args":{"name":"trainer 0"}},\n'
        '{"ph":"M","name":"thread_sort_index","pid":1,"tid":3000100,"args":{"sort_index":3000100}},\n'
        '{"ph":"X","name":"step 13","pid":1,"tid":3000100,"ts":10250000,"dur":750000,"args":{}},\n'
    )


def test_rows_are_the_same_in_every_process():
    numbers = {
        track: row_number(track, 0)
        for track in ("coordinator", "engine 0", "engine 1023", "trainer 7", "rewards", "rewards 2")
    }
    assert list(numbers.values()) == [1000000, 2000100, 2102400, 3000800, 4000000, 4000300]
    assert {track: track_of(number) for track, number in numbers.items()} == {
        track: track for track in numbers
    }
    assert track_of(row_number("judge of mine", 3)) == "other"


def test_spans_that_cut_one_another_get_rows_of_their_own(tmp_path):
    writer = TraceWriter(tmp_path, "rlvr")
    writer.spans(
        [
            span("engine 0", "a", 0, 2),
            span("engine 0", "b", 1, 3),  # cuts a
            span("engine 0", "c", 3, 4),  # after both
            span("engine 0", "d", 0, 5),  # holds a and c
            span("engine 0", "e", 4.5, 6),  # cuts d
        ]
    )
    writer.close()
    events = parsed(tmp_path / "trace.json")
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    rows = {e["name"]: names[e["tid"]] for e in events if e["ph"] == "X"}
    assert rows == {
        "a": "engine 0",
        "b": "engine 0 (2)",
        "c": "engine 0",
        "d": "engine 0",
        "e": "engine 0 (2)",
    }


def test_in_no_row_a_span_cuts_another(tmp_path):
    order = random.Random(5)
    spans = []
    for _ in range(3000):
        end = len(spans) * 0.01
        spans.append(span("engine 0", "g", end - order.expovariate(1), end))
    writer = TraceWriter(tmp_path, "rlvr")
    writer.spans(spans)
    writer.close()
    by_row = {}
    for event in parsed(tmp_path / "trace.json"):
        if event["ph"] == "X":
            by_row.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    assert sum(len(row) for row in by_row.values()) + writer.left_out == 3000
    assert len(by_row) == 16 and 0 < writer.left_out < 3000
    for row in by_row.values():
        open_until = []
        for start, end in sorted(row, key=lambda pair: (pair[0], -pair[1])):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)


def test_a_killed_writer_leaves_a_file_that_goes_on(tmp_path):
    first = TraceWriter(tmp_path, "rlvr")
    first.spans([span("engine 0", "generate", 1, 2)])
    first.flush()  # and no close: the process is killed
    with (tmp_path / "trace.json").open("ab") as stream:
        stream.write(b'{"ph":"X","name":"gene')  # in the middle of a line
    second = TraceWriter(tmp_path, "rlvr")
    second.spans([span("engine 0", "generate", 3, 4)])
    second.close()
    events = parsed(tmp_path / "trace.json")
    assert [e["ts"] for e in events if e["ph"] == "X"] == [1_000_000, 3_000_000]
    assert [e["name"] for e in events].count("process_name") == 1
    assert len({e["tid"] for e in events if e["ph"] == "X"}) == 1


def test_the_size_is_bounded_and_the_newest_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "MAX_FILE_BYTES", 10_000)
    monkeypatch.setattr(trace, "WRITE_BYTES", 1_000)
    monkeypatch.setattr(trace, "KEPT_FILES", 3)
    before = set(threading.enumerate())
    writer = TraceWriter(tmp_path, "rlvr")
    for second in range(1000):
        writer.spans([span("engine 0", "generate", second, second + 1)])
        for thread in set(threading.enumerate()) - before:
            thread.join()  # in one run there are minutes between two full files
    writer.close()
    files = trace_files(tmp_path)
    assert [path.name for path in files][-1] == "trace.json"
    assert len(files) == 4
    assert sum(path.stat().st_size for path in files) < 20_000
    last = 0
    for path in files:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        events = json.loads(text.decode()[:-2] + "]")
        assert [e["name"] for e in events[:2]] == ["process_name", "thread_name"]  # stands alone
        times = [e["ts"] for e in events if e["ph"] == "X"]
        assert times == sorted(times) and times[0] >= last
        last = times[-1]
    assert last == 999_000_000


def test_a_full_disk_costs_spans_and_nothing_else(tmp_path, monkeypatch):
    said = []
    writer = TraceWriter(tmp_path, "rlvr", said.append)
    writer.spans([span("engine 0", "generate", 1, 2)])
    writer.flush()
    real = trace.os.write
    monkeypatch.setattr(trace.os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
    for second in (3, 5):
        writer.spans([span("engine 0", "generate", second, second + 1)])
        writer.flush()
    monkeypatch.setattr(trace.os, "write", real)
    writer.spans([span("engine 0", "generate", 7, 8)])
    writer.close()
    assert said == ["trace.json cannot be written (no space left on device); spans are left out"]
    assert writer.left_out == 2
    times = [e["ts"] for e in parsed(tmp_path / "trace.json") if e["ph"] == "X"]
    assert times == [1_000_000, 7_000_000]


def test_what_cannot_be_drawn_is_left_out(tmp_path):
    writer = TraceWriter(tmp_path, "rlvr")
    writer.spans([span("engine 0", "x", float("nan"), 1), span("engine 0", "y", 5, 4)])
    writer.close()
    assert writer.left_out == 1
    (event,) = [e for e in parsed(tmp_path / "trace.json") if e["ph"] == "X"]
    assert (event["name"], event["dur"]) == ("y", 0)


def test_spans_cost_little(tmp_path):
    writer = TraceWriter(tmp_path, "rlvr")
    spans = [span("engine 0", "generate", i, i + 1, tokens=i) for i in range(5000)]
    began = time.perf_counter()
    writer.spans(spans)
    writer.flush()
    assert (time.perf_counter() - began) / len(spans) < 200e-6  # about 10 microseconds here


def test_reading_back(tmp_path):
    assert read_spans(tmp_path) == []
    writer = TraceWriter(tmp_path, "rlvr")
    spans = [span("engine 3", "generate", i, i + 0.5, tokens=i) for i in range(100)]
    writer.spans(spans)
    writer.close()
    with (tmp_path / "trace.json").open("ab") as stream:
        stream.write(b'{"ph":"X","na')
    assert read_spans(tmp_path) == spans
    assert read_spans(tmp_path, max_bytes=1000) == spans[-9:]


def test_a_stage_without_spans_has_no_trace(tmp_path):
    tracker = StageTracker(tmp_path, "sft")
    tracker.log({"train/loss": 0.5}, step=1)
    tracker.close()
    assert not (tmp_path / "trace.json").exists()


def test_the_tracker_draws_its_counters_and_tells_the_overlap(tmp_path):
    tracker = StageTracker(tmp_path, "rlvr")
    now = time.time()
    tracker.spans(
        [
            ("engine 0", "generate", now - 12, now - 2, {"tokens": 900}),
            ("trainer 0", "step 0", now - 12, now - 7, {}),
            ("trainer 0", "wait for batch 1", now - 7, now - 2, {}),
        ]
    )
    tracker.span("coordinator", "publish v1", now - 7, now - 6.9, sync_ms=46)
    shares = {"age/share/0": 0.3, "age/share/1": 0.3, "age/share/2": 0.395, "age/share/4": 0.005}
    tracker.log({"engine/running": 41.0, "age/buffer_groups": 5.0}, step=0, version=1)
    tracker.log({"trainer/busy_share": 0.5, **shares}, step=0, version=1)
    tracker.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert abs(rows[1]["overlap/both_busy_share"] - 0.5) < 0.01
    assert (rows[1]["age/versions/p50"], rows[1]["age/versions/p99"]) == (1.0, 2.0)
    events = parsed(tmp_path / "trace.json")
    counters = {e["name"]: e["args"]["value"] for e in events if e["ph"] == "C"}
    assert counters == {"axis/version": 1, "engine/running": 41.0, "age/buffer_groups": 5.0}
    assert [e["name"] for e in events if e["ph"] == "X"] == [
        "generate",
        "step 0",
        "wait for batch 1",
        "publish v1",
    ]


def test_spans_of_a_closed_stage_are_left_out(tmp_path):
    session = TrackSession(tmp_path, {"mode": "disabled"})
    session.spans("rlvr", [span("engine 0", "generate", 1, 2)])


def test_the_buffer_sends_one_message(tmp_path):
    messages, arrived = [], threading.Event()

    def send(spans):
        messages.append(spans)
        arrived.set()

    buffer = SpanBuffer(every_s=0.5)
    spans = [span("engine 0", "generate", i, i + 1) for i in range(1000)]
    for each in spans:
        buffer.add(each, send)
    while sum(map(len, messages)) < len(spans):
        assert arrived.wait(60.0)
        arrived.clear()
    assert [each for message in messages for each in message] == spans
    assert len(messages) <= 2
    buffer.add(spans[0], send)
    assert pickle.loads(pickle.dumps(buffer))._waiting == []  # what waits is sent from here
    buffer.flush(send)
    assert messages[-1] == spans[:1]


def test_a_buffer_that_nobody_empties_is_bounded(monkeypatch):
    from posttrain.track import spans as module

    monkeypatch.setattr(module, "MAX_WAITING_SPANS", 10)
    buffer, sent = SpanBuffer(every_s=60.0), []
    for second in range(12):
        buffer.add(span("engine 0", "generate", second, second + 1), sent.extend)
    buffer.flush(sent.extend)
    assert len(sent) == 10 and buffer.left_out == 2
