"""What runs inside Ray Train's workers: thin functions around posttrain.train.

Ray Train restarts a group in which a process died or a function raised; a run that would fail the
same way again must not be repeated. So an error of ours, which every rank raises, is written down,
and the function returns. An error of one rank alone (a bug, no memory) is written down too, and
raised: Ray Train then ends the other ranks, which wait for this one, and starts all again; they
find what is written, and return.
"""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.cluster.cores import keep_off
from posttrain.cluster.engine_place import EnginePlace, require_one_memory
from posttrain.errors import InputError, PosttrainError, Problem, RankLost, StageFailed
from posttrain.files import write_json, write_text
from posttrain.heavy_imports import lean_imports
from posttrain.ports import Tracker, TrainPort
from posttrain.prompts.stream import PromptStream
from posttrain.stages.jobs import OnlineJob
from posttrain.types import (
    Prompt,
    Rollout,
    RolloutGroup,
    RolloutRef,
    ScoredGroup,
    StoredBatch,
    StoredGroup,
    TrainBatch,
    WeightVersion,
)
from posttrain.weight_sync.shared_directory import memory_name, remove_orphans

if TYPE_CHECKING:
    from torch import Tensor

    from posttrain.train.ranks import Ranks
    from posttrain.train.rl_step import RlTrainer
    from posttrain.weight_sync.transport import WeightPublisher

FAILURE_FILE = "failure.json"
STARTS_FILE = "trainer_starts"
LINGER_S = 30.0
"""A rank whose collective breaks may have lost another. Then Ray Train, which looks every two
seconds, ends it within this time; what it does not end failed by itself."""


def guarded(body: Callable[[Mapping[str, Any]], None], config: Mapping[str, Any]) -> None:
    """Run `body`, leaving what went wrong in the stage's folder for the driver to raise.

    The driver removes what an earlier run left there. Raises RankLost, and what no other rank
    knows of.
    """
    directory = Path(config["directory"])
    if (directory / FAILURE_FILE).exists():
        return  # started again only to end
    try:
        body(config)
    except RankLost:
        raise
    except PosttrainError as error:
        _write_failure(directory, error)
    except Exception as error:  # our bug or a library's: written down whole, not retried
        is_alone = _num_ranks() == 1
        if not is_alone:
            time.sleep(LINGER_S)
        (directory / "traceback.txt").write_text(traceback.format_exc())
        message = ": ".join((type(error).__name__, *str(error).strip().splitlines()[:1]))
        _write_failure(
            directory, StageFailed(message, help=f"the traceback is in {directory}/traceback.txt")
        )
        if not is_alone:
            raise


def _num_ranks() -> int:
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def is_first_rank() -> bool:
    """Whether this is rank 0, or there are no ranks."""
    import torch.distributed as dist

    return not dist.is_initialized() or dist.get_rank() == 0


def raise_failure(directory: Path) -> None:
    """Raise on the driver what a worker left behind."""
    path = directory / FAILURE_FILE
    if not path.exists():
        return
    failure = json.loads(path.read_text())
    path.unlink()
    if failure["input"]:
        raise InputError([Problem(**problem) for problem in failure["problems"]])
    error = StageFailed(failure["message"], place=failure["place"], help=failure["help"])
    error.code = failure["code"]
    raise error


def _write_failure(directory: Path, error: PosttrainError) -> None:
    problems = error.problems if isinstance(error, InputError) else []
    failure = {
        "input": isinstance(error, InputError),
        "code": error.code,
        "message": error.message,
        "place": error.place,
        "help": error.help,
        "problems": [asdict(problem) for problem in problems],
    }
    write_json(directory / FAILURE_FILE, failure)


def offline_worker(config: dict[str, Any]) -> None:
    """Body of a Ray Train worker for stages that learn from rows."""
    from posttrain.cluster.offline_stages import train_offline

    guarded(train_offline, config)


def online_worker(config: dict[str, Any]) -> None:
    """Body of a Ray Train rank for `online_rl` stages."""
    guarded(_train_online, config)


