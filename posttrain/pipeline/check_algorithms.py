"""Whether an online algorithm's settings go with its stage, and whether its critic is there."""

from __future__ import annotations

from pathlib import Path

from posttrain.algorithms import needs_of
from posttrain.config.critic import HEAD, CriticConfig, is_folder, names_a_stage
from posttrain.config.document import Places, show_path
from posttrain.config.offline import PreferenceStage
from posttrain.config.paths import neighbour
from posttrain.config.pipeline import ModelStage, OnlineRlStage, Pipeline
from posttrain.config.plugins import load_plugin
from posttrain.config.strict import StrictModel
from posttrain.errors import Problem
from posttrain.model.folders import num_labels
from posttrain.ports import Needs
from posttrain.stages.step_limits import placed

CURE = "a sequence-classification folder with one label, critic: policy, or critic: head"


def stage_needs(
    stage: OnlineRlStage | PreferenceStage, config: StrictModel, base_dir: str | Path
) -> Needs:
    """What a stage's algorithm asks for. `config` is the algorithm's."""
    return needs_of(load_plugin("algorithm", stage.algorithm.name, base_dir), config)


def check_algorithm(
    name: str, config: StrictModel, needs: Needs, pipeline: Pipeline, places: Places
) -> list[Problem]:
    """Problems of `algorithm` beside the other keys of an online stage."""
    stage = pipeline.stages[name]
    assert isinstance(stage, OnlineRlStage)
    prefix = f"stages.{name}"
    found = [_impossible_group(prefix, stage, needs), _ratio_to_another(prefix, stage, config)]
    if isinstance(config, CriticConfig):
        found += [
            _critic_without_rate(prefix, stage, config),
            _no_critic(f"{prefix}.algorithm.critic", config.critic, pipeline),
        ]
    return [placed(problem, places) for problem in found if problem is not None]


def _impossible_group(prefix: str, stage: OnlineRlStage, needs: Needs) -> Problem | None:
    samples = stage.batch.samples_per_prompt
    if samples >= 2 or not needs.groups:
        return None
    return Problem(
        "impossible-group",
        f"{samples}, but {stage.algorithm.name} compares the samples of one prompt",
        f"{prefix}.batch.samples_per_prompt",
        help="2 or more (8 is usual), or algorithm: remax, which needs one",
    )


def _ratio_to_another(prefix: str, stage: OnlineRlStage, config: StrictModel) -> Problem | None:
    if not getattr(config, "kl_times_ratio", False) or stage.off_policy.proximal == "behaviour":
        return None
    return Problem(
        "unused-setting",
        "the ratio would be taken to the proximal policy, not to the one that sampled",
        f"{prefix}.algorithm.kl_times_ratio",
        help="off_policy: {proximal: behaviour}; or leave `kl_times_ratio` out",
    )


def _critic_without_rate(prefix: str, stage: OnlineRlStage, config: CriticConfig) -> Problem | None:
    if stage.lora is None or config.critic == HEAD or config.critic_lr is not None:
        return None
    return Problem(
        "critic-without-rate",
        "with `lora` the policy learns by adapters, but the critic is trained whole, at the "
        "adapters' learning rate",
        f"{prefix}.algorithm.critic_lr",
        help="critic_lr: a tenth of lr or less; or critic: head, which is small",
    )


def _no_critic(key: str, critic: str, pipeline: Pipeline) -> Problem | None:
    """A folder that holds no critic, as far as its config.json says."""
    folder = _folder(critic, pipeline)
    if folder is None:
        return None
    if not (folder / "config.json").is_file():
        near = neighbour(str(folder)) if not folder.exists() else None
        help = f"did you mean `{show_path(near)}`?" if near else CURE
        fact = f"`{show_path(folder)}` is no model folder: it has no config.json"
        return Problem("no-critic", fact, key, help=help)
    try:
        labels = num_labels(folder)
    except ValueError:
        fact = f"`{show_path(folder / 'config.json')}` cannot be read"
        return Problem("no-critic", fact, key, help=CURE)
    if labels in (None, 1):
        return None
    fact = f"`{show_path(folder)}` has {labels} labels, a critic says one number"
    return Problem("no-critic", fact, key, help=CURE)


def _folder(critic: str, pipeline: Pipeline) -> Path | None:
    """The folder that is there before the run starts; None where there is none to look at."""
    if is_folder(critic):
        return Path(critic)
    stage = pipeline.stages.get(critic) if names_a_stage(critic) else None
    if isinstance(stage, ModelStage) and stage.path and Path(stage.path).is_dir():
        return Path(stage.path)
    return None
