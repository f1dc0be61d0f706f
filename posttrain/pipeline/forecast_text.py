"""A forecast in words and one table, as `posttrain plan` prints it."""

from __future__ import annotations

import math
import re
import textwrap
import time

from posttrain.loop.simulation import SimulationResult
from posttrain.pipeline.arithmetic import count, number
from posttrain.pipeline.assumptions import Source, grouped
from posttrain.pipeline.forecast import TOLERANCE, Column, StageForecast
from posttrain.track.formatting import long_duration, percent, significant

LABEL_WIDTH = 9
_WITHIN_NUMBER = re.compile(r"(?<=\d) (?=\d{3}\b|[%kMB](?!\w)|m?s\b)")  # no line ends there


def stage_lines(forecast: StageForecast, width: int) -> list[str]:
    """Everything that is said of one online_rl stage, wrapped to `width`."""
    lines = _wrapped(_arithmetic(forecast), width, "")
    for sentence in (_tokens(forecast), _under_way(forecast), _longest(forecast)):
        lines += _wrapped(sentence, width, "  ")
    lines += _table(forecast)
    lines += _wrapped(_simulated(forecast), width, "  ")
    for label, text in (("advice", _advice(forecast)), ("law", _law(forecast))):
        lines += labelled(label, text, width)
    label = "assumes"
    for text in _assumptions(forecast):
        lines += labelled(label, text, width)
        label = ""
    return lines


def labelled(label: str, text: str, width: int) -> list[str]:
    """`text` behind a label in the first column, wrapped beside it."""
    return _wrapped(text, width, label.ljust(LABEL_WIDTH), " " * LABEL_WIDTH)


