"""Overlap: literal spans in, literal shares out."""

from hypothesis import given
from hypothesis import strategies as st

from posttrain.track.overlap import LAG_S, OverlapWatch, merged, overlap
from posttrain.track.spans import Span


def test_overlap_of_two_sides():
    # both busy 2..4 and 6..7: 3 of 10 seconds
    assert overlap([(0, 4), (6, 9)], [(2, 5), (5, 7)], (0, 10)) == (2 + 1) / 10


def test_spans_of_one_side_count_once_where_they_overlap():
    # side a is busy 0..6 (twice 2..4), side b 3..8: 3..6 together, 3 of 6 seconds
    assert overlap([(0, 4), (2, 6)], [(3, 8)], (0, 6)) == 3 / 6


def test_only_the_window_counts():
    # within 4..6 side a is busy all the time, side b for 1 second
    assert overlap([(0, 100)], [(0, 5)], (4, 6)) == 0.5


def test_nothing_to_share():
    assert overlap([], [(0, 1)], (0, 1)) == 0.0
    assert overlap([(0, 1)], [(1, 2)], (0, 2)) == 0.0  # touching is not overlapping
    assert overlap([(0, 1)], [(0, 1)], (1, 1)) == 0.0
    assert overlap([(0, 1)], [(0, 1)], (2, 1)) == 0.0
    assert overlap([(0, 1)], [(0, 1)], (5, 9)) == 0.0


def test_merged():
    assert merged([(3, 5), (0, 2), (1, 4)]) == [(0, 5)]
    assert merged([(0, 1), (2, 3)]) == [(0, 1), (2, 3)]
    assert merged([(0, 1), (2, 3), (9, 10)], gap_s=1) == [(0, 3), (9, 10)]
    assert merged([(0, 10), (1, 2)]) == [(0, 10)]


_SPANS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 10)).map(lambda p: (p[0], p[0] + p[1])),
    max_size=8,
)


@given(_SPANS, _SPANS, st.integers(0, 30), st.integers(1, 20))
def test_overlap_is_what_counting_seconds_gives(spans_a, spans_b, start, length):
    def busy(spans, second):
        return any(first <= second < last for first, last in spans)

    seconds = range(start, start + length)
    counted = sum(busy(spans_a, s) and busy(spans_b, s) for s in seconds) / length
    assert abs(overlap(spans_a, spans_b, (start, start + length)) - counted) < 1e-12


def busy(track, name, start, end):
    return Span(track, name, start, end, {})


def test_the_watch_tells_each_window_once():
    watch = OverlapWatch()
    assert watch.share(100.0) is None  # nothing is known
    watch.add(busy("engine 0", "generate", 10.0, 14.0))
    watch.add(busy("engine 1", "generate", 12.0, 16.0))
    assert watch.share(100.0) is None  # no trainer yet
    watch.add(busy("trainer 0", "wait for batch 3", 10.0, 15.0))  # waiting is not busy
    watch.add(busy("trainer 0", "step 3", 15.0, 20.0))
    # told since 15 (both sides have been there); long after, until 20, which the trainer told:
    # together 15..16, 1 of 5 seconds
    assert watch.share(100.0) == 1 / 5
    watch.add(busy("engine 0", "generate", 20.0, 24.0))
    watch.add(busy("engine 0", "swap v4", 24.0, 25.0))
    watch.add(busy("trainer 0", "step 4", 20.0, 30.0))
    assert watch.share(100.0) == 4 / 10
    assert watch.share(100.0) is None  # no time has passed


def test_what_is_not_told_yet_is_waited_for():
    watch = OverlapWatch()
    watch.add(busy("engine 0", "generate", 0.0, 30.0))
    watch.add(busy("trainer 0", "step 0", 0.0, 20.0))
    assert watch.share(30.0) == 1.0  # 0..20: what the trainer did since is not known
    watch.add(busy("trainer 0", "step 1", 20.0, 38.0))
    assert watch.share(38.0) == 1.0  # 20..30: the engine is about to tell
    watch.add(busy("trainer 0", "step 2", 38.0, 60.0))
    # the engine said nothing for 11 s: it rests. Until 60 - 11 = 49 together nothing of 30..49
    assert watch.share(60.0) == 0.0
    assert LAG_S == 11.0


def test_an_engine_that_went_holds_nothing_up():
    watch = OverlapWatch()
    watch.add(busy("engine 0", "generate", 0.0, 5.0))  # and never again
    watch.add(busy("engine 1", "generate", 0.0, 50.0))
    watch.add(busy("trainer 0", "step 0", 0.0, 50.0))
    assert watch.share(50.0) == 1.0  # 0..39
    watch.add(busy("engine 1", "generate", 50.0, 60.0))
    watch.add(busy("trainer 0", "step 1", 50.0, 60.0))
    assert watch.share(60.0) == 1.0
