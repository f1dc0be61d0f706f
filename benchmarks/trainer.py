"""What the trainer adds to bare forward, backward and AdamW on the same packed rows.

Bare is a loop written here: rows packed beforehand, log-softmax, a weighted sum, backward, AdamW.
The trainer's step does the same work and packs, computes advantages and the clipped loss, measures
entropy, clipping and the distance to the reference, and shortens the gradient. Both run in one
process on one thread, in turns, on batches that neither has seen.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figure, at_least, shown, worst_at_least
from benchmarks.workload import PROMPT_TOKENS, Workload, build_model

WORKLOADS = {
    "0.7 M, short answers": Workload("micro", 32, 8, 12, 12, 0.91),
    "10.7 M, long answers": Workload("small", 8, 8, 12, 64, 0.91),
}
BUDGET_TOKENS = 8192
WARM_UP = 2  # steps of each sort before the clock runs
RATIO_GOAL = 0.95
REAL_TOKENS_GOAL = 0.97


def run() -> tuple[list[Figure], dict[str, Any]]:
    figures = []
    for label in WORKLOADS:
        command = [sys.executable, "-m", __name__, label]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(printed.splitlines()[-1])
        figures += [
            at_least(f"{label}: trainer / bare tokens per s", row["ratio"], RATIO_GOAL, ""),
            shown(f"{label}: trainer", row["trainer"], "tokens/s"),
            shown(f"{label}: bare", row["bare"], "tokens/s"),
            shown(f"{label}: reading the batch, share of a step", row["around"], ""),
            worst_at_least(f"{label}: real / computed tokens", row["real"], REAL_TOKENS_GOAL, ""),
            shown(f"{label}: real / computed slots of attention", row["attention"], ""),
        ]
    return figures, {"repeats": 12 - WARM_UP, "micro_batch_tokens": BUDGET_TOKENS, "threads": 1}


def main(label: str) -> None:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        build_model(folder, WORKLOADS[label])
        print(json.dumps(measure(folder, WORKLOADS[label])))


def measure(folder: str, workload: Workload) -> dict[str, list[float]]:
    """Samples of each figure, in the order of the batches."""
    from posttrain.train.rl_batch import batch_metrics, flatten

    trainer, bare = make_trainer(folder), BareLoop(folder)
    computed = count_tokens(trainer.policy.model)
    row: dict[str, list[float]] = {
        name: [] for name in ("ratio", "trainer", "bare", "around", "real", "attention")
    }
    for number in range(workload.num_steps):
        batch = make_batch(workload, number)
        began = time.process_time()
        flat = flatten(batch)
        batch_metrics(batch, flat)
        around_s = time.process_time() - began
        pieces, num_tokens = bare.pack(flat), int(flat.sequences.total_lengths_B.sum())
        computed.clear()
        calls: list[Callable[[], Any]] = [
            lambda flat=flat, number=number: trainer.step(flat, number, workload.num_steps),
            lambda pieces=pieces: bare.step(pieces),
        ]
        times = {i: seconds(calls[i]) for i in ((0, 1), (1, 0))[number % 2]}
        if number < WARM_UP:
            continue
        row["ratio"].append(times[1] / times[0])
        row["trainer"].append(num_tokens / times[0])
        row["bare"].append(num_tokens / times[1])
        row["around"].append(around_s / times[0])
        row["real"].append(num_tokens / sum(computed))
        row["attention"].append(num_tokens / attention_slots(pieces))
    return row


def seconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def make_trainer(folder: str) -> Any:
    """GRPO as it comes: no KL term, so the reference is asked for its metric only."""
    from posttrain.algorithms import grpo
    from posttrain.model.load import load_model, load_tokenizer
    from posttrain.train.rl_step import RlTrainer, StepSettings

    model, reference = load_model(folder), load_model(folder)
    settings = StepSettings(temperature=1.0, tokens_per_micro_batch=BUDGET_TOKENS)
    return RlTrainer(model, reference, load_tokenizer(folder), grpo, grpo.Config(), settings)


class BareLoop:
    """Forward, backward and AdamW, and nothing else."""

    def __init__(self, folder: str) -> None:
        import torch

        from posttrain.model.load import load_model

        self._model: Any = load_model(folder)
        self._optimiser = torch.optim.AdamW(self._model.parameters(), lr=1e-6)

    def pack(self, flat: Any) -> list[tuple[Any, ...]]:
        """(what the model is called with, its wanted tokens' ids, their advantages) per row."""
        import torch

        from posttrain.train.micro_batches import micro_batches

        pieces = []
        everything = range(len(flat.rollouts))
        for micro in micro_batches(flat.sequences, everything, BUDGET_TOKENS, 1, 0):
            bounds = torch.tensor([0, *micro.lengths]).cumsum(0).to(torch.int32)
            positions = torch.cat([torch.arange(length) for length in micro.lengths])
            wanted = micro.wanted_S.nonzero().flatten()
            arguments = {
                "input_ids": micro.token_ids_S[None],
                "position_ids": positions[None],
                "cu_seq_lens_q": bounds,
                "cu_seq_lens_k": bounds,
                "max_length_q": max(micro.lengths),
                "max_length_k": max(micro.lengths),
                "use_cache": False,
                "logits_to_keep": wanted - 1,
            }
            advantages = torch.randn(len(wanted)) / len(flat.mask_T)
            pieces.append((arguments, micro.token_ids_S[wanted], advantages, micro.lengths))
        return pieces

    def step(self, pieces: list[tuple[Any, ...]]) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        for arguments, token_ids_T, advantages_T, _ in pieces:
            logits_TV = self._model(**arguments).logits[0]
            logprobs_T = logits_TV.log_softmax(-1).gather(-1, token_ids_T[:, None])[:, 0]
            (-(advantages_T * logprobs_T).sum()).backward()
        self._optimiser.step()


def count_tokens(model: Any) -> list[int]:
    """Grows by the number of tokens that each call of the model computes."""
    computed: list[int] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return computed


def attention_slots(pieces: list[tuple[Any, ...]]) -> int:
    """Attention alone groups sequences of similar length, and pads them to the longest."""
    from posttrain.model.attention import make_plan

    plans = [make_plan(lengths) for *_, lengths in pieces]
    return sum(rows * width for plan in plans for rows, width in plan.buckets)


def make_batch(workload: Workload, step: int) -> Any:
    """Random tokens of the planned lengths, with random scores."""
    from posttrain.types import Prompt, Rollout, RolloutGroup, Score, ScoredGroup, TrainBatch

    rng = random.Random(step)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randint(3, 63) for _ in range(count))

    groups = []
    first = step * workload.groups_per_step
    for draw in range(first, first + workload.groups_per_step):
        prompt = Prompt(str(draw), "benchmark", ids(PROMPT_TOKENS), "", {})
        rollouts = []
        for sample in range(workload.samples_per_prompt):
            count = workload.length(draw, sample)
            ones, logprobs = (1,) * count, tuple(-4.2 + 0.1 * rng.random() for _ in range(count))
            rollouts.append(
                Rollout(str(draw), sample, prompt.token_ids, ids(count), ones, logprobs,
                        (step,) * count, "", "stop")
            )  # fmt: skip
        scores = tuple(Score(float(rng.random() < 0.5)) for _ in rollouts)
        group = RolloutGroup(str(draw), draw, prompt, tuple(rollouts), step)
        groups.append(ScoredGroup(group, scores))
    return TrainBatch(step, tuple(groups))


if __name__ == "__main__":
    main(sys.argv[1])
