"""How much of a cluster a stage holds at once, and whether a cluster has it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.config.answers import GenerateStage, OverOptimisationStage
from posttrain.config.average import AverageStage
from posttrain.config.document import Places
from posttrain.config.offline import OfflineStage, RewardModelStage
from posttrain.config.pipeline import Cluster, EvaluateStage, OnlineRlStage
from posttrain.config.plugin import Plugin
from posttrain.config.plugins import reward_stages
from posttrain.config.stage_base import StageBase
from posttrain.errors import Problem
from posttrain.pipeline.arithmetic import count


@dataclass(frozen=True, slots=True)
class Room:
    """Of a node, a cluster, or what a stage wants of it. Example: Room(cpus=3, gpus=2)"""

    cpus: int  # slots: one per engine and trainer, whatever they compute on
    gpus: int


def together(rooms: Iterable[Room]) -> Room:
    """Their sum."""
    counted = list(rooms)
    return Room(sum(each.cpus for each in counted), sum(each.gpus for each in counted))


@dataclass(frozen=True, slots=True)
class Held:
    """Processes of a stage that run at the same time, and the GPUs of each."""

    engines: int
    gpus_per_engine: int
    trainers: int
    gpus_per_trainer: int
    scoring_gpus: int  # of reward models and judges

    @property
    def all(self) -> Room:
        gpus = self.engines * self.gpus_per_engine + self.trainers * self.gpus_per_trainer
        return Room(self.engines + self.trainers, gpus + self.scoring_gpus)

    @property
    def largest_process(self) -> int:
        """GPUs that have to be on one node."""
        engine = self.gpus_per_engine if self.engines else 0
        return max(engine, self.gpus_per_trainer if self.trainers else 0)

    def in_gpus(self) -> str:
        """`32 GPUs at once (4 engines of 4, 16 trainers of 1)`"""
        sides = [
            f"{count(number, name)} of {each}"
            for number, name, each in (
                (self.engines, "engine", self.gpus_per_engine),
                (self.trainers, "trainer", self.gpus_per_trainer),
            )
            if number and each
        ]
        sides += [f"{self.scoring_gpus} for rewards"] if self.scoring_gpus else []
        return f"{count(self.all.gpus, 'GPU')} at once ({', '.join(sides)})"

    def in_slots(self) -> str:
        """`5 CPU slots (1 engine, 4 trainers)`"""
        sides = ((self.engines, "engine"), (self.trainers, "trainer"))
        told = ", ".join(count(number, name) for number, name in sides if number)
        return f"{count(self.all.cpus, 'CPU slot')} ({told})"


def held(stage: StageBase, cluster: Cluster, base_dir: str | Path | None = None) -> Held:
    """What a stage holds at once. `base_dir`: where the pipeline's own reward files are."""
    engines, trainers = _processes(stage, cluster)
    scoring = _scoring_gpus(stage, base_dir, cluster.gpus_per_engine)
    return Held(engines, cluster.gpus_per_engine, trainers, cluster.gpus_per_trainer, scoring)


def one_engine(cluster: Cluster) -> Held:
    """What a suite's questions hold."""
    return Held(1, cluster.gpus_per_engine, 0, 0, 0)


def _processes(stage: StageBase, cluster: Cluster) -> tuple[int, int]:
    """(engines, trainers)"""
    engines, trainers = cluster.engines_for(stage), cluster.trainers_for(stage)
    match stage:
        case OnlineRlStage():
            return engines, trainers
        case RewardModelStage():
            return 0, min(trainers, stage.members)
        case OfflineStage():
            return 0, trainers
        case GenerateStage():
            return engines, 0
        case EvaluateStage() | OverOptimisationStage():
            return 1, 0
        case AverageStage():
            return int(stage.asks), 0
    return 0, 0


def _scoring_gpus(stage: StageBase, base_dir: str | Path | None, gpus_per_engine: int) -> int:
    """Where engines have GPUs: one for all reward models, and each judge's own."""
    rewards = [getattr(stage, key, None) for key in ("reward", "watch", "scored_by", "gold")]
    named = {
        (each.makes, each.stage)
        for reward in rewards
        if isinstance(reward, Plugin)
        for each in reward_stages(reward, base_dir)
    }
    judges = sum(makes == "model" for makes, _ in named)
    has_models = any(makes == "reward_models" for makes, _ in named)
    return judges * gpus_per_engine + int(has_models and gpus_per_engine > 0)


def does_not_fit(
    stages: Mapping[str, Held], nodes: Sequence[Room], is_local: bool, places: Places
) -> list[Problem]:
    """A mistake for each stage that the nodes, all of them free, could not hold."""
    there = together(nodes)
    largest = max((node.gpus for node in nodes), default=0)
    help = "fewer engines or trainers here, " + (
        "or `--address HOST:PORT` of a cluster"
        if is_local
        else "or --wait-for-cluster 30m where nodes are on their way"
    )
    where = "this machine" if is_local else "the cluster"
    among = "" if is_local else f" ({count(len(nodes), 'node')})"
    problems = []
    for name, wants in stages.items():
        if wants.all.gpus > there.gpus:
            message = f"wants {wants.in_gpus()}, {where} has {there.gpus}{among}"
        elif wants.all.cpus > there.cpus:
            message = f"wants {wants.in_slots()}, {where} has {there.cpus}{among}"
        elif wants.largest_process > largest:
            message = (
                f"one process wants {wants.largest_process} GPUs, and no node has more than "
                f"{largest}"
            )
        else:
            continue
        path = f"stages.{name}.resources"
        problems.append(Problem("does-not-fit", message, path, *places.of(path), help))
    return problems
