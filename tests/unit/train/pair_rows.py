"""Comparisons and a tracker for tests of what learns from them."""

import random

from posttrain.model.load import load_tokenizer
from posttrain.ports import PAIR
from posttrain.prompts.comparisons import Comparison
from posttrain.stages.pair_rows import _Renderer
from posttrain.train.pairs import RenderedPair


class Recorder:
    """A Tracker that keeps what it is told."""

    def __init__(self):
        self.rows, self.events = [], []

    def log(self, metrics, **axes):
        self.rows.append({**axes, **metrics})

    def event(self, name, **details):
        self.events.append((name, details))

    def samples(self, step, rows): ...

    def series(self, name):
        return [row[name] for row in self.rows if name in row]


def sorted_letters_are_better(model, count, seed=0, answers=PAIR, revision_prompt="better."):
    """Comparisons whose chosen answer is the prompt's letters in order, the rejected one not."""
    rng = random.Random(seed)
    render = _Renderer(load_tokenizer(model), revision_prompt)
    pairs = []
    while len(pairs) < count:
        letters = rng.sample("abcdefgh", rng.randint(2, 7))
        text, ordered = "".join(letters), "".join(sorted(letters))
        if text == ordered:
            continue
        row = Comparison(f"sort {text}=", ordered, text + rng.choice(["", "a", "bb"]))
        own = {name: said for name, said in answers.items() if not said.of_next}
        pairs.append(RenderedPair(render.answers(row, own)))
    return pairs
