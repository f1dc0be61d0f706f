"""The order in which prompts are drawn."""

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import InputError
from posttrain.prompts.stream import PromptStream
from posttrain.types import Prompt


def prompts(count):
    return [Prompt(str(number), "rows", (number,), "?", {}) for number in range(count)]


def ids(stream, draws):
    return [int(stream.at(draw).id) for draw in draws]


def test_the_order_under_a_seed_stays_what_it_is():
    """A changed order is another run under the same identity."""
    assert ids(PromptStream(prompts(6), seed=7), range(12)) == [
        1, 4, 3, 0, 2, 5,
        2, 3, 5, 1, 4, 0,
    ]  # fmt: skip


@given(st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 5))
def test_every_prompt_once_per_epoch(count, seed, epoch):
    stream = PromptStream(prompts(count), seed)
    drawn = ids(stream, range(epoch * count, (epoch + 1) * count))
    assert Counter(drawn) == dict.fromkeys(range(count), 1)


@given(st.integers(1, 20), st.lists(st.integers(0, 200), max_size=30))
def test_a_draw_is_the_same_whatever_was_drawn_before(count, draws):
    stream = PromptStream(prompts(count), seed=3)
    once = ids(stream, draws)
    assert ids(stream, draws) == once
    assert [ids(PromptStream(prompts(count), seed=3), [draw])[0] for draw in draws] == once


def test_another_process_draws_the_same():
    code = (
        "from posttrain.prompts.stream import PromptStream\n"
        "from posttrain.types import Prompt\n"
        "rows = [Prompt(str(n), 'rows', (n,), '?', {}) for n in range(50)]\n"
        "print([int(PromptStream(rows, 11).at(d).id) for d in range(60)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "123"},
    )
    assert done.stdout.strip() == str(ids(PromptStream(prompts(50), 11), range(60)))


def test_epochs_and_seeds_differ():
    first = ids(PromptStream(prompts(50), 0), range(100))
    assert first[:50] != first[50:]
    assert first != ids(PromptStream(prompts(50), 1), range(100))
    assert first[:50] != list(range(50))


def test_no_prompts_are_refused():
    with pytest.raises(InputError) as caught:
        PromptStream([], seed=0)
    problem = caught.value.problems[0]
    assert (problem.code, problem.message) == ("empty-data", "no prompt to draw from")
