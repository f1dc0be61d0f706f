"""The stage that averages weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from posttrain.config.field_sentences import sentences
from posttrain.config.plugin import Plugin
from posttrain.config.stage_base import StageBase
from posttrain.config.strict import Contradiction, StrictModel, short_form
from posttrain.config.suites import Recommend, SuiteUse

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class AnswerSamples(StrictModel):
    """Answers of the trained policy, for methods that find their coefficients on some."""

    stage: str | None = None
    """A `generate` stage that asked the model of `post`. Empty: the rollouts that `post` was
    trained on, where it is an online_rl stage."""
    take: int = Field(default=5000, gt=0)
    """Answers looked at, the newest first."""
    keep_best: int = Field(default=2000, gt=0)
    """So many of them are used, those of the highest score."""


class AverageStage(StageBase):
    """Averages the weights before and after training, to win back what training cost; or those of
    several trainings.
    """

    kind: Literal["average"]
    """`average`."""
    method: Plugin = Plugin(name="linear")
    """A file in posttrain/averaging/. It takes `pre` and `post`, or `models`."""
    pre: str | None = None
    """The stage before training (usually `sft`); with `models` the one they all started from."""
    post: str | None = None
    """The stage after it."""
    weight_pre: Share | list[Share] = 0.2
    """The share of `pre`: 0 is `post` itself. A list makes a model of each, asks them all the
    questions of `suite`, and keeps the one that `recommend` says."""
    suite: Annotated[SuiteUse, short_form("use")] | None = None
    """With a list of shares, or `greedy`: what the models are asked; the pipeline's first suite
    where not given."""
    recommend: Recommend = Recommend()
    """With a list of shares: which model to keep, by gain and tax."""
    models: list[str] | None = Field(default=None, min_length=1)
    """In place of `post`: the stages whose models become one. The result has the configuration and
    the tokenizer of the first."""
    weights: list[float] | None = None
    """One for each of `models`; without them all count alike."""
    greedy: bool = False
    """With `method: soup`: ask every one of `models` the questions of `suite`, and add them to the
    mean one by one, the best first; one that lowers the gain stays out."""
    samples: Annotated[AnswerSamples, short_form("stage")] = AnswerSamples()
    """Answers on which `layerwise` and `adamerging` find their coefficients; the others look at
    none."""

    @model_validator(mode="after")
    def _one_form(self) -> AverageStage:
        missing = next((key for key in ("pre", "post") if getattr(self, key) is None), None)
        if self.models is None and missing is not None:
            sentence = sentences(type(self))[missing]
            raise Contradiction(f"`{missing}` is missing", sentence, "missing-key")
        if self.models is not None and self.post is not None:
            raise Contradiction("`post` beside `models`", "one of the two, as the method takes it")
        if isinstance(self.weight_pre, list) and self.weight_pre != sorted(set(self.weight_pre)):
            raise Contradiction(
                "`weight_pre` names shares twice, or not in order",
                f"weight_pre: {sorted(set(self.weight_pre))}",
            )
        if self.weight_pre == []:
            raise Contradiction("`weight_pre` is an empty list", "weight_pre: [0.1, 0.2, 0.3]")
        if self.weights is not None and len(self.weights) != len(self.models or ()):
            raise Contradiction(
                f"{len(self.weights)} weights for {len(self.models or ())} models",
                "one weight for each of `models`",
            )
        if self.greedy and self.weights is not None:
            raise Contradiction(
                "`weights` beside `greedy`", "one of the two: a greedy soup counts all alike"
            )
        return self._different()

    def _different(self) -> AverageStage:
        """A model beside itself has nothing to say: a slip of the pen."""
        given = [*self.merged, *([self.pre] if self.pre is not None else [])]
        twice = next((name for name in given if given.count(name) > 1), None)
        if twice is not None:
            raise Contradiction(f"names `{twice}` twice", "different stages")
        return self

    @property
    def shares(self) -> list[float]:
        """Of `pre`, one for each model that is made."""
        return self.weight_pre if isinstance(self.weight_pre, list) else [self.weight_pre]

    @property
    def is_sweep(self) -> bool:
        return isinstance(self.weight_pre, list)

    @property
    def asks(self) -> bool:
        """Whether models are asked questions here, to choose among them."""
        return self.is_sweep or self.greedy

    @property
    def merged(self) -> list[str]:
        """The stages whose weights are merged, beside `pre`; the result is like the first's."""
        return self.models if self.models is not None else [str(self.post)]
