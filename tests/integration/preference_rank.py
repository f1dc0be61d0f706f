"""One rank of a preference trainer: `torchrun ... preference_rank.py FOLDER MODEL BATCH_ROWS`."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from posttrain.algorithms import dpo, kto
from posttrain.checkpoint.folders import CommittedFolders
from posttrain.model.load import load_tokenizer
from posttrain.ports import PAIR
from posttrain.prompts.comparisons import Comparison
from posttrain.stages.pair_rows import _Renderer
from posttrain.train.offline import OfflineSettings
from posttrain.train.pairs import RenderedPair
from posttrain.train.preference import run_preference

LETTERS = "abcdefgh"


class Kept:
    """A tracker that keeps the rows of the first rank."""

    def __init__(self):
        self.rows = []

    def log(self, metrics, **axes):
        self.rows.append({**axes, **metrics})

    def event(self, name, **details): ...


def pairs_of(model):
    """Of very different lengths, so that a small budget cuts ranks' batches differently."""
    render = _Renderer(load_tokenizer(model), "")
    pairs = []
    for number in range(32):
        length = 1 + (number * 7) % 30
        text = "".join(LETTERS[(number * 3 + place) % 8] for place in range(length))
        row = Comparison(f"copy {text}=", text, text[::-1] + "a")
        pairs.append(RenderedPair(render.answers(row, PAIR)))
    return pairs


def main(folder, model, batch_rows):
    torch.set_num_threads(1)
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    found = {}
    for name, algorithm in (("dpo", dpo), ("kto", kto)):
        config = algorithm.Config(lr=1e-3, schedule="constant", warmup_share=0.0, epsilon=1e-4)
        directory = Path(folder) / name
        directory.mkdir(parents=True, exist_ok=True)
        tracker = Kept()
        settings = OfflineSettings(
            directory=directory,
            model_path=model,
            objective=algorithm.objective(config),
            batch_rows=int(batch_rows),
            tokens_per_micro_batch=160,
            steps=4,
            epochs=None,
            holdout_rows=4,
            seed=5,
            precision="fp32",
        )
        run_preference(
            settings,
            pairs_of(model),
            tracker,
            lambda: False,
            CommittedFolders(directory / "checkpoints"),
            has_reference=True,
        )
        found[name] = tracker.rows
    if not dist.is_initialized() or dist.get_rank() == 0:
        (Path(folder) / "rows.json").write_text(json.dumps(found))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
