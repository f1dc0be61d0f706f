"""The same as `averaging_fronts` with a pretrained model: children's stories that have to please.

The model is stories260K (a quarter of a million parameters, trained on TinyStories), a folder in
Hugging Face form below the one that POSTTRAIN_MODELS names. GRPO teaches it what
`over_optimisation_stories` calls gold: different words, somebody who speaks, a length. What that
costs is asked in two ways of beginnings that no training saw: the next word of stories that the
start model wrote itself at temperature 1, and whether a story still names the child it is about.
A seed is one of training; the start and the questions stay.
"""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.averaging_fronts import Measured, front_in, of_seeds
from benchmarks.figures import Figure
from benchmarks.over_optimisation_stories import GOLD, MODEL, TOKENS, VARIABLE, beginnings

SEEDS = (0, 1, 2)
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)
STEPS, PROMPTS, SAMPLES = 60, 16, 8
ASKED = 1024  # questions of each task
CUTS = 8  # stories of each held-out beginning that are cut before a word
TIMES = 6  # that each held-out beginning is asked: answers are drawn
NEXT_WORD_TOKENS = 8
PICTURE = Path(__file__).parent.parent / "docs" / "averaging_fronts_stories.svg"

REWARD = '''\
"""Right where the answer {what}."""

import re

from posttrain.config.strict import StrictModel
from posttrain.reward.protocol import Example
from posttrain.types import Score


class Config(StrictModel):
    """No settings."""


def score(row, completion, config):
    right = {right}
    return Score(float(right), passed=right)


def gold(config):
    return [Example({{"answer": "cat"}}, "{gold}")]


def bad(config):
    return [Example({{"answer": "cat"}}, "{bad}")]
'''
REWARDS = {
    "next_word": {
        "what": "begins with the row's word",
        "right": 're.findall(r"[A-Za-z\']+", completion)[:1] == [row["answer"]]',
        "gold": " cat ran",
        "bad": " dog ran",
    },
    "names": {
        "what": "has the row's word somewhere",
        "right": 'row["answer"] in re.findall(r"[A-Za-z\']+", completion)',
        "gold": "the cat ran",
        "bad": "the cats ran",
    },
}


def run() -> tuple[list[Figure], dict[str, Any]]:
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise SystemExit(f"{VARIABLE} has to name the folder in which {MODEL} lies")
    model = str(Path(folder).resolve() / MODEL)

    def front_of(seed: int) -> Measured:
        with tempfile.TemporaryDirectory(prefix="bench-") as made:
            write_files(Path(made), model)
            return front_in(Path(made), pipeline(model, seed))

    figures, fronts = of_seeds(SEEDS, front_of, PICTURE)
    settings = {"seeds": SEEDS, "shares": SHARES, "steps": STEPS, "asked": ASKED}
    return figures, settings | {"fronts": fronts}


def write_files(folder: Path, model: str) -> None:
    """Rewards, prompts to train on, and both tasks' questions."""
    for name, parts in REWARDS.items():
        (folder / f"{name}.py").write_text(REWARD.format(**parts))
    trained, held = beginnings()
    texts = [text for text, _ in trained]
    write_rows(folder / "train.jsonl", [{"prompt": text} for text in texts])
    asked = [{"prompt": text, "answer": who} for text, who in held] * TIMES
    write_rows(folder / "names.jsonl", asked)
    write_rows(folder / "next_word.jsonl", next_words([text for text, _ in held], model))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def next_words(texts: list[str], model: str) -> list[dict[str, str]]:
    """Rows `prompt`, `answer`: stories that the model writes, cut before a word."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    tokenizer = AutoTokenizer.from_pretrained(model)
    writer = AutoModelForCausalLM.from_pretrained(model)
    set_seed(0)
    rng = random.Random(0)
    rows = []
    for text in texts:
        tokens_1T = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            told = writer.generate(
                tokens_1T, do_sample=True, max_new_tokens=TOKENS, num_return_sequences=CUTS
            )
        for story in tokenizer.batch_decode(told, skip_special_tokens=True):
            words = list(re.finditer(r"(?<= )[A-Za-z']+(?=[ .,!?])", story[len(text) :]))
            if words:
                word = rng.choice(words)
                prompt = (text + story[len(text) :][: word.start()]).rstrip()
                rows.append({"prompt": prompt, "answer": word.group()})
    return rows


def pipeline(model: str, seed: int) -> dict[str, Any]:
    """The pipeline file's content."""
    tasks = {
        "pleases": {"data": "names.jsonl", "reward": GOLD, "max_new_tokens": TOKENS},
        "next_word": {
            "data": "next_word.jsonl",
            "reward": "./next_word.py",
            "max_new_tokens": NEXT_WORD_TOKENS,
        },
        "names": {"data": "names.jsonl", "reward": "./names.py", "max_new_tokens": TOKENS},
    }
    return {
        "name": f"averaging_fronts_stories_{seed}",
        "seed": seed,
        "cluster": {"engines": 1, "trainers": 1, "cpus": 2},
        "wandb": {"mode": "disabled"},
        "suites": {
            "abilities": {
                "gain": ["pleases"],
                "keep": ["next_word", "names"],
                "tasks": tasks,
                "prompts_per_task": ASKED,
                "when": "only_final",
                "tax_since": "stories",
            }
        },
        "stages": {
            "stories": {"kind": "model", "path": model},
            "pleasing": {
                "kind": "online_rl",
                "model": "stories",
                "algorithm": {"name": "grpo", "lr": 3e-4},
                "reward": GOLD,
                "data": "train.jsonl",
                "batch": {"prompts": PROMPTS, "samples_per_prompt": SAMPLES},
                "steps": STEPS,
                "staleness": 1,
                "sampling": {"max_new_tokens": TOKENS},
            },
            "average": {
                "kind": "average",
                "method": "layerwise",
                "pre": "stories",
                "post": "pleasing",
                "weight_pre": list(SHARES),
                "samples": {"keep_best": 512},
                "recommend": {"tax_at_most": 100},
            },
        },
    }
