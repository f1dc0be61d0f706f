"""What a stage asks a launcher to run, as plain data: it crosses processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.config.lora import Lora
from posttrain.config.offline import Augment
from posttrain.config.pipeline import OffPolicy
from posttrain.config.restraints import UNRESTRAINED, EarlyStopping, Restraints
from posttrain.loop.settings import LoopSettings
from posttrain.ports import EngineSpec
from posttrain.types import Prompt

JOURNALS = "journal"  # folder that a stage's engines write rollouts into
LEDGER = "ledger.jsonl"  # what became of every prompt draw


@dataclass(frozen=True, slots=True)
class PluginRef:
    """A plug-in that another process can load again, with its complete settings."""

    kind: str  # "algorithm", "reward" or "averaging"
    name: str
    settings: Mapping[str, Any]
    base_dir: str  # relative plug-in paths are looked up from here


@dataclass(frozen=True, slots=True)
class ScoringJob:
    """What scores answers, ready to be started."""

    reward: PluginRef
    timeout_s: float
    processes: int
    memory_mb: int  # of each process
    judges: Mapping[str, EngineSpec]  # by the stage whose model judges
    ensembles: Mapping[str, str]  # folder by the stage whose reward models score
    gpus: int  # of each reward model's process; judges have their own
    directory: str  # the stage's: judges' logs lie there
    tokenizer_path: str  # folder with the tokenizer of the policy
    baselines: tuple[str, ...] = ()  # columns whose answers reward models score, too
    fused: tuple[tuple[str, int], ...] = ()  # ensembles, and over how many prompts each is fused
    watch: PluginRef | None = None  # a reward that is noted beside the first


@dataclass(frozen=True, slots=True)
class OnlineJob:
    """One online-RL stage, ready to run."""

    stage: str
    directory: str  # the stage's folder, absolute
    model_path: str  # trained model's start, and the reference
    algorithm: PluginRef
    scoring: ScoringJob
    stop_at_members_std: float | None  # how far an ensemble's members may differ
    stop_at_kl: float | None  # nats that an answer may be away from the start
    reward_scale: float
    prompts: tuple[Prompt, ...]
    heldout: tuple[Prompt, ...]
    loop: LoopSettings
    engine: EngineSpec
    num_engines: int
    num_trainers: int
    trainer_threads: int
    gpus_per_trainer: int
    precision: str
    tokens_per_micro_batch: int
    optimiser_steps: int
    epochs: int
    critic: str | None  # `policy`, `head` or a folder; None where the algorithm needs none
    off_policy: OffPolicy
    lora: Lora | None
    restraints: Restraints
    reference: str  # "keep" or "offload"
    sync_every: int  # steps between two publications
    checkpoint_every: int
    logprob_check_every: int
    attempt: int


@dataclass(frozen=True, slots=True)
class OfflineJob:
    """One stage that learns from rows, ready to run."""

    kind: str  # "sft", "reward_model" or "preference"
    stage: str
    directory: str
    model_path: str
    algorithm: PluginRef
    lora: Lora | None
    data: Mapping[str, Any]  # DataSpec
    batch_rows: int
    tokens_per_micro_batch: int
    steps: int | None
    epochs: float | None
    max_tokens: int | None
    holdout_rows: int
    seed: int
    threads: int
    num_trainers: int
    gpus_per_trainer: int
    precision: str
    attempt: int
    members: int = 1  # of an ensemble
    augment: Augment | None = None  # of its prompts
    restraints: Restraints = UNRESTRAINED
    early_stopping: EarlyStopping | None = None
