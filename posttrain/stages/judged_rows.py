"""Rows of a stage that learns from single answers, each good or bad, as token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.ports import ANSWER
from posttrain.prompts.comparisons import NO_ANSWER
from posttrain.prompts.judged import COLUMNS, LABEL, is_good
from posttrain.stages.context import context_length
from posttrain.stages.pair_rows import PairRows, RenderedPairs


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
    from posttrain.train.pairs import RenderedPair

    rows = PairRows(data, seed, COLUMNS, max_tokens or context_length(model_path))
    tokenizer = load_tokenizer(model_path)
    for each in rows.source:
        messages = each.row.get("messages")
        if messages and messages[-1]["role"] != "assistant":
            rows.leave_out(each, NO_ANSWER)
            continue
        context = render_prompt(each.row, tokenizer).token_ids
        whole = render(each.row, tokenizer).token_ids
        if rows.fits(each, len(whole)):
            answer = (context, whole[len(context) :])
            rows.keep(RenderedPair({ANSWER: answer}, good=is_good(each.row[LABEL])))
    return rows.finish(tokenizer, report_to, "no row is left to train on")
