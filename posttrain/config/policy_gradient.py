"""What policy-gradient algorithms let their user set: KL, clipping, and how tokens are added up."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.config.optimiser import OptimiserConfig
from posttrain.config.strict import Contradiction

Aggregation = Literal[
    "token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"
]
"""As `posttrain.ops.masked` computes them."""


class PolicyGradientConfig(OptimiserConfig):
    """KL to the model that the stage starts from, and how token losses become one number."""

    kl_in_reward: float = Field(default=0.0, ge=0.0)
    """β of the KL to the stage's starting model, taken off the reward token by token (k1)."""
    kl_in_loss: float = Field(default=0.0, ge=0.0)
    """β of the KL to the stage's starting model as a term of the loss; 0 leaves it out."""
    kl_estimator: Literal["k2", "k3", "k3+"] = "k3"
    """How the loss measures the KL. k2: squared log-ratio, right in gradient. k3: unbiased in
    value, as in GRPO. k3+: the value of k3 with the gradient of k2."""
    kl_times_ratio: bool = False
    """Weigh each token's KL term in the loss with its ratio to the policy that sampled it, which
    keeps the estimate unbiased on old answers."""
    kl_target: float | None = Field(default=None, gt=0.0)
    """Nats per answer that an adaptive controller holds the KL to by moving `kl_in_reward`; empty
    keeps that fixed."""
    kl_horizon: int = Field(default=10_000, gt=0)
    """Answers in which the controller moves β by at most 20 %."""
    aggregation: Aggregation = "token-mean"
    """How token losses become one number: every token weighs the same (token-mean), every answer
    does (seq-mean-token-mean), the plain sum per answer (seq-mean-token-sum), or that divided by
    `max_new_tokens` (seq-mean-token-sum-norm)."""

    @field_validator("kl_estimator", mode="before")
    @classmethod
    def _has_a_gradient(cls, value: Any) -> Any:
        if value == "k1":
            raise Contradiction(
                "is k1, whose gradient in a loss is 0 on average: nothing would be held back",
                "k2, k3 or k3+; k1 is what kl_in_reward uses",
            )
        return value

    @model_validator(mode="after")
    def _charges_kl_once(self) -> PolicyGradientConfig:
        if self.kl_in_reward > 0 and self.kl_in_loss > 0:
            raise Contradiction(
                f"KL is in the reward (kl_in_reward: {self.kl_in_reward:g}) and in the loss "
                f"(kl_in_loss: {self.kl_in_loss:g})",
                "keep one; PPO as published uses kl_in_reward",
                code="charged-twice",
            )
        return self

    @model_validator(mode="after")
    def _uses_its_kl_settings(self) -> PolicyGradientConfig:
        # Compared with the defaults, not with what was given: a stored configuration gives all.
        if self.kl_target is not None and self.kl_in_reward == 0:
            raise unused("kl_target", "only `kl_in_reward` is adapted", "kl_in_reward: 0.05")
        if self.kl_target is None and self._changed("kl_horizon"):
            raise unused("kl_horizon", "β is fixed without `kl_target`", "kl_target: 6")
        for key in ("kl_estimator", "kl_times_ratio"):
            if self.kl_in_loss == 0 and self._changed(key):
                raise unused(key, "there is no KL in the loss", "kl_in_loss: 0.001")
        return self

    @property
    def needs_reference(self) -> bool:
        """Whether log-probs of the starting model are used."""
        return self.kl_in_reward > 0 or self.kl_in_loss > 0

    def _changed(self, key: str) -> bool:
        return bool(getattr(self, key) != type(self).model_fields[key].default)


class ClippedConfig(PolicyGradientConfig):
    """A policy gradient that stops where the policy has moved far enough."""

    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """A bad token's gradient stops once it is this share less likely than when sampled."""
    clip_high: float = Field(default=0.2, gt=0)
    """A good token's gradient stops once it is this share more likely than when sampled."""
    dual_clip: float | None = Field(default=None, gt=1)
    """A bad token's gradient also stops once it is so many times likelier (3 is usual); empty: it
    never does."""


def unused(key: str, why: str, cure: str) -> Contradiction:
    """A setting that would silently do nothing beside the others."""
    return Contradiction(
        f"`{key}` would do nothing: {why}", f"{cure}; or leave `{key}` out", code="unused-setting"
    )
