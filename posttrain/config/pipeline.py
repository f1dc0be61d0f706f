"""What may stand in a pipeline file. Every field's sentence ends up in the editor's tooltip.

Names of plug-ins (algorithms, rewards, averaging methods) are kept as `Plugin`; their settings are
checked against the plug-in's own Config by `posttrain.config.plugins`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from posttrain.config.answers import (
    AnswerSampling,
    BestOfNStage,
    GenerateStage,
    OverOptimisationStage,
    ScoredReward,
)
from posttrain.config.average import AverageStage
from posttrain.config.data import Data
from posttrain.config.lora import Lora
from posttrain.config.offline import PreferenceStage, RewardModelStage, SftStage
from posttrain.config.plugin import Plugin
from posttrain.config.restraints import RestrainedStage
from posttrain.config.stage_base import StageBase
from posttrain.config.strict import Contradiction, StrictModel, short_form
from posttrain.config.suites import Recommend, Suite, SuiteUse


class ModelStage(StageBase):
    """A model to start from: a folder, a hub name, or random weights."""

    kind: Literal["model"]
    """`model`."""
    path: str | None = None
    """A folder in Hugging Face form, or a hub name."""
    from_scratch: str | None = None
    """`micro`: three quarters of a million random parameters and a character-level tokenizer."""
    chat_template: str | None = None
    """A shipped template (plain, chatml, llama3, tulu) or a .jinja file; else the model's own."""
    # Not told where it is not asked for: identities of stages without stay what they were.
    tiny: bool = Field(default=False, exclude_if=lambda value: value is False)
    """With `path`: a few small layers of the same architecture with random weights, in place of the
    model's own, which are not fetched; its tokenizer and template stay. `run --smoke` sets it."""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelStage:
        if (self.path is None) == (self.from_scratch is None):
            raise ValueError("give one of `path` and `from_scratch`")
        if self.tiny and self.path is None:
            raise Contradiction(
                "`tiny` shrinks the model of `path`, and there is none",
                "leave it out: `from_scratch: micro` is small already",
                code="unused-setting",
            )
        return self


class RlBatch(StrictModel):
    """prompts x samples_per_prompt = rollouts of one step."""

    prompts: int = Field(default=32, gt=0)
    """Prompts per step; each becomes one group."""
    samples_per_prompt: int = Field(default=8, gt=0)
    """Answers per prompt."""
    optimiser_steps: int = Field(default=1, gt=0)
    """The batch is trained in so many parts of whole groups, one optimiser step each; it still
    makes one weight version. Above 1, answers are old to all but the first: see `off_policy`."""
    epochs: int = Field(default=1, gt=0)
    """Passes over the batch, each of `optimiser_steps`; PPO as published makes four."""
    tokens_per_micro_batch: int = Field(default=8192, gt=0)
    """Most tokens that one forward pass holds; micro-batches are packed, not padded."""


class Staleness(StrictModel):
    """How old a trained answer may be, in weight versions. A bare number n is `{max: n}`."""

    max: int = Field(default=1, ge=0)
    """Hard bound: no token trained on is older. 0 is synchronous."""
    ahead: int | None = Field(default=None, ge=0)
    """Steps of work kept in flight so that engines stay full; at most `max`."""
    sync_every: int = Field(default=1, gt=0)
    """Steps between two publications of weights. After each, engines compute all that is running
    anew: with many long answers under way, seldom is faster. At most `ahead` + 1."""
    policy: Literal["wait"] = "wait"
    """What happens to slow prompts: they are waited for, never discarded."""

    @model_validator(mode="after")
    def _bounded(self) -> Staleness:
        if self.ahead is not None and self.ahead > self.max:
            raise Contradiction(
                f"`ahead` is {self.ahead}, more than `max`, which is {self.max}",
                f"max: {self.ahead}, or ahead: {self.max}",
            )
        ahead = self.max if self.ahead is None else self.ahead
        if self.sync_every > ahead + 1:
            raise Contradiction(
                f"`sync_every` is {self.sync_every}, but work for {ahead} steps ahead is all that "
                "engines are given between two syncs: the trainer would wait for ever",
                f"sync_every: {ahead + 1} or less, or ahead: {self.sync_every - 1}",
            )
        return self


