"""The seams between parts: what each asks of the others, and the contracts of plug-ins.

Parts never import one another's insides. `loop` and `stages` see only these protocols (and
`stages.launcher`); `cluster` implements them with Ray, unit tests with plain objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from posttrain.types import (
    Directive,
    EngineReport,
    Prompt,
    RolloutRef,
    Scoring,
    StoredBatch,
    SyncReport,
    WeightVersion,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# ---------------------------------------------------------------------------------------------
# Contract of online algorithms: Config, NEEDS, advantages(), loss()
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Needs:
    """What an algorithm asks the trainer for. Generic code branches on this, never on names."""

    groups: bool = False  # compares the samples of one prompt: needs two or more
    critic: bool = False  # a value head and old values
    reference: bool = False  # log-probs of the frozen starting model
    greedy: bool = False  # one greedy rollout per prompt
    pairs: bool = False  # offline: chosen and rejected answers
    judged: bool = False  # offline: single answers, each good or bad, in place of pairs
    score_head: bool = False  # offline: trains a head that scores answers, not what is said


@dataclass(frozen=True, slots=True)
class AdvantageInputs:
    """What `advantages(inputs, config)` sees: the whole optimiser batch, before any split over
    ranks.

    Flat tensors hold completion tokens only, sequence after sequence, group after group.
    """

    rewards_GK: Tensor  # [G, K] scalar reward of each rollout
    lengths_B: Tensor  # [B = G*K] completion tokens of each rollout, may be 0
    mask_T: Tensor  # [T] 1 where the policy chose the token
    behaviour_logprobs_T: Tensor  # [T] nats
    reference_logprobs_T: Tensor | None = None  # [T] with NEEDS.reference
    values_T: Tensor | None = None  # [T] with NEEDS.critic: value before each token
    greedy_rewards_G: Tensor | None = None  # [G] with NEEDS.greedy
    cut_B: Tensor | None = None  # [B] True where the answer hit the token limit
    # name -> [G, K], NaN where an answer's score has no such part (a judge of other prompts)
    reward_parts: Mapping[str, Tensor] = field(default_factory=dict)
    # β of the KL in the reward: the configuration's, or what the adaptive controller made of it.
    kl_coefficient: float = 0.0
    max_new_tokens: int = 0  # the stage's limit of one answer


@dataclass(frozen=True, slots=True)
class Advantages:
    """What `advantages()` returns. `returns_T` only from algorithms with a critic."""

    advantages_T: Tensor  # [T] detached
    returns_T: Tensor | None = None  # [T]
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What `loss(inputs, config)` sees: one packed micro-batch of the optimiser batch.

    Sums over a micro-batch are divided by the *whole* batch's counts, so that micro-batches add up.

    Which policy `old_logprobs_T` is of (the one that sampled, or the weights right before the step)
    is the stage's setting `off_policy`; with the latter, `advantages_T` come multiplied with each
    token's weight, 0 or more. So no algorithm has to know; but a policy loss must be proportional
    to the advantages' size, as every policy gradient is.
    """

    logprobs_T: Tensor  # [T] of the current policy, with gradient
    old_logprobs_T: Tensor  # [T] centre of the trust region: ratios are taken to this
    advantages_T: Tensor  # [T]
    mask_T: Tensor  # [T]
    sequence_T: Tensor  # [T] which sequence of the micro-batch a token belongs to, 0-based
    num_sequences: int  # in this micro-batch
    total_tokens: float  # masked-in tokens of the whole optimiser step, over all ranks
    total_sequences: float  # sequences with at least one such token, over all ranks
    entropy_T: Tensor | None = None  # [T] nats; detached
    reference_logprobs_T: Tensor | None = None
    values_T: Tensor | None = None  # [T] with gradient
    old_values_T: Tensor | None = None
    returns_T: Tensor | None = None
    max_new_tokens: int = 0  # the stage's limit of one answer


@dataclass(frozen=True, slots=True)
class LossTerms:
    """What `loss()` returns: named parts already scaled, so that their sum is minimised.

    `metrics` hold sums over the micro-batch's tokens divided by `total_tokens`: they add up too.
    """

    policy: Tensor
    kl: Tensor | None = None
    value: Tensor | None = None
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        total = self.policy
        for part in (self.kl, self.value):
            if part is not None:
                total = total + part
        return total