def _train_online(config: Mapping[str, Any]) -> None:
    job: OnlineJob = config["job"]
    keep_off(config["engine_cores"].get(socket.gethostname(), ()))
    use_threads(job.trainer_threads)
    if job.engine.weight_sync == "shm":
        here = EnginePlace(socket.gethostname(), (), memory_name())
        require_one_memory(here, config["engine_places"], "the trainer")
    directory = Path(job.directory)
    tracker: Tracker = config["tracker"]
    with lean_imports():
        import ray
        import torch

        from posttrain.checkpoint.store import CheckpointStore
        from posttrain.train.ranks import Ranks
        from posttrain.train.rl_loop import RlParts, RlSettings, run_training

        torch.manual_seed(job.loop.seed)
        ranks = Ranks.join()
        if ranks.is_first:
            tracker.event("waiting", text="loading the model and its reference")
        trainer = _rl_trainer(job, ranks, tracker)
    prompts = PromptStream(ray.get(config["prompts"]), job.loop.seed)
    reader = RolloutReader(prompts, job.loop.samples_per_prompt)
    checkpoints = CheckpointStore(directory / "checkpoints")
    attempt = _count_start(directory) if ranks.is_first else 0
    if attempt > config["starts_before"]:
        latest = checkpoints.latest()
        tracker.event("trainer-restarted", from_step=latest.step if latest else 0)
    delivery = Delivery(_publisher(job, config["port"]) if ranks.is_first else None, attempt)
    try:
        run_training(
            RlSettings(
                directory=directory,
                num_steps=job.loop.num_steps,
                checkpoint_every=job.checkpoint_every,
                logprob_check_every=job.logprob_check_every,
                precision=job.precision,
                sync_every=job.sync_every,
                stop_at_members_std=job.stop_at_members_std,
                stop_at_kl=job.stop_at_kl,
            ),
            RlParts(
                trainer=trainer,
                port=config["port"],
                checkpoints=checkpoints,
                tracker=tracker,
                write_weights=delivery.prepare,
                read_batch=reader.batch,
                read_probes=reader.probes,
                ranks=ranks,
                announced=delivery.announced,
            ),
        )
    finally:
        delivery.close()


def _rl_trainer(job: OnlineJob, ranks: Ranks, tracker: Tracker) -> RlTrainer:
    """Policy, reference and critic loaded, on the rank's device."""
    from posttrain.config.plugins import load_plugin, plugin_config
    from posttrain.model.load import load_model, load_tokenizer
    from posttrain.model.lora import add_adapters
    from posttrain.train.critic import critic_module
    from posttrain.train.half_fine_tuning import freeze_half, tell_half
    from posttrain.train.reference_weights import reference_weights
    from posttrain.train.rl_step import RlTrainer, StepSettings

    device = "cuda" if job.gpus_per_trainer else "cpu"
    algorithm = load_plugin("algorithm", job.algorithm.name, job.algorithm.base_dir)
    policy: Any = load_model(job.model_path, "fp32")
    if job.lora is not None:
        add_adapters(policy, job.lora, job.loop.seed)
    if job.restraints.half_fine_tuning:
        frozen = freeze_half(policy, job.loop.seed)
        if ranks.is_first:
            tell_half(policy, frozen, Path(job.directory), tracker)
    policy.to(device)
    critic: Any = None
    if job.critic is not None:
        critic = critic_module(job.critic, job.model_path, policy).to(device)
    return RlTrainer(
        policy,
        reference_weights(policy, job.model_path, job.reference, device),
        load_tokenizer(job.model_path),
        algorithm,
        plugin_config(algorithm, job.algorithm.settings),
        StepSettings(
            temperature=job.loop.sampling.temperature,
            tokens_per_micro_batch=job.tokens_per_micro_batch,
            precision=job.precision,
            optimiser_steps=job.optimiser_steps,
            epochs=job.epochs,
            reward_scale=job.reward_scale,
            max_new_tokens=job.loop.sampling.max_new_tokens,
            off_policy=job.off_policy,
            restraints=job.restraints,
        ),
        ranks,
        critic,
    )


