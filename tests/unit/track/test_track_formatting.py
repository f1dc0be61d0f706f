"""Numbers as people read them."""

from posttrain.track.formatting import (
    bar,
    duration,
    fixed,
    learning_rate,
    long_duration,
    percent,
    percent_interval,
    printable,
    significant,
    sparkline,
    thin,
)
from posttrain.types import Interval


def test_durations():
    assert [duration(s) for s in (0.2, 44, 83, 3723, None)] == [
        "0:00",
        "0:44",
        "1:23",
        "1:02:03",
        "-",
    ]
    assert [long_duration(s) for s in (44, 472, 16800)] == ["44 s", "7 min 52 s", "4 h 40 min"]


def test_shares():
    assert [percent(x) for x in (0.483, 0.008, 0.0, 1.0)] == ["48 %", "0.8 %", "0 %", "100 %"]
    assert percent_interval(Interval(0.48, 0.45, 0.51)) == "48 % ± 3"


def test_significant_digits():
    numbers = (0.31, 0.0002, 1.8, 46.2, 3e-6, 0, -2.94, 13100.0, float("nan"))
    expected = ["0.31", "0.0002", "1.8", "46", "3e-6", "0", "-2.9", "13 100", "not a number"]
    assert [significant(number) for number in numbers] == expected
    assert [fixed(number) for number in (1.9234, 0.38, 0.00123)] == ["1.92", "0.38", "0.0012"]
    assert [learning_rate(rate) for rate in (3e-4, 2.5e-6, 1e-7)] == ["3e-4", "2.5e-6", "1e-7"]


def test_bars_and_sparklines():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5, 5], 8) == "▄▄▄"
    assert sparkline([], 8) == ""
    assert thin([1, 3, 5, 7], 2) == [2, 6]
    assert bar(0.5, 4) == "██"
    assert bar(0.93, 10) == "█████████▎"  # 74.4 eighths


def test_text_of_a_model_cannot_move_the_cursor():
    assert printable("a\x1b[2Jb\nc", 20) == "a·[2Jb⏎c"
    assert printable("abcdef", 4) == "abc…"
