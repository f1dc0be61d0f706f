import pytest
from pydantic import ValidationError

from posttrain.algorithms import grpo, ppo
from posttrain.config.document import Places
from posttrain.config.plugins import plugin_config
from posttrain.config.policy_gradient import PolicyGradientConfig
from posttrain.errors import InputError


def problem(module, settings):
    with pytest.raises(InputError) as caught:
        plugin_config(module, settings, path="stages.rlvr.algorithm", places=Places())
    [found] = caught.value.problems
    return found.render()


def test_kl_is_charged_once():
    assert problem(ppo, {"kl_in_loss": 0.05}) == (
        "error[charged-twice] stages.rlvr.algorithm: KL is in the reward (kl_in_reward: 0.05) and "
        "in the loss (kl_in_loss: 0.05)\n  help: keep one; PPO as published uses kl_in_reward"
    )
    assert ppo.Config(kl_in_reward=0, kl_in_loss=0.05).needs_reference


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"kl_target": 6},
            "`kl_target` would do nothing: only `kl_in_reward` is adapted\n"
            "  help: kl_in_reward: 0.05; or leave `kl_target` out",
        ),
        (
            {"kl_in_reward": 0.05, "kl_horizon": 500},
            "`kl_horizon` would do nothing: β is fixed without `kl_target`\n"
            "  help: kl_target: 6; or leave `kl_horizon` out",
        ),
        (
            {"kl_in_reward": 0.05, "kl_estimator": "k2"},
            "`kl_estimator` would do nothing: there is no KL in the loss\n"
            "  help: kl_in_loss: 0.001; or leave `kl_estimator` out",
        ),
        (
            {"kl_times_ratio": True},
            "`kl_times_ratio` would do nothing: there is no KL in the loss\n"
            "  help: kl_in_loss: 0.001; or leave `kl_times_ratio` out",
        ),
    ],
)
def test_settings_that_would_do_nothing(settings, expected):
    assert problem(grpo, settings) == f"error[unused-setting] stages.rlvr.algorithm: {expected}"


def test_k1_is_no_loss():
    assert problem(grpo, {"kl_in_loss": 0.1, "kl_estimator": "k1"}) == (
        "error[bad-value] stages.rlvr.algorithm.kl_estimator: is k1, whose gradient in a loss is 0 "
        "on average: nothing would be held back\n"
        "  help: k2, k3 or k3+; k1 is what kl_in_reward uses"
    )


def test_a_stored_configuration_is_read_again():
    """It gives every key, those at their defaults too."""
    for config in (grpo.Config(kl_in_loss=0.1), ppo.Config(kl_target=6.0)):
        assert type(config).model_validate(config.model_dump()) == config


def test_kl_that_is_not_used_needs_no_reference():
    assert not PolicyGradientConfig().needs_reference
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        PolicyGradientConfig(kl_in_loss=-1)