class OffPolicy(StrictModel):
    """What the loss compares tokens with that older weights sampled: the decoupled objective."""

    proximal: Literal["behaviour", "recompute", "interpolate"] = "behaviour"
    """Centre of the trust region. behaviour: the policy that sampled each token, as in plain PPO.
    recompute: the weights right before the step; clipping then measures the step, not the answer's
    age, and each token is weighed by proximal/behaviour probability. interpolate: the same, guessed
    from each token's age without another forward pass."""
    weights: Literal["cap", "mask", "clamp"] = "cap"
    """Of weights out of bounds. cap: above `high` a token counts 0. mask: outside [low, high] it
    counts 0 (masked importance sampling). clamp: the weight is held to [low, high] (truncated
    importance sampling, with `low` 0). Denominators stay as they are."""
    high: float = Field(default=5.0, gt=0)
    """Upper bound of a weight."""
    low: float = Field(default=0.0, ge=0)
    """Lower bound of a weight, for mask and clamp."""
    level: Literal["token", "sequence"] = "token"
    """Each token's own weight, or the geometric mean over its answer on all of its tokens."""


class RewardSpec(ScoredReward):
    """The reward: a file in rewards/, your own, or several combined."""

    scale: float = Field(default=1.0, gt=0)
    """What scores are multiplied with before the algorithm sees them (Tülu 3 pays 10 for a right
    answer). Matters where something else is added to them, such as the KL; reports show the
    score itself."""


class Heldout(StrictModel):
    """Questions kept out of training and asked of the running engines, without stopping them."""

    prompts: int = Field(gt=0)
    """So many of the stage's prompts are never trained on."""
    every: int = Field(default=10, gt=0)
    """Weight versions between two rounds."""


class OnlineRlStage(RestrainedStage):
    """Reinforcement learning on the model's own answers."""

    kind: Literal["online_rl"]
    """`online_rl`."""
    model: str
    """The stage whose model is trained; also the reference."""
    algorithm: Plugin
    """The online algorithm: `grpo`, or `{name: grpo, lr: 1e-6}`."""
    lora: Lora | None = None
    """Train LoRA adapters (`{rank: 16}`) in place of all weights; engines are sent them alone."""
    reference: Literal["keep", "offload"] = "keep"
    """Where the model that the stage starts from stays. keep: beside the policy. offload: on the
    host of a GPU, moved in when asked; without GPUs mapped from disk as it is stored. With `lora`
    it is the policy with its adapters off, and takes no memory."""
    reward: RewardSpec
    """A verifier from rewards/ or your own file, an ensemble of reward models (`{ensemble: rm,
    combine: uwo}`), or several combined."""
    watch: ScoredReward | None = None
    """A second reward, scored and plotted but never trained on: it shows what the first one does
    not see, such as reward models beside a verifier."""
    stop_at_members_std: float | None = Field(default=None, gt=0)
    """With an ensemble as reward: training ends early, with the model as it is then, once its
    members differ by more than this on average for three steps running. 1 is how far the scores of
    ordinary answers differ from one another."""
    stop_at_kl: float | None = Field(default=None, gt=0, exclude_if=lambda value: value is None)
    """Training ends early, with the model as it is then, once `policy/kl_reference_nats`, the KL of
    an answer to the stage's starting model, is above so many nats for three steps running."""
    data: Data
    """Rows with `prompt` and whatever the reward reads."""
    batch: RlBatch = RlBatch()
    """Prompts and samples per step."""
    steps: int = Field(gt=0)
    """Weight versions to make; one optimiser batch each."""
    staleness: Annotated[
        Staleness,
        BeforeValidator(lambda v: {"max": v} if isinstance(v, int) else v),
    ] = Staleness()
    """A rollout may be so many weight versions old."""
    off_policy: OffPolicy = OffPolicy()
    """How the loss treats tokens that older weights sampled."""
    filter_no_signal: bool = False
    """Leave out groups whose answers all score the same, and generate others in their place."""
    max_refill_batches: int = Field(default=4, gt=0)
    """With `filter_no_signal`: most groups left out per step, in batches; more are trained on."""
    heldout: Heldout | None = None
    """`{prompts: 64, every: 10}`: `reward/heldout_mean` while training goes on."""
    sampling: AnswerSampling = AnswerSampling()
    """Temperature and token limit."""
    checkpoint_every: int = Field(default=20, gt=0)
    """Steps between two checkpoints; a crash costs at most so many steps of training."""
    logprob_check_every: int = Field(default=10, gt=0)
    """Syncs between two checks that engine and trainer give the same log-probs."""


