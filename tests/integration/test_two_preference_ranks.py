"""Two ranks that learn from comparisons (real gloo, DDP, TRL) do what one does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PATIENCE_S

from posttrain.model.load import load_state
from posttrain.model.micro import build_micro

RANK = Path(__file__).with_name("preference_rank.py")


def train(folder, model, ranks):
    """The first rank's rows by algorithm."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}"]
    command = [sys.executable, *(launcher if ranks > 1 else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(RANK), str(folder), str(model), "8"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "rows.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("ranks")
    build_micro(root / "model", seed=0)
    found = {}
    for ranks in (1, 2):
        (root / str(ranks)).mkdir()
        found[ranks] = train(root / str(ranks), root / "model", ranks)
    return root, found


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_the_held_out_curve_is_the_same_to_rounding(runs, name):
    """Rows are shared out otherwise, so steps differ; the loss before the first must not."""
    _, found = runs
    one, two = (
        [row for row in found[ranks][name] if "pref/heldout_margin" in row] for ranks in (1, 2)
    )
    assert len(one) == len(two) >= 3
    assert one[0]["pref/heldout_margin"] == two[0]["pref/heldout_margin"] == 0.0
    first = [
        next(row["train/loss"] for row in found[ranks][name] if "train/loss" in row)
        for ranks in (1, 2)
    ]
    assert first[0] == pytest.approx(first[1], abs=1e-4)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_both_learn_alike(runs, name):
    root, found = runs
    margins = [
        [row["pref/heldout_margin"] for row in found[ranks][name] if "pref/heldout_margin" in row]
        for ranks in (1, 2)
    ]
    assert margins[0][-1] > 0.05 and margins[1][-1] == pytest.approx(margins[0][-1], rel=0.35)
    shapes = [
        {key: value.shape for key, value in load_state(root / str(n) / name / "model").items()}
        for n in (1, 2)
    ]
    assert shapes[0] == shapes[1]
    assert all(torch.isfinite(v).all() for v in load_state(root / "2" / name / "model").values())
