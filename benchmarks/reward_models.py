"""What an ensemble of reward models costs: to train, and to be asked.

Training: `posttrain run` of a reward_model stage with several members in one job, against as many
times the same stage with one; seconds of the stage as its manifest has them, start-up included.

Scoring: answers of the lengths that small models give, by all members through the scorer that
rewards use, against the members' own forward passes on the same packed rows. In turns.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.figures import Figure, at_least, at_most, shown

MEMBERS = 4
ROUNDS = 3
STEPS = 40
SEQUENCES, TURNS = 400, 5


def run() -> tuple[list[Figure], dict[str, Any]]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rounds = [
            {k: _trained(Path(folder) / f"{turn}-{k}", k) for k in (MEMBERS, 1)}
            for turn in range(ROUNDS)
        ]
        costs = [each[MEMBERS] / (MEMBERS * each[1]) for each in rounds]
        figures.append(at_most(f"{MEMBERS} members / {MEMBERS} x one member", costs, 1.1, ""))
        for k in (1, MEMBERS):
            figures.append(shown(f"stage of {k}", [each[k] for each in rounds], "s"))
        ensemble = next((Path(folder) / f"0-{MEMBERS}").glob("runs/*/rm/*/reward_models"))
        ratios, speeds = _scored(ensemble)
    figures.append(at_least("scoring, scorer / bare forward", ratios, 0.9, ""))
    figures.append(shown("answers scored by all members", speeds, "1/s"))
    return figures, {"members": MEMBERS, "steps": STEPS, "sequences": SEQUENCES}


def _trained(folder: Path, members: int) -> float:
    """Seconds of the stage."""
    folder.mkdir(parents=True)
    stages = {
        "blank": {"kind": "model", "from_scratch": "micro"},
        "rm": {
            "kind": "reward_model",
            "uses": "reward_model/small",
            "model": "blank",
            "members": members,
            "data": "microworld/preferences",
            "steps": STEPS,
        },
    }
    document = {"name": "bench", "wandb": {"mode": "disabled"}, "stages": stages}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(document))
    subprocess.run(
        [sys.executable, "-m", "posttrain.cli", "run", "pipeline.yaml"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    manifest = json.loads(next(folder.glob("runs/*/rm/*/manifest.json")).read_text())
    return float(manifest["seconds"])


def _scored(ensemble: Path) -> tuple[list[float], list[float]]:
    """(scorer's speed / bare speed of each turn, answers per second of the scorer)."""
    import torch

    from posttrain.model.folders import member_folders
    from posttrain.model.packed import packed_inputs
    from posttrain.model.reward import load_reward_model
    from posttrain.reward.reward_models import TOKENS_PER_PASS, EnsembleScorer

    torch.set_num_threads(1)
    rng = random.Random(0)
    sequences = [[rng.randint(3, 60) for _ in range(rng.randint(8, 64))] for _ in range(SEQUENCES)]
    scorer = EnsembleScorer(ensemble)
    members = [load_reward_model(path) for path in member_folders(ensemble)]
    tokens_T = torch.tensor([token for each in sequences for token in each])
    lengths = [len(each) for each in sequences]
    assert len(tokens_T) <= TOKENS_PER_PASS  # one pass, as the scorer makes
    ratios, speeds = [], []
    for turn in range(TURNS + 1):
        began = time.perf_counter()
        scorer.scores(sequences)
        ours_s = time.perf_counter() - began
        began = time.perf_counter()
        with torch.no_grad():
            for member in members:
                packed = packed_inputs(tokens_T, lengths)
                hidden_TD = getattr(member, member.base_model_prefix)(**packed).last_hidden_state[0]
                member.score(hidden_TD[torch.tensor(lengths).cumsum(0) - 1])
        bare_s = time.perf_counter() - began
        if turn:  # the first warms up
            ratios.append(bare_s / ours_s)
            speeds.append(SEQUENCES / ours_s)
    return ratios, speeds