class EvaluateStage(StageBase):
    """Asks several models the same questions and says which to take."""

    produces: ClassVar[str] = "measurements"
    kind: Literal["evaluate"]
    """`evaluate`."""
    models: list[str] = Field(min_length=1)
    """Stages whose models are asked."""
    suite: Annotated[SuiteUse, short_form("use")]
    """The suite to ask, with changes."""
    recommend: Recommend | None = None
    """The rule for the model to take; it becomes runs/NAME/best."""


Stage = Annotated[
    ModelStage
    | SftStage
    | RewardModelStage
    | PreferenceStage
    | GenerateStage
    | BestOfNStage
    | OverOptimisationStage
    | OnlineRlStage
    | AverageStage
    | EvaluateStage,
    Field(discriminator="kind"),
]


class EngineSettings(StrictModel):
    """How a vLLM engine is started. Where, not what: outside every identity."""

    kv_cache_mb: int = Field(default=128, gt=0)
    """Memory for the key-value cache of one engine."""
    eager: bool = True
    """Skip torch.compile: its start-up costs more than it wins on small models."""
    block_size: int = Field(default=32, gt=0)
    """Tokens per cache block; prompts shorter than a block are never cached."""
    max_running: int = Field(default=256, gt=0)
    """Sequences decoded together."""


class Cluster(StrictModel):
    """Where a pipeline runs. Only `precision` changes numbers."""

    engines: int = Field(default=1, gt=0)
    """Rollout engines per stage."""
    trainers: int = Field(default=1, gt=0)
    """Trainer processes per stage."""
    cpus: int | None = Field(default=None, gt=0)
    """Cores the local Ray may use; all of them where not given."""
    gpus_per_engine: int = Field(default=0, ge=0)
    """GPUs of one engine; 0 runs it on the CPU."""
    gpus_per_trainer: int = Field(default=0, ge=0)
    """GPUs of one trainer; 0 runs it on the CPU."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of weights in engines and trainers."""
    weight_sync: Literal["shm", "nccl"] = "shm"
    """How weights reach the engines. shm: a shared-memory file, on one host. nccl: GPU to GPU, over
    hosts too; needs a GPU per trainer and engine."""
    engine: EngineSettings = EngineSettings()
    """vLLM settings."""

    def engines_for(self, stage: StageBase) -> int:
        """The stage's own number, or the cluster's."""
        return stage.resources.engines or self.engines

    def trainers_for(self, stage: StageBase) -> int:
        """The stage's own number, or the cluster's."""
        return stage.resources.trainers or self.trainers


class WandbSettings(StrictModel):
    """Weights & Biases. Without a key it runs offline."""

    project: str = "posttrain"
    """Project that runs are logged to."""
    entity: str | None = None
    """Team or user; the key's default where not given."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online with a key, offline without."""


class Pipeline(StrictModel):
    """A whole pipeline file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the run folder under runs/."""
    description: str = ""
    """One sentence on what comes out."""
    seed: int = Field(default=0, ge=0)
    """From it and the stage's name comes each stage's own seed."""
    cluster: str | Cluster = "laptop"
    """A preset in configs/cluster/, or its keys. Where, not what."""
    suites: dict[str, Suite] = Field(default_factory=dict)
    """Named lists of questions."""
    wandb: WandbSettings = WandbSettings()
    """Tracking settings."""
    stages: dict[str, Stage] = Field(min_length=1)
    """The graph: stages by name; they refer to one another by name."""
