"""One rank of a small trainer group, as a process: `python trainer_rank.py '{"rank": 0, ...}'`.

Runs the real loop with the real trainer, one plan after the other (a process takes seconds to
start); the coordinator and the engines are played by a class that makes batches from their number.
What the ranks logged and published is left in each plan's folder.
"""

import json
import os
import random
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from posttrain.algorithms import grpo, ppo
from posttrain.checkpoint.store import CheckpointStore
from posttrain.config.lora import Lora
from posttrain.config.pipeline import OffPolicy
from posttrain.config.restraints import Ema, Restraints, StartPenalty
from posttrain.errors import PosttrainError, StageFailed
from posttrain.model.load import load_model, load_tokenizer
from posttrain.model.lora import add_adapters
from posttrain.train.critic import critic_module
from posttrain.train.half_fine_tuning import freeze_half
from posttrain.train.ranks import Ranks
from posttrain.train.reference_weights import reference_weights
from posttrain.train.rl_loop import RlParts, RlSettings, run_training
from posttrain.train.rl_step import RlTrainer, StepSettings
from posttrain.types import (
    Prompt,
    Rollout,
    RolloutGroup,
    Score,
    ScoredGroup,
    StoredBatch,
    SyncReport,
    TrainBatch,
    WeightVersion,
)


def make_batch(step, num_groups=4, samples=4):
    """Answers of very different lengths, some of them empty, none of them of this model."""
    rng = random.Random(step)

    def ids(count):
        return tuple(rng.randint(3, 60) for _ in range(count))

    groups = []
    for draw in range(num_groups):
        prompt = Prompt(str(draw), "source", ids(5), "?", {})
        rollouts = []
        for sample in range(samples):
            tokens = ids(rng.choice([0, 1, 3, 8, 40]))
            logprobs = tuple(-4.2 + 0.1 * rng.random() for _ in tokens)
            mask = tuple(int(rng.random() < 0.9) for _ in tokens)
            versions = tuple(max(0, step - rng.randint(0, 2)) for _ in tokens)
            rollouts.append(
                Rollout(str(draw), sample, prompt.token_ids, tokens, mask, logprobs, versions,
                        "", "stop")
            )  # fmt: skip
        scores = tuple(Score(float(rng.random() < 0.5)) for _ in rollouts)
        group = RolloutGroup(str(draw), draw, prompt, tuple(rollouts), 0)
        groups.append(ScoredGroup(group, scores))
    return TrainBatch(step, tuple(groups))


class Everything:
    """Coordinator, journals and tracker. Only the first rank may speak with it."""

    def __init__(self, plan):
        self.plan = plan
        self.folder = Path(plan["folder"])
        self.logged = []

    def next_batch(self, step):
        assert self.plan["rank"] == 0
        if step == self.plan.get("refuse_at"):
            raise StageFailed(f"no batch of step {step}", place="coordinator")
        return None if step == self.plan.get("stop_at") else StoredBatch(step, ())

    def read_batch(self, stored):
        if stored.step == self.plan.get("die_at") and self.plan["rank"] == self.plan["who"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if stored.step == self.plan.get("fail_at") and self.plan["rank"] == self.plan["who"]:
            raise StageFailed("the journal record at byte 7 is damaged", place="a.journal")
        return make_batch(stored.step)

    def publish(self, version):
        assert self.plan["rank"] == 0

    def wait_acknowledged(self, version):
        return SyncReport(version, True, 1.0, 1.0)

    def probe(self):
        return []

    def read_probes(self, probes):
        return []

    def committed(self, step):
        assert self.plan["rank"] == 0

    def snapshot(self):
        return {"next_draw": 7}

    def log(self, metrics, **axes):
        self.logged.append({"step": axes["step"], "tokens": axes["tokens"], **metrics})

    def span(self, track, name, start_s, end_s, **details): ...

    def event(self, name, **details): ...

    def samples(self, step, rows): ...

    def write_weights(self, tensors, version):
        assert all(type(tensor) is torch.Tensor for tensor in tensors.values())
        torch.save({k: v.clone() for k, v in tensors.items()}, self.folder / f"{version}.pt")
        return WeightVersion(0, version, "", "")


def main(group):
    torch.set_num_threads(1)
    if group["num"] > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{group['rendezvous']}", rank=group["rank"],
            world_size=group["num"], timeout=timedelta(seconds=60),
        )  # fmt: skip
    ranks = Ranks.join(deadline_s=60)  # once, as a trainer does
    for plan in group["plans"]:
        run(plan | {"rank": group["rank"], "model": group["model"]}, ranks)


def run(plan, ranks):
    torch.manual_seed(plan["rank"])
    model, folder, world = plan["model"], Path(plan["folder"]), Everything(plan)
    folder.mkdir(exist_ok=True)
    policy = load_model(model)
    if "lora" in plan:
        add_adapters(policy, Lora(**plan["lora"]), seed=7)
    restraints = restraints_of(plan)
    if restraints.half_fine_tuning:
        freeze_half(policy, seed=7)
    algorithm = ppo if "critic" in plan["algorithm"] else grpo
    config = algorithm.Config(**plan["algorithm"])
    critic = None
    if algorithm is ppo:
        torch.manual_seed(7)  # a new head is the same on every rank
        critic = critic_module(config.critic, model, policy)
    trainer = RlTrainer(
        policy,
        reference_weights(policy, model, plan.get("reference", "keep"), "cpu"),
        load_tokenizer(model),
        algorithm,
        config,
        StepSettings(
            1.0,
            64,
            plan.get("precision", "fp32"),
            optimiser_steps=plan.get("optimiser_steps", 1),
            off_policy=OffPolicy(**plan.get("off_policy", {})),
            restraints=restraints,
        ),
        ranks,
        critic,
    )
    parts = RlParts(
        trainer, world, CheckpointStore(folder / "checkpoints"), world, world.write_weights,
        world.read_batch, world.read_probes, ranks,
    )  # fmt: skip
    settings = RlSettings(folder, plan["num_steps"], 100, 100, plan.get("precision", "fp32"))
    try:
        outcome = run_training(settings, parts)
    except PosttrainError as error:
        outcome = f"{type(error).__name__}: {error.message}"
    found = {"outcome": outcome, "logged": world.logged}
    (folder / f"{plan['name']}-rank-{plan['rank']}.json").write_text(json.dumps(found))


def restraints_of(plan):
    penalty, ema = plan.get("start_penalty"), plan.get("ema")
    return Restraints(
        None if penalty is None else StartPenalty(**penalty),
        plan.get("half_fine_tuning", False),
        None if ema is None else Ema(**ema),
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
