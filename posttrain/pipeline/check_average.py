"""Whether an average stage gives its method the models and weights that this asks for."""

from __future__ import annotations

import math

from posttrain.config.average import AverageStage
from posttrain.config.document import Places
from posttrain.config.pipeline import OnlineRlStage, Pipeline
from posttrain.config.suggest import did_you_mean
from posttrain.config.tasks import asked_suite
from posttrain.errors import Problem
from posttrain.ports import AveragingNeeds
from posttrain.stages.step_limits import placed


def check_average(
    name: str, stage: AverageStage, needs: AveragingNeeds, pipeline: Pipeline, places: Places
) -> list[Problem]:
    """Problems of an average stage beside its method's own settings."""
    prefix, method = f"stages.{name}", stage.method.name
    if needs.pair != (stage.models is None):
        return [placed(_other_form(prefix, method, needs), places)]
    if not needs.pair:
        found = [*_models(prefix, stage, needs), *_weights(prefix, stage, needs)]
    elif stage.greedy:
        message = f"`{method}` mixes `pre` and `post`: there are no models to choose from"
        help = "method: soup, models: [A, B, ...]"
        found = [Problem("bad-value", message, f"{prefix}.greedy", help=help)]
    else:
        found = []
    found += _questions(prefix, stage, pipeline)
    if needs.answers and stage.samples.stage is None:
        last = pipeline.stages.get(stage.merged[0])
        if last is not None and not isinstance(last, OnlineRlStage):
            found.append(_no_answers(prefix, method, stage.merged[0]))
    if not needs.answers and "samples" in stage.model_fields_set:
        message = f"`{method}` looks at no answers"
        help = "leave it out, or method: layerwise"
        found.append(Problem("unused-setting", message, f"{prefix}.samples", help=help))
    return [placed(problem, places) for problem in found]


def _questions(prefix: str, stage: AverageStage, pipeline: Pipeline) -> list[Problem]:
    """Of several models some are kept: by what they can do."""
    given = sorted(stage.model_fields_set & {"suite", "recommend"})
    if not stage.asks:
        if stage.models is None:
            message = "of one share there is nothing to choose"
            help = "weight_pre: [0.1, 0.2, 0.3], or leave it out"
        else:
            message = "all of `models` are merged, there is nothing to choose"
            help = "greedy: true (with method: soup), or leave it out"
        return [Problem("unused-setting", message, f"{prefix}.{key}", help=help) for key in given]
    if stage.greedy and "recommend" in given:
        message = "a greedy soup has a rule of its own: what lowers the gain stays out"
        return [Problem("unused-setting", message, f"{prefix}.recommend", help="leave it out")]
    use = asked_suite(stage, pipeline.suites)
    if use is None:
        key = "greedy" if stage.greedy else "weight_pre"
        what = "adds models while that helps" if stage.greedy else "names several shares"
        message = f"{what}, and no suite says which model to keep"
        help = "suites: {abilities: {gain: [...], keep: [...], tax_since: STAGE}}"
        return [Problem("missing-key", message, f"{prefix}.{key}", help=help)]
    suite = pipeline.suites.get(use.use)
    if suite is None:
        help = did_you_mean(use.use, pipeline.suites, "suites here:")
        return [Problem("unknown-suite", f"no suite `{use.use}`", f"{prefix}.suite.use", help=help)]
    if not suite.gain or (suite.tax_since is None and stage.is_sweep):
        missing = "tax_since" if suite.gain else "gain"
        message = f"`{use.use}` has no `{missing}`, so the models cannot be compared"
        return [Problem("missing-key", message, f"suites.{use.use}", help=f"{missing}: ...")]
    if all(task in suite.tasks and suite.tasks[task].reward is None for task in suite.gain):
        message = f"every gain task of `{use.use}` is a perplexity, which is no gain"
        help = "a task with a reward among `gain`"
        return [Problem("bad-value", message, f"suites.{use.use}.gain", help=help)]
    return []


def _no_answers(prefix: str, method: str, model: str) -> Problem:
    message = f"`{method}` finds its coefficients on answers of `{model}`, and there are none"
    help = f"samples: a stage like {{kind: generate, model: {model}, data: ..., scored_by: ...}}"
    return Problem("no-answers", message, f"{prefix}.method", help=help)


def _other_form(prefix: str, method: str, needs: AveragingNeeds) -> Problem:
    if needs.pair:
        message = f"`{method}` mixes two models: `pre` and `post`"
        return Problem("bad-value", message, f"{prefix}.models", help="pre: A, post: B")
    message = f"`{method}` merges the models of a list"
    base = "pre: BASE, " if needs.base else ""
    return Problem("bad-value", message, f"{prefix}.post", help=f"{base}models: [A, B]")


def _models(prefix: str, stage: AverageStage, needs: AveragingNeeds) -> list[Problem]:
    count, method, found = len(stage.merged), stage.method.name, []
    if count < needs.min_models or count > (needs.max_models or count):
        only = needs.min_models == needs.max_models
        wanted = f"{needs.min_models}" if only else f"{needs.min_models} or more"
        message = f"names {count}, `{method}` takes {wanted}"
        found.append(Problem("bad-value", message, f"{prefix}.models"))
    if needs.base and stage.pre is None:
        help = "the stage that all `models` were trained from"
        found.append(Problem("missing-key", "`pre` is missing", prefix, help=help))
    if not needs.base and stage.pre is not None:
        message = f"`{method}` does not look at `pre`"
        help = "name it among `models`, or leave it out"
        found.append(Problem("unused-setting", message, f"{prefix}.pre", help=help))
    if "weight_pre" in stage.model_fields_set:
        message = f"`{method}` does not look at `weight_pre`"
        help = "leave it out" if needs.weights == "none" else "weights: one for each of `models`"
        found.append(Problem("unused-setting", message, f"{prefix}.weight_pre", help=help))
    if stage.greedy and needs.weights != "shares":
        message = f"`{method}` is no mean of its models, so none can be added to it"
        found.append(Problem("bad-value", message, f"{prefix}.greedy", help="method: soup"))
    return found


def _weights(prefix: str, stage: AverageStage, needs: AveragingNeeds) -> list[Problem]:
    if stage.weights is None:
        return []
    key, method, total = f"{prefix}.weights", stage.method.name, sum(stage.weights)
    if needs.weights == "none":
        message = f"`{method}` does not look at `weights`"
        return [Problem("unused-setting", message, key, help="leave it out")]
    if needs.weights != "any" and min(stage.weights) < 0:
        message = f"`{method}` needs weights of 0 or more"
        return [Problem("bad-value", message, key, help="or method: task_arithmetic")]
    if not any(stage.weights):
        return [Problem("bad-value", "all are 0: no model counts", key, help="weights above 0")]
    if needs.weights == "shares" and not math.isclose(total, 1.0, abs_tol=1e-6):
        shares = [round(weight / total, 4) for weight in stage.weights] if total else []
        help = f"weights: {shares}" if total else "weights that sum to 1"
        return [Problem("bad-value", f"sum to {total:g}, have to sum to 1", key, help=help)]
    return []
