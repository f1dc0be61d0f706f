"""From all answers of a `generate` stage to the rows that its selection makes of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from posttrain.config.answers import GenerateStage
from posttrain.config.plugins import load_plugin, plugin_config
from posttrain.errors import InputError, Problem
from posttrain.selection import COMPLETION, PAIR, Candidate
from posttrain.stages.context import StageContext
from posttrain.stages.dataset import Answers, DatasetFolder
from posttrain.stages.jobs import PluginRef
from posttrain.types import Prompt


def select_rows(
    stage: GenerateStage,
    selection: PluginRef,
    folder: DatasetFolder,
    context: StageContext,
) -> None:
    """Write what the selection makes of the answers. Raises InputError where that is nothing."""
    module = load_plugin("selection", selection.name, selection.base_dir)
    config = plugin_config(module, selection.settings)
    counts: Counter[str] = Counter()
    rows = _rows(module, config, folder.answers(), counts)
    summary = {
        "schema": 1,
        "columns": list(module.COLUMNS),
        "samples_per_prompt": stage.samples_per_prompt,
    }
    count = folder.finish(rows, summary)
    context.tracker.log(
        {
            "generate/rows": float(count),
            "generate/prompts_with_rows_share": counts["with_rows"] / counts["prompts"],
        },
        step=counts["prompts"] * stage.samples_per_prompt,
    )
    if not count:
        raise InputError(
            Problem(
                "empty-data",
                f"`{selection.name}` selects nothing of the answers to {counts['prompts']} prompts",
                path=f"stages.{context.name}.select",
                help="the answers and their scores are in its dataset/samples; ask for less",
            )
        )


def _rows(
    module: Any, config: Any, answers: Iterator[Answers], counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    for each in answers:
        counts["prompts"] += 1
        candidates = _candidates(each, getattr(module, "NEEDS_SCORES", False))
        if not candidates:
            continue
        chosen = module.select(candidates, config)
        counts["with_rows"] += bool(chosen)
        for picked in chosen:
            yield _row(each.prompt, picked, tuple(module.COLUMNS))


def _candidates(answers: Answers, needs_scores: bool) -> list[Candidate]:
    """Where a selection compares: answers that have a score and say something. An empty one is
    neither an example nor one side of a comparison.
    """
    return [
        Candidate(rollout.text, score.value if score else math.nan, answers.of_policy(number))
        for number, (rollout, score) in enumerate(
            zip(answers.rollouts, answers.scores, strict=True)
        )
        if not needs_scores or (score is not None and rollout.text.strip())
    ]


def _row(prompt: Prompt, picked: Any, columns: tuple[str, ...]) -> dict[str, Any]:
    """What the row of the data said, with the answers in place of its own."""
    row = {key: value for key, value in prompt.row.items() if key not in (*PAIR, *COMPLETION)}
    row["source"] = prompt.source
    messages = row.pop("messages", None)
    if messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if columns == PAIR:
        chosen, rejected = picked
        row |= {"chosen": chosen.text, "rejected": rejected.text}
        row |= {"chosen_score": chosen.score, "rejected_score": rejected.score}
        return row | ({"prompt": messages} if messages else {})
    row |= {"completion": picked.text, "score": _finite(picked.score)}
    if messages:
        row["messages"] = [*messages, {"role": "assistant", "content": picked.text}]
    return row


def _finite(score: float) -> float | None:
    """JSON has no NaN."""
    return score if math.isfinite(score) else None
