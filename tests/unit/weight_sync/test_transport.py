"""What both sides of a weight transfer say to one another, and how a missing side is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from posttrain.errors import WeightsDiffer
from posttrain.types import WeightVersion
from posttrain.weight_sync.transport import (
    listed,
    require_acknowledged,
    scheme_of,
    waited_too_long,
)

PUBLISHED = WeightVersion(0, 42, "9f3a11c2aa", "/dev/shm/posttrain-1-x/0-42.weights", 4096)


def test_the_scheme_stands_in_the_location():
    assert scheme_of("/dev/shm/posttrain-1-x/0-42.weights") == "shm"
    assert scheme_of("runs/quickstart/sft/4f1c9a2e/model") == "shm"
    assert scheme_of("nccl://10.0.0.1:29500/3") == "nccl"


def test_the_same_weights_are_acknowledged_wherever_they_lie():
    require_acknowledged(PUBLISHED, replace(PUBLISHED, location="nccl://h:1/1", num_bytes=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 41}, "engine 5 answers with version 41, the trainer published version 42"),
        (
            {"attempt": 1},
            "engine 5 answers with version 42 of attempt 1, the trainer published version 42",
        ),
        (
            {"checksum": "00ff00ff00"},
            "engine 5 answers with version 42 with checksum 00ff00ff, the trainer published "
            "9f3a11c2",
        ),
        (
            {"checksum": ""},
            "engine 5 answers with version 42 with checksum none, the trainer published 9f3a11c2",
        ),
    ],
)
def test_other_weights_than_published_are_refused(change, message):
    with pytest.raises(WeightsDiffer) as caught:
        require_acknowledged(PUBLISHED, replace(PUBLISHED, **change), "5")
    assert caught.value.message == message
    assert caught.value.place == PUBLISHED.location


def test_who_waited_for_whom():
    error = waited_too_long(
        "trainer rank 0", 120.0, "take version 42", ["5"], ["3", "0", "1", "4", "2"]
    )
    assert error.message == (
        "trainer rank 0 waited 120 s for engine 5 to take version 42; engines 0-4 answered"
    )
    nobody = waited_too_long("trainer rank 0", 1.5, "take version 7", ["0", "1"], [])
    assert nobody.message == (
        "trainer rank 0 waited 1.5 s for engines 0, 1 to take version 7; nobody answered"
    )


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["7"], "engine 7"),
        (["10", "9", "8"], "engines 8-10"),
        (["0", "2", "3", "4", "9"], "engines 0, 2-4, 9"),
        (["blue", "1", "0"], "engines 0, 1, blue"),
        (["3", "3"], "engine 3"),
    ],
)
def test_engines_in_a_row_are_drawn_together(names, text):
    assert listed(names) == text
