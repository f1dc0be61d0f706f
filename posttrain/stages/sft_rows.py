"""Rows of an `sft` stage as token ids, with what may not be trained on refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from posttrain.config.data import ResolvedData
from posttrain.errors import InputError, Problem
from posttrain.stages.context import context_length
from posttrain.stages.questions import refuse_too_long

if TYPE_CHECKING:
    from posttrain.model.chat import RenderedRow
    from posttrain.prompts.sources import DataRow


def render_rows(
    model_path: str,
    data: Mapping[str, Any],
    max_tokens: int | None,
    seed: int,
    report_to: str | None = None,
) -> list[RenderedRow]:
    """Every row, tokenised with the model's own tokenizer and template.

    Rows of `data.decontaminate` are left out, and the file `report_to` says which.
    Raises InputError for rows longer than `max_tokens` (or the context) unless `data.too_long` is
    `drop`, and where no row trains the end-of-turn token.
    """
    from posttrain.model.chat import render, require_stops
    from posttrain.model.load import load_tokenizer
    from posttrain.prompts.decontamination import TrainingRows

    spec = ResolvedData.model_validate(dict(data))
    source = TrainingRows(spec, seed=seed, needs=("prompt", "completion"))
    tokenizer = load_tokenizer(model_path)
    limit = max_tokens or context_length(model_path)
    rows: list[RenderedRow] = []
    too_long: list[tuple[DataRow, int]] = []
    for each in source:
        rendered = render(each.row, tokenizer)
        if len(rendered.token_ids) > limit:
            too_long.append((each, len(rendered.token_ids)))
        else:
            rows.append(rendered)
    source.write_report(report_to)
    refuse_too_long("row-too-long", too_long, f"{limit} fit")
    if not rows:
        raise InputError(Problem("empty-data", "no row is left to train on", file=spec.shown))
    require_stops(rows, tokenizer)
    return rows