def _publisher(job: OnlineJob, port: TrainPort) -> WeightPublisher:
    """The trainer's side of how weights travel."""
    if job.engine.weight_sync == "shm":
        from posttrain.weight_sync.shm_publisher import ShmPublisher

        remove_orphans()  # the session sees to its own host only
        run = Path(job.directory).parent.parent.name
        return ShmPublisher(f"{run}-{job.stage}")
    import ray
    import torch

    from posttrain.weight_sync.nccl_link import VllmSender
    from posttrain.weight_sync.nccl_publisher import NcclPublisher
    from posttrain.weight_sync.transport import EngineMember

    def members(without: WeightVersion | None) -> list[EngineMember]:
        return [EngineMember(name, max(1, job.engine.gpus)) for name in port.engines(without)]

    device = torch.accelerator.current_device_index()
    address = ray.util.get_node_ip_address()
    return NcclPublisher(
        address,
        members,
        port.publish,
        lambda version: port.wait_acknowledged(version.version),
        partial(VllmSender, device),
    )


class Delivery:
    """Weights on their way from the first rank to the engines; the other ranks send nothing."""

    def __init__(self, publisher: WeightPublisher | None, attempt: int) -> None:
        self._publisher = publisher
        self._attempt = attempt
        self._before: WeightVersion | None = None

    def prepare(self, tensors: Mapping[str, Tensor], version: int) -> WeightVersion:
        assert self._publisher is not None, "the first rank alone publishes"
        return self._publisher.prepare(tensors, version, self._attempt)

    def announced(self, version: WeightVersion) -> None:
        """Send it, and let go of the one before, which every engine has acknowledged."""
        assert self._publisher is not None, "the first rank alone publishes"
        if self._before is not None:
            self._publisher.release(self._before)
        self._publisher.deliver(version)
        self._before = version

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()


class RolloutReader:
    """Reads what the coordinator names: prompts from the stage's stream, tokens from journals."""

    def __init__(self, prompts: PromptStream, samples_per_prompt: int) -> None:
        self._prompts = prompts
        self._num_samples = samples_per_prompt  # what a group has beyond them is its greedy answer

    def batch(self, stored: StoredBatch) -> TrainBatch:
        """Raises StageFailed where a rollout cannot be read."""
        groups = tuple(self._group(group) for group in stored.groups)
        return TrainBatch(stored.step, groups, stored.waited_s)

    def probes(self, probes: Sequence[tuple[Prompt, RolloutRef]]) -> list[Rollout]:
        from posttrain.rollout.journal import read_rollout

        return [read_rollout(ref, prompt.id, prompt.token_ids) for prompt, ref in probes]

    def _group(self, group: StoredGroup) -> ScoredGroup:
        from posttrain.rollout.journal import read_rollout

        prompt = self._prompts.at(group.draw)
        name = str(group.draw)
        rollouts = tuple(read_rollout(ref, name, prompt.token_ids) for ref in group.refs)
        num, greedy, greedy_score = self._num_samples, None, None
        if len(rollouts) > num:
            greedy, greedy_score = rollouts[num], group.scores[num]
        return ScoredGroup(
            RolloutGroup(name, group.draw, prompt, rollouts[:num], group.start_version, greedy),
            group.scores[:num],
            greedy_score,
        )


def trainer_starts(directory: Path) -> int:
    """How often this stage's trainer was started so far, over restarts and resumed runs."""
    path = directory / STARTS_FILE
    return int(path.read_text()) if path.exists() else 0


def _count_start(directory: Path) -> int:
    """The number of starts before this one.

    Engines tell by it the weights of a trainer that died from those of the one that follows it.
    """
    before = trainer_starts(directory)
    write_text(directory / STARTS_FILE, str(before + 1))
    return before


def use_threads(count: int) -> None:
    """Ray gives every worker one thread; the launcher knows better how many are free."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    import torch

    torch.set_num_threads(count)
