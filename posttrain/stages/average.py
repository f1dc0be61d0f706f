"""The `average` stage: weights before and after training, mixed."""

from __future__ import annotations

from pathlib import Path

from posttrain.config.pipeline import AverageStage
from posttrain.errors import StageFailed
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import PluginRef


def run(stage: AverageStage, method: PluginRef, context: StageContext) -> str:
    """Write the averaged model; returns "done"."""
    pre, post = context.inputs[stage.pre].path, context.inputs[stage.post].path
    metrics = context.launcher.call(
        average_folders, pre, post, stage.weight_pre, method, str(context.directory / "model")
    )
    context.tracker.log(metrics, step=0)
    return "done"


def average_folders(
    pre: str, post: str, weight_pre: float, method: PluginRef, target: str
) -> dict[str, float]:
    """Average two model folders into a third. Runs in a process of its own.

    Returns `average/weight_pre` and `average/distance`: how far apart the two are, relative to the
    first (Frobenius norm over all weights, dimensionless).
    """
    from posttrain.config.plugins import load_plugin, plugin_config
    from posttrain.model.load import load_model, load_state, load_tokenizer, save_model

    module = load_plugin(method.kind, method.name, method.base_dir)
    config = plugin_config(module, method.settings)
    before, after = load_state(pre), load_state(post)
    mixed = module.average(before, after, weight_pre, config)
    model = load_model(post, precision=None)
    left_over = model.load_state_dict(mixed, strict=False).unexpected_keys
    if left_over:  # written to disk under other names than the module's: they would keep `post`
        raise StageFailed(
            f"{len(left_over)} tensors have no place in the model, first {left_over[0]}",
            place=post,
            help="this architecture stores its weights under other names; average it elsewhere",
        )
    save_model(model, load_tokenizer(post), Path(target))
    moved = sum(float((after[n].double() - before[n].double()).pow(2).sum()) for n in before)
    length = sum(float(before[n].double().pow(2).sum()) for n in before)
    return {"average/weight_pre": weight_pre, "average/distance": (moved / length) ** 0.5}