def _wrapped(text: str, width: int, first: str, later: str = "  ") -> list[str]:
    lines = textwrap.wrap(
        _WITHIN_NUMBER.sub("\u00a0", text),
        width,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\u00a0", " ") for line in lines]


def _arithmetic(forecast: StageForecast) -> str:
    batch, steps = forecast.stage.batch, forecast.stage.steps
    rollouts = batch.prompts * batch.samples_per_prompt
    parts = ""
    if batch.optimiser_steps > 1:
        parts = (
            f" Each batch is trained in {batch.optimiser_steps} parts:"
            f" {batch.optimiser_steps} optimiser steps per version."
        )
    return (
        f"{forecast.name} on {count(forecast.system.num_engines, 'engine')} +"
        f" {count(forecast.system.num_trainers, 'trainer')}: {count(batch.prompts, 'prompt')} ×"
        f" {count(batch.samples_per_prompt, 'sample')} = {count(rollouts, 'rollout')} = 1 step ="
        f" 1 new weight version; {count(steps, 'step')} = {count(rollouts * steps, 'rollout')}."
        + parts
    )


def _tokens(forecast: StageForecast) -> str:
    system, batch = forecast.system, forecast.stage.batch
    per_rollout = system.lengths.mean_tokens + system.prompt_tokens
    tokens = system.tokens_per_step
    each = tokens / system.num_trainers
    micro = math.ceil(each / batch.tokens_per_micro_batch)
    return (
        f"About {significant(per_rollout)} tokens per rollout: {thousands(tokens)} tokens /"
        f" {count(system.num_trainers, 'trainer')} = {thousands(each)} each ="
        f" {count(micro, 'micro-batch') if micro == 1 else f'{number(micro)} micro-batches'}"
        f" (limit {number(batch.tokens_per_micro_batch)})."
    )


def _under_way(forecast: StageForecast) -> str:
    rollouts, present = forecast.system.answers_per_step, forecast.present
    ahead = present.schedule.steps_ahead
    expected = present.result.groups_in_flight * forecast.parts * forecast.system.answers_per_prompt
    return (
        f"At most ({ahead} + 1) × {number(rollouts)} = {count((ahead + 1) * rollouts, 'rollout')}"
        f" are under way or waiting; about {number(round(expected))} are expected to be."
    )


def _longest(forecast: StageForecast) -> str:
    system, result = forecast.system, forecast.present.result
    longest = system.lengths.longest_tokens
    rate = 1 / system.engine.step_s(max(1, round(result.engine_depth)))
    seconds = longest / rate
    steps = seconds / result.seconds_per_step
    return (
        f"The longest answer ({number(longest)} tokens at {significant(rate)} tokens/s) takes"
        f" {significant(seconds)} s = {significant(steps)} steps: that is what staleness must hide."
    )


def thousands(tokens: float) -> str:
    """`5.7 k`, `179 k`, `42 M`; below 1 000 as it is."""
    if tokens >= 1e6:
        return f"{significant(tokens / 1e6)} M"
    return f"{significant(tokens / 1000)} k" if tokens >= 1000 else f"{round(tokens)}"


def _table(forecast: StageForecast) -> list[str]:
    rows = {
        "staleness": [_head(column) for column in forecast.columns],
        "ahead": [str(column.schedule.steps_ahead) for column in forecast.columns],
        "s per step": [seconds(column.result.seconds_per_step) for column in forecast.columns],
        "trainers busy": [percent(column.result.trainer_busy_share) for column in forecast.columns],
        "engines busy": [percent(column.result.engine_busy_share) for column in forecast.columns],
        "running each": [significant(column.result.engine_depth) for column in forecast.columns],
        "mean age": [f"{column.result.age_mean:.1f}" for column in forecast.columns],
        "oldest": [str(column.result.age_max) for column in forecast.columns],
    }
    return [
        "  " + label.ljust(14) + "".join(f"{cell:>9}" for cell in cells).rstrip()
        for label, cells in rows.items()
    ]


def _head(column: Column) -> str:
    number = str(column.schedule.max_staleness)
    return f"[{number}]" if column.is_present else number


def seconds(value: float) -> str:
    """Three meaningful digits: `0.606`, `10.6`, `143`."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _simulated(forecast: StageForecast) -> str:
    system = forecast.system
    part = ""
    if forecast.parts > 1:
        part = f" Simulated is 1/{forecast.parts} of the engines, with their share of each batch."
    return (
        f"The run's own coordination on a virtual clock, {forecast.num_steps} steps of each"
        f" setting. [{forecast.present.schedule.max_staleness}] is what the file says;"
        f" 0 is synchronous. An engine has room for {number(system.engine.max_running)}." + part
    )


def _advice(forecast: StageForecast) -> str:
    advice, now = forecast.advice, forecast.present.result
    sentences = []
    if advice.changes_schedule:
        schedule = advice.schedule
        setting = f"staleness: {{ahead: {schedule.steps_ahead}, max: {schedule.max_staleness}}}"
        sentences.append(f"{setting}: {_compared(advice.result, now)}.")
    if advice.changes_processes:
        split = advice.processes
        setting = f"resources: {{engines: {split.engines}, trainers: {split.trainers}}}"
        sentences.append(f"{setting}: {_compared(advice.split_result, advice.result)}.")
    if advice.split_result.age_mean > now.age_mean + 0.25:
        sentences.append("Older answers teach less: how much, a clock cannot tell.")
    if not sentences:
        sentences.append("keep it: nothing is faster, or as fast with younger answers.")
    if not advice.changes_processes:
        sentences.append(
            "No other split of the same devices is faster."
            if advice.other_splits
            else "The devices allow no other split."
        )
    if _saved(forecast) >= 1:
        sentences.append(f"In all {long_duration(_saved(forecast))} less.")
    return " ".join(sentences)


def _saved(forecast: StageForecast) -> float:
    now, then = forecast.present.result, forecast.advice.split_result
    return (now.seconds_per_step - then.seconds_per_step) * forecast.stage.steps


def _compared(then: SimulationResult, now: SimulationResult) -> str:
    """`0.49 s per step in place of 0.606, mean age 1.0 in place of 2.0`"""
    speed = f"{seconds(then.seconds_per_step)} s per step"
    if abs(then.seconds_per_step / now.seconds_per_step - 1) > TOLERANCE:
        speed += f" in place of {seconds(now.seconds_per_step)}"
    else:
        speed += ", as before"
    age = f"mean age {then.age_mean:.1f}"
    if f"{then.age_mean:.1f}" != f"{now.age_mean:.1f}":
        age += f" in place of {now.age_mean:.1f}"
    return f"{speed}; {age}"


def _law(forecast: StageForecast) -> str:
    law = forecast.law
    return (
        f"asynchronous is at most f / x times as fast as all devices generating, then all training"
        f" ({seconds(law.synchronous_s)} s per step). Trainers are f = {percent(law.trainer_share)}"
        f" of the devices, training is x = {percent(law.training_share)} of that step: at most"
        f" {significant(law.bound, 3)} times; here {significant(law.reached, 3)}."
    )


def _assumptions(forecast: StageForecast) -> list[str]:
    """One paragraph for what an earlier run measured, one for what nobody did."""
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(forecast.measured_at))
    heads: dict[Source, str] = {
        "measured": f"measured in {forecast.measured_in}, {forecast.measured_steps} steps, {at}",
        "preset": "preset, not measured",
    }
    tails: dict[Source, str] = {"measured": "", "preset": ""}
    if not forecast.measured_in:
        tails["preset"] = " To measure: posttrain plan FILE --measure."
    known = grouped(forecast.assumptions)
    return [
        f"{head}: {'; '.join(known[key])}.{tails[key]}"
        for key, head in heads.items()
        if key in known
    ]