# ---------------------------------------------------------------------------------------------
# Contract of offline algorithms: Config, NEEDS, objective()
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """An answer whose log-prob an objective compares, and what stands before it.

    Example: Said("chosen", after="rejected") is the chosen answer to the prompt and a draft, the
    rejected answer.
    """

    answer: Literal["chosen", "rejected", "judged"]
    after: Literal["prompt", "chosen", "rejected"] = "prompt"
    of_next: bool = False  # the answer of the next row: one that does not belong to the prompt
    detached: bool = False  # wanted of the whole optimiser batch before its first gradient


PAIR: Mapping[str, Said] = {"chosen": Said("chosen"), "rejected": Said("rejected")}
ANSWER = "judged"
JUDGED: Mapping[str, Said] = {ANSWER: Said("judged")}


@dataclass(frozen=True, slots=True)
class PreferenceInputs:
    """What an objective's `loss` sees: one micro-batch of comparisons, or of judged answers, by the
    names it gave.

    `whole` holds the log-ratios of its detached answers, over the optimiser batch of all ranks.
    """

    logprobs: Mapping[str, Tensor]  # name -> [B] nats, summed over the answer, with gradient
    reference: Mapping[str, Tensor]  # name -> [B] of the model that the stage started from
    lengths: Mapping[str, Tensor]  # name -> [B] tokens of the answer, its end of turn included
    whole: Mapping[str, Tensor] = field(default_factory=dict)  # name -> [N]
    good_B: Tensor | None = None  # [B] of judged answers: which are good
    balance_B: Tensor | None = None  # [B] weights with which good and bad ones count alike in sum

    def ratio(self, name: str) -> Tensor:
        """[B] log π - log π_ref, nats."""
        return self.logprobs[name] - self.reference[name]

    def mean_logprob(self, name: str) -> Tensor:
        """[B] nats per token."""
        return self.logprobs[name] / self.lengths[name].clamp(min=1)


@dataclass(frozen=True, slots=True)
class Objective:
    """What `objective(config)` returns: TRL settings, and a loss where TRL has none.

    Example: Objective({"learning_rate": 2e-3, "lr_scheduler_type": "cosine"})
    """

    trainer_settings: Mapping[str, Any]
    loss: Callable[[PreferenceInputs], Tensor] | None = None  # [B]; the batch's mean is minimised
    answers: Mapping[str, Said] = field(default_factory=lambda: dict(PAIR))
    revision_prompt: str = ""  # what the user says between a draft and the answer after it

    @property
    def judged(self) -> bool:
        """Whether its rows are judged answers, not comparisons."""
        return any(said.answer == "judged" for said in self.answers.values())


# ---------------------------------------------------------------------------------------------
# Contract of averaging methods: Config, NEEDS, merge(). A method may also have survey(),
# coefficients() and part()
# ---------------------------------------------------------------------------------------------

Answered = tuple[Sequence[int], Sequence[int]]  # token ids of a prompt, and of an answer to it


@dataclass(frozen=True, slots=True)
class AveragingNeeds:
    """What an averaging method asks of its stage. Generic code branches on this, never on names."""

    pair: bool = False  # `pre` and `post`, mixed by `weight_pre`; otherwise `models`
    base: bool = False  # beside `models` also `pre`, which all of them were trained from
    min_models: int = 1
    max_models: int | None = None
    weights: Literal["none", "any", "positive", "shares"] = "none"  # of `models`; shares sum to 1
    answers: bool = False  # has coefficients(), which looks at answers


@dataclass(frozen=True, slots=True)
class TensorVersions:
    """What `merge(versions, config)` sees: one tensor as every model has it.

    fp32, or fp64 where a model stores more than that. It may be the file itself, mapped: read it,
    never write into it. `merge` returns a tensor of the same shape, or one of these as it is.

    Where the method has `survey(tensors, config)`, that is called first, with a function that reads
    all tensors from the start each time it is called; what it returns is `found` here.
    `part(layer, num_layers, config)` names the part that a tensor belongs to, for reports.
    """

    name: str
    layer: int | None  # from 0; None outside the layers: embeddings, last norm, output head
    num_layers: int
    models: tuple[Tensor, ...]  # `post` alone, or `models` in their order
    pre: Tensor | None = None
    weight_pre: float = 0.0  # the share of `pre`, of methods with a pair
    weights: tuple[float, ...] = ()  # of `models`
    seed: int = 0
    found: Any = None  # by survey() or coefficients()


