"""`posttrain plan --measure`: a few steps of the online stages, whose figures `plan` then finds."""

from __future__ import annotations

import time

from posttrain.cli.execute import Execution, RunOptions
from posttrain.cli.output import say
from posttrain.config.measurement import STEPS, measure_name, measurement
from posttrain.config.pipeline import ModelStage
from posttrain.pipeline.plan import RunPlan
from posttrain.pipeline.store import RunFolder


def run_measurement(plan: RunPlan, folder: RunFolder, address: str | None) -> None:
    """Measure in the folder beside the run's. Raises as `Execution.carry_out`."""
    online = [stage.name for stage in plan.stages if stage.kind == "online_rl"]
    if not online:
        say("no online_rl stage, so there is nothing to measure")
        return
    done = done_models(plan, folder)
    small = measurement(plan.loaded, plan.graph.needs, done, seed=int(time.time()))
    name = measure_name(folder.path.name)
    say(f"measuring {', '.join(online)}: {STEPS} steps each, the first one left out")
    trained = [
        each
        for each, stage in small.pipeline.stages.items()
        if each not in online and not isinstance(stage, ModelStage)
    ]
    if trained:
        say(
            f"  {', '.join(trained)}: two steps, so speeds are those of the real model and lengths"
            " of answers are not; they are measured once these stages are done"
        )
    Execution(small, RunOptions(folder.path.parent, name, address, measures=True)).carry_out()


def done_models(plan: RunPlan, folder: RunFolder) -> dict[str, str]:
    """Model folders by stage, of those that are done and were trained."""
    return {
        stage.name: folder.stage(stage.name, stage.identity).artifact("model").path
        for stage in plan.stages
        if stage.kept and stage.stage.produces == "model" and stage.kind != "model"
    }
