"""Spans travel in few messages, and no trouble on their way reaches the caller."""

import pickle
import time

import ray

from posttrain.cluster.handles import TrackerHandle
from posttrain.track.spans import Span

SENT = []


class Method:
    """Stands where an actor's method stands."""

    def remote(self, stage, spans):
        if stage == "gone":
            raise ray.exceptions.RaySystemError("Ray has not been started yet")
        SENT.append((stage, spans))


class Actor:
    """Stands where the TrackerActor stands."""

    spans = Method()


def test_a_thousand_spans_are_one_message():
    SENT.clear()
    handle = TrackerHandle(Actor(), "rlvr")
    copy = pickle.loads(pickle.dumps(handle))  # as the engines and trainers get it
    for number in range(1000):
        copy.span("engine 0", "generate", number, number + 1, tokens=7)
    deadline = time.monotonic() + 5.0
    while not SENT and time.monotonic() < deadline:
        time.sleep(0.02)
    ((stage, spans),) = SENT
    assert stage == "rlvr" and len(spans) == 1000
    assert spans[0] == Span("engine 0", "generate", 0, 1, {"tokens": 7})


def test_a_tracker_that_is_gone_is_no_trouble():
    handle = TrackerHandle(Actor(), "gone")
    handle._send_spans([Span("engine 0", "generate", 0, 1, {})])