@dataclass(frozen=True, slots=True)
class CoefficientSearch:
    """What `coefficients(search, config)` sees.

    `logits(shares_ML, sequences)` is the model `pre + sum_i shares[i, layer] * (model_i - pre)`
    reading sequences: fp32 logits [N, V] before each token of the answers, with gradient to the
    shares, and the tokens [N]. The last of the L = layers + 1 columns is all outside the layers.
    """

    logits: Callable[[Tensor, Sequence[Answered]], tuple[Tensor, Tensor]]
    num_models: int  # beside `pre`
    linear_layers: tuple[int, ...]  # number of linear maps in each layer, bottom first
    sequences: Sequence[Answered]
    weight_pre: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What `coefficients()` returns; `merge()` gets it as `found`.

    Example: Coefficients(((0.8, 0.7, 0.8),), ({"average/proxy_nll": 1.25},)) for two layers.
    """

    shares: tuple[tuple[float, ...], ...]  # [M][layers + 1], as CoefficientSearch.logits takes them
    trajectory: tuple[Mapping[str, float], ...] = field(compare=False, repr=False, default=())


# ---------------------------------------------------------------------------------------------
# Ports
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What makes two engines interchangeable; engines are leased by it."""

    model_path: str  # configuration, tokenizer and first weights
    max_model_len: int
    precision: str
    kv_cache_mb: int
    eager: bool
    block_size: int
    max_running: int
    gpus: int = 0
    cpus: int = 1
    weight_sync: str = "shm"  # how weights reach it: shm or nccl


class RewardPort(Protocol):
    """Reward workers as the coordinator sees them: they read the answers themselves."""

    async def score(self, prompt: Prompt, refs: Sequence[RolloutRef]) -> Scoring:
        """One entry per ref. Raises RewardBroken where the reward cannot be used at all."""
        ...


class TrainPort(Protocol):
    """What a trainer asks of the coordinator. Blocking calls, each with a deadline."""

    def next_batch(self, step: int) -> StoredBatch | None:
        """The batch of this step; the same one when asked again. None: stop now."""
        ...

    def publish(self, version: WeightVersion) -> None:
        """Announce new weights. Returns when every engine has acknowledged the *previous* ones:
        two files are enough, and nobody waits for the swap itself.
        """
        ...

    def wait_acknowledged(self, version: int) -> SyncReport:
        """Returns when every live engine computes with `version` or a newer one."""
        ...

    def engines(self, without: WeightVersion | None = None) -> Sequence[str]:
        """Names of the engines that live; of those only that have to take a version."""
        ...

    def probe(self) -> Sequence[tuple[Prompt, RolloutRef]]:
        """A few fresh answers of every engine, to compare log-probs."""
        ...

    def committed(self, step: int) -> None:
        """A whole checkpoint holds `step` trained batches."""
        ...

    def snapshot(self) -> Mapping[str, Any]:
        """The coordinator's state, to be stored in the same checkpoint."""
        ...


class StoredCheckpoint(Protocol):
    """A whole checkpoint as its reader sees it."""

    @property
    def step(self) -> int: ...

    @property
    def state(self) -> Mapping[str, Any]: ...

    def load_model(self) -> Mapping[str, Tensor]: ...

    def load_optimiser(self) -> Mapping[str, Any]: ...


class CoordinatorPort(Protocol):
    """The coordinator as a rollout worker sees it."""

    async def exchange(self, report: EngineReport) -> Directive:
        """Tell what was done, be told what to do. Answers at once where there is something to say,
        else within a few seconds. Raises StageFailed where the coordinator's process is gone.
        """
        ...


class CheckpointPort(Protocol):
    """Where a trainer saves; `posttrain.checkpoint.store` implements it."""

    def latest(self) -> StoredCheckpoint | None: ...

    def save(
        self,
        step: int,
        model: Mapping[str, Tensor],
        optimiser: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> Any: ...


class CheckpointFolders(Protocol):
    """Where a trainer's library saves files of its own; `posttrain.checkpoint.folders` has it."""

    def latest(self) -> Path | None:
        """The newest whole folder. Raises InputError where it was damaged since."""
        ...

    def begin(self, step: int) -> Path:
        """A folder to write into; the same on every rank."""
        ...

    def commit(self, step: int, written: Path) -> Path:
        """Make `written`, that folder or one inside it, the newest."""
        ...

    def clear(self) -> None: ...


class Tracker(Protocol):
    """Where numbers and events of one stage go. Never slows a step; never raises."""

    def log(self, metrics: Mapping[str, float], **axes: float) -> None:
        """Metrics by full name (`train/loss`), at axes `step`, `version`, `tokens`."""
        ...

    def event(self, name: str, **details: Any) -> None: ...

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A few rendered rollouts, for the report and W&B."""
        ...

    def span(self, track: str, name: str, start_s: float, end_s: float, **details: Any) -> None:
        """`track` is a row of the picture ("engine 0"); times are of time.time()."""
        ...
