"""GSPO: group sequence policy optimisation (Zheng et al. 2025, arXiv 2507.18071).

    A_i = (r_i - mean(r)) / (std(r) + 1e-6)         over the K samples of one prompt
    s_i = (π(y_i) / π_old(y_i))^(1/|y_i|)           geometric mean of the token ratios
    L_t = max(-A·s_i, -A·clip(s_i, 1 - 3e-4, 1 + 4e-4))
    L   = mean over answers of the mean over their tokens

The reward is of the whole answer, so the ratio is too: all tokens of an answer are clipped
together. Single tokens whose ratio is noise (experts switched in a mixture, other kernels in the
engine) no longer matter. s changes far less than a token's ratio, hence the narrow clip.

Assumes K >= 2. Degenerate cases: equal rewards give A = 0; an answer without a token has s = 1 and
no loss. On answers that are some versions old the narrow clip leaves out most of a batch: watch
`policy/clip_low_share` and `policy/clip_high_share`, or set `off_policy.proximal: recompute`.

The paper's run: four steps per batch, no KL.
"""

from __future__ import annotations

from pydantic import Field

from posttrain import ops
from posttrain.algorithms._rewards import rewards_less_kl
from posttrain.algorithms._terms import clipped_terms
from posttrain.config.policy_gradient import Aggregation, ClippedConfig
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

NEEDS = Needs(groups=True)


class Config(ClippedConfig):
    """Settings of GSPO."""

    clip_low: float = Field(default=3e-4, gt=0, lt=1)
    """A bad answer's gradient stops once its tokens are, in geometric mean, this share less likely
    than when sampled."""
    clip_high: float = Field(default=4e-4, gt=0)
    """A good answer's gradient stops once its tokens are, in geometric mean, this share more likely
    than when sampled."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How token losses become one number; the paper weighs every answer the same."""


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] each answer's advantage on each of its tokens. Raises ValueError for groups of one."""
    advantages_GK = ops.baselines.group_advantages(rewards_less_kl(inputs), "std")
    return Advantages(ops.baselines.over_tokens(advantages_GK, inputs.lengths_B).detach())


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The clipped surrogate of the sequences' ratio, and the KL term where β is above 0."""
    ratio_T = ops.surrogates.sequence_ratio(
        inputs.logprobs_T.float(),
        inputs.old_logprobs_T.float(),
        inputs.mask_T,
        inputs.sequence_T,
        inputs.num_sequences,
    )
    return clipped_terms(inputs, config, ratio_T)
