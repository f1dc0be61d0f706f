"""Options that restrain a stage, where they would do nothing or cannot be meant."""

from __future__ import annotations

from posttrain.config.document import Places
from posttrain.config.offline import PreferenceStage, SftStage
from posttrain.config.restraints import RestrainedStage
from posttrain.errors import Problem
from posttrain.stages.step_limits import placed

HELD_OUT_AT_MOST = 5  # one row of so many


def check_restraints(
    name: str, stage: RestrainedStage, num_rows: int | None, places: Places
) -> list[Problem]:
    """Problems of `start_penalty`, `half_fine_tuning`, `ema` and `early_stopping`.

    `num_rows` of the stage's data; None where not all were seen.
    """
    prefix = f"stages.{name}"
    found = _with_adapters(prefix, stage)
    if isinstance(stage, SftStage | PreferenceStage) and stage.early_stopping is not None:
        found += _early_stopping(f"{prefix}.early_stopping", stage, num_rows)
    return [placed(problem, places) for problem in found]


def _with_adapters(prefix: str, stage: RestrainedStage) -> list[Problem]:
    if getattr(stage, "lora", None) is None:
        return []
    asked = [
        key
        for key, value in (
            ("start_penalty", stage.start_penalty),
            ("half_fine_tuning", stage.half_fine_tuning),
            ("ema", stage.ema),
        )
        if value
    ]
    return [
        Problem(
            "restraint-with-lora",
            f"`{key}` is for stages that train all weights, and this one has `lora`",
            f"{prefix}.{key}",
            help=f"leave `{key}` out, or `lora`",
        )
        for key in asked
    ]


def _early_stopping(
    key: str, stage: SftStage | PreferenceStage, num_rows: int | None
) -> list[Problem]:
    assert stage.early_stopping is not None
    if stage.holdout_rows == 0:
        message = "`early_stopping` looks at held-out rows, and `holdout_rows` is 0"
        return [Problem("nothing-held-out", message, key, help="holdout_rows: 64")]
    if num_rows is not None and num_rows < HELD_OUT_AT_MOST:
        message = f"`early_stopping` looks at held-out rows, and of {num_rows} rows none is"
        return [Problem("nothing-held-out", message, key, help=f"{HELD_OUT_AT_MOST} rows or more")]
    every = stage.early_stopping.every
    if every is not None and stage.steps is not None and every >= stage.steps:
        message = f"is {every}: nothing is measured before the last of {stage.steps} steps"
        help = f"every: {max(1, stage.steps // 5)}"
        return [Problem("unused-setting", message, f"{key}.every", help=help)]
    return []
