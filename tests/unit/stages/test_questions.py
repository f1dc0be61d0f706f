"""Texts cut into windows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.stages.questions import Window, cut


@pytest.mark.parametrize(
    ("ids", "length", "expected"),
    [
        ([1, 2, 3, 4, 5], 3, [Window((1,), (2, 3)), Window((4,), (5,))]),
        ([1, 2, 3, 4], 3, [Window((1,), (2, 3))]),  # a lone last token has nothing to be judged by
        ([1, 2, 3], 3, [Window((1,), (2, 3))]),
        ([1, 2], 256, [Window((1,), (2,))]),
        ([1], 256, []),
        ([], 256, []),
        ([1, 2, 3], 1, []),
    ],
)
def test_windows(ids, length, expected):
    assert cut(ids, length) == expected


@given(st.lists(st.integers(0, 60), max_size=60), st.integers(2, 20))
def test_windows_give_the_text_back_without_overlap(ids, length):
    windows = cut(ids, length)
    joined = [token for w in windows for token in (*w.context_ids, *w.scored_ids)]
    lost = len(ids) - len(joined)
    assert joined == ids[: len(joined)]
    assert lost == (1 if len(ids) % length == 1 else 0)
    assert all(len(w.context_ids) == 1 and 1 <= len(w.scored_ids) < length for w in windows)
