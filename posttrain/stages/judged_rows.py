"""Rows of a stage that learns from single answers, each good or bad, as token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from posttrain.config.data import ResolvedData
from posttrain.errors import InputError, Problem
from posttrain.ports import ANSWER
from posttrain.prompts.comparisons import NO_ANSWER
from posttrain.prompts.judged import COLUMNS, LABEL, is_good
from posttrain.stages.context import context_length
from posttrain.stages.pair_rows import RenderedPairs, refused_rows, require_answers_stop
from posttrain.stages.questions import refuse_too_long

if TYPE_CHECKING:
    from posttrain.prompts.sources import DataRow
    from posttrain.train.pairs import RenderedPair


def render_judged(
    model_path: str,
    data: Mapping[str, Any],
    max_tokens: int | None,
    seed: int,
    *,
    report_to: str | None = None,
) -> RenderedPairs:
    """Every row, tokenised with the model's own tokenizer and template: one answer, and whether it
    is good. An empty answer is one too.

    A conversation that does not end with an answer is refused with its place, or left out and
    counted where `data.bad_rows` is `skip`. Raises InputError.
    """
    from posttrain.model.chat import render, render_prompt
    from posttrain.model.load import load_tokenizer
    from posttrain.prompts.decontamination import TrainingRows
    from posttrain.train.pairs import RenderedPair

    spec = ResolvedData.model_validate(dict(data))
    source = TrainingRows(spec, seed=seed, needs=COLUMNS)
    tokenizer = load_tokenizer(model_path)
    limit = max_tokens or context_length(model_path)
    rows: list[RenderedPair] = []
    too_long: list[tuple[DataRow, int]] = []
    faults: Counter[str] = Counter()
    refused: list[tuple[DataRow, str]] = []
    for each in source:
        messages = each.row.get("messages")
        if messages and messages[-1]["role"] != "assistant":
            faults[NO_ANSWER] += 1
            if each.data.bad_rows == "refuse":
                refused.append((each, NO_ANSWER))
            continue
        context = render_prompt(each.row, tokenizer).token_ids
        whole = render(each.row, tokenizer).token_ids
        if len(whole) > limit:
            too_long.append((each, len(whole)))
            continue
        answer = (context, whole[len(context) :])
        rows.append(RenderedPair({ANSWER: answer}, good=is_good(each.row[LABEL])))
    source.write_report(report_to)
    if refused:
        raise InputError(refused_rows(refused))
    refuse_too_long("row-too-long", too_long, f"{limit} fit")
    if not rows:
        raise InputError(Problem("empty-data", "no row is left to train on", file=spec.shown))
    require_answers_stop(rows, tokenizer)
    return RenderedPairs(rows, faults)
