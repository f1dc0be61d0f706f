"""Rows as prompts and texts as windows: what an engine is asked. Runs in a process of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain.config.data import DataSpec, ResolvedData
from posttrain.errors import InputError, Problem
from posttrain.prompts.decontamination import REPORT_FILE, tell_left_out
from posttrain.types import Prompt

if TYPE_CHECKING:
    from posttrain.prompts.sources import DataRow
    from posttrain.stages.context import StageContext


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of held-out text: `scored_ids` are judged, `context_ids` come before them."""

    context_ids: tuple[int, ...]
    scored_ids: tuple[int, ...]


def render_prompts(
    model_path: str,
    data: Mapping[str, Any],
    max_prompt_tokens: int,
    limit: int | None,
    seed: int,
    report_to: str | None = None,
) -> list[Prompt]:
    """Prompts of a data set, tokenised with a model's own tokenizer and template.

    Prompts of more than `max_prompt_tokens` are refused, or left out where `data.too_long` is
    `drop`; those of `data.decontaminate` are left out, and the file `report_to` says which. Raises
    InputError.
    """
    from posttrain.model.chat import render_prompt
    from posttrain.model.load import load_tokenizer
    from posttrain.prompts.decontamination import TrainingRows

    spec = ResolvedData.model_validate(dict(data))
    rows = TrainingRows(spec, seed=seed, needs=("prompt",))
    tokenizer = load_tokenizer(model_path)
    prompts: list[Prompt] = []
    too_long: list[tuple[DataRow, int]] = []
    times: Counter[str] = Counter()
    for each in rows:
        rendered = render_prompt(each.row, tokenizer)
        ids = tuple(rendered.token_ids)
        if len(ids) > max_prompt_tokens:
            too_long.append((each, len(ids)))
            continue
        name = f"{each.part}/{each.number}"
        times[name] += 1
        if times[name] > 1:  # a folder's files each have a line of that number
            name = f"{name}.{times[name]}"
        prompts.append(Prompt(name, each.source, ids, rendered.text, each.row))
        if limit is not None and len(prompts) == limit:
            break
    rows.write_report(report_to)
    refuse_too_long("prompt-too-long", too_long, f"{max_prompt_tokens} are left beside the answer")
    if not prompts:
        raise InputError(
            Problem(
                "empty-data", "no prompt is left to ask", path=spec.shown, help="shorter prompts"
            )
        )
    return prompts


def prompts_of_stage(
    model_path: str, data: DataSpec, room: int, context: StageContext, limit: int | None = None
) -> list[Prompt]:
    """The prompts of a stage's data, rendered in a process of their own; what was left out of them
    is written down and told. See `render_prompts`.
    """
    report = context.directory / REPORT_FILE
    prompts: list[Prompt] = context.launcher.call(
        render_prompts, model_path, data.model_dump(), room, limit, context.seed, str(report)
    )
    tell_left_out(report, context.tracker)
    return prompts


def render_windows(
    model_path: str, data: Mapping[str, Any], window_tokens: int, limit: int
) -> list[Window]:
    """Texts of a data set cut into windows of at most `window_tokens`, for perplexity."""
    from posttrain.model.load import load_tokenizer
    from posttrain.prompts.sources import read_source

    spec = DataSpec.model_validate(dict(data))
    tokenizer = load_tokenizer(model_path)
    windows: list[Window] = []
    for _, row in read_source(spec, seed=0, needs=("text",)):
        if not row["text"].strip():
            continue
        ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        windows.extend(cut(ids, window_tokens))
        if len(windows) >= limit:
            break
    if not windows:
        raise InputError(
            Problem("empty-data", "holds no text to measure perplexity on", path=spec.path)
        )
    return windows[:limit]


def cut(ids: Sequence[int], window_tokens: int) -> list[Window]:
    """Windows without overlap; the first token of each is context, the rest is scored.

    Example: cut([1, 2, 3, 4, 5], 3) -> (1 | 2 3), (4 | 5).
    """
    pieces = [ids[i : i + window_tokens] for i in range(0, len(ids), window_tokens)]
    return [Window((piece[0],), tuple(piece[1:])) for piece in pieces if len(piece) > 1]


def refuse_too_long(code: str, rows: Sequence[tuple[DataRow, int]], room: str) -> None:
    """Raise InputError where a row (with its number of tokens) may not just be left out."""
    refused = [(row, tokens) for row, tokens in rows if row.data.too_long == "refuse"]
    if not refused:
        return
    row, tokens = refused[0]
    raise InputError(
        Problem(
            code,
            f"{tokens} tokens, {room}",
            file=row.data.path,
            line=row.number,
            help=f"{len(refused)} rows are too long; `data.too_long: drop` leaves them out and "
            "counts them",
        )
    )
