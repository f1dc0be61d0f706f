"""The figures a forecast stands on, each with where it came from: measured, or a preset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from posttrain.config.critic import HEAD
from posttrain.config.load import LoadedPipeline
from posttrain.config.pipeline import OnlineRlStage
from posttrain.config.strict import StrictModel
from posttrain.loop.latency import AnswerLengths, EngineSpeed, Schedule, System, TrainerSpeed
from posttrain.pipeline.calibration import calibrated, lengths_with_mean
from posttrain.pipeline.check_algorithms import stage_needs
from posttrain.pipeline.device_speeds import engine_speed, model_parameters, trainer_speed
from posttrain.pipeline.measured import Measured, known_figures
from posttrain.ports import Needs
from posttrain.track.formatting import percent, significant

Source = Literal["measured", "preset"]

SIGMA = 0.91  # heavy tails as reasoning models have them
SHORT_TOKENS = 16  # answers up to here are not guessed shorter than half the limit
SCORE_S = 0.01
NO_SIGNAL_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Assumption:
    """One figure in words, and whether an earlier run measured it."""

    text: str
    source: Source


@dataclass(frozen=True, slots=True)
class Processes:
    """How many engines and trainers a stage is planned for."""

    engines: int
    trainers: int


@dataclass(slots=True)
class _Book:
    """Collects assumptions while figures are chosen."""

    entries: list[Assumption] = field(default_factory=list)

    def take(self, measured: float | None, preset: float, words: Callable[[float], str]) -> float:
        """The measured figure where there is one, else the preset; written down in words."""
        value = preset if measured is None else measured
        self.say(words(value), "preset" if measured is None else "measured")
        return value

    def say(self, text: str, source: Source) -> None:
        self.entries.append(Assumption(text, source))


def processes_of(
    loaded: LoadedPipeline, stage: OnlineRlStage, engines: int | None, trainers: int | None
) -> Processes:
    """The stage's processes; given numbers win over the file's."""
    cluster = loaded.cluster
    return Processes(engines or cluster.engines_for(stage), trainers or cluster.trainers_for(stage))


def assume(
    loaded: LoadedPipeline,
    name: str,
    processes: Processes,
    schedule: Schedule,
    run: Path,
    config: StrictModel,
) -> tuple[System, tuple[Assumption, ...], Measured]:
    """(a stage as the simulation sees it, every figure that this took, what was measured).

    `config` is the algorithm's; `run` the run folder in which an earlier run is looked for.
    """
    stage = loaded.pipeline.stages[name]
    assert isinstance(stage, OnlineRlStage)
    measured, book = known_figures(run, name), _Book()
    lengths, prompt_tokens = _answers(stage, measured, book)
    needs = stage_needs(stage, config, loaded.base_dir)
    passes = _forward_passes(stage, needs, config)
    engine, trainer = _preset_speeds(loaded, name, passes, measured, book)
    rate = measured.trainer_tokens_per_s
    seconds_per_token = book.take(
        1 / rate if rate else None,
        trainer.seconds_per_token,
        lambda seconds: f"a trainer does {significant(1 / seconds)} tokens/s",
    )
    sync_s = book.take(
        measured.sync_s,
        engine.sync_s,
        lambda seconds: f"new weights stop an engine for {_short(seconds)}",
    )
    system = System(
        num_engines=processes.engines,
        num_trainers=processes.trainers,
        engine=replace(engine, sync_s=sync_s),
        trainer=TrainerSpeed(seconds_per_token),
        lengths=lengths,
        groups_per_step=stage.batch.prompts,
        samples_per_prompt=stage.batch.samples_per_prompt,
        greedy=needs.greedy,
        prompt_tokens=prompt_tokens,
        score_s=book.take(
            measured.score_s, SCORE_S, lambda seconds: f"a group is scored in {_short(seconds)}"
        ),
        filtered_share=_filtered(stage, measured, book),
        devices_per_engine=max(1, loaded.cluster.gpus_per_engine),
        devices_per_trainer=max(1, loaded.cluster.gpus_per_trainer),
    )
    if measured.engine_tokens_per_s:
        system = calibrated(system, schedule, measured.engine_tokens_per_s)
    source: Source = "measured" if measured.engine_tokens_per_s else "preset"
    book.say(_engine_in_words(system.engine), source)
    return system, tuple(book.entries), measured


def _preset_speeds(
    loaded: LoadedPipeline,
    name: str,
    passes: int,
    measured: Measured,
    book: _Book,
) -> tuple[EngineSpeed, TrainerSpeed]:
    parameters, size_source = model_parameters(loaded.pipeline, name)
    engine, device = engine_speed(loaded.cluster, parameters)
    trainer, trainer_device = trainer_speed(loaded.cluster, parameters, passes)
    if not (measured.engine_tokens_per_s and measured.trainer_tokens_per_s):
        unit, divisor = ("B", 1e9) if parameters >= 1e9 else ("M", 1e6)
        size = f"{significant(parameters / divisor)} {unit} parameters ({size_source})"
        devices = f"engines on {device}, trainers on {trainer_device}"
        where = f"each process on {device}" if device == trainer_device else devices
        book.say(f"{size}, {where}", "preset")
    return engine, trainer


def _forward_passes(stage: OnlineRlStage, needs: Needs, config: StrictModel) -> int:
    """Work on a batch besides training the policy on it once, counted in forward passes: training
    is three. A critic of its own is trained like the policy, after one pass for its values.
    """
    epochs = stage.batch.epochs
    # With one optimiser step the pass that trains gives the proximal log-probs as well.
    num_steps = stage.batch.optimiser_steps * epochs
    recomputes = stage.off_policy.proximal == "recompute" and num_steps > 1
    values = 0
    if needs.critic:
        values = 1 if getattr(config, "critic", "") == HEAD else 1 + 3 * epochs
    return 3 * (epochs - 1) + int(needs.reference) + int(recomputes) + values


def _answers(stage: OnlineRlStage, measured: Measured, book: _Book) -> tuple[AnswerLengths, float]:
    """(lengths of answers, mean tokens of a prompt)."""
    longest = stage.sampling.max_new_tokens
    sigma = SIGMA if measured.length_sigma is None else measured.length_sigma
    if measured.answer_tokens is None:
        lengths = AnswerLengths(guessed_median(longest), sigma, longest)
    else:
        lengths = lengths_with_mean(measured.answer_tokens, sigma, longest)
    book.take(
        measured.answer_tokens,
        lengths.mean_tokens,
        lambda mean: (
            f"answers of {significant(mean)} tokens (half of them up to"
            f" {significant(lengths.median_tokens)}, longest {longest})"
        ),
    )
    book.take(
        measured.length_sigma, sigma, lambda value: f"spread of lengths {value:.2f} (log-normal)"
    )
    prompt_tokens = book.take(
        measured.prompt_tokens,
        lengths.median_tokens,
        lambda tokens: f"prompts of {significant(tokens)} tokens",
    )
    return lengths, prompt_tokens


def _filtered(stage: OnlineRlStage, measured: Measured, book: _Book) -> float:
    if not stage.filter_no_signal:
        return 0.0
    known = measured.no_signal_share
    return book.take(
        None if known is None else min(0.95, known),
        NO_SIGNAL_SHARE,
        lambda share: f"{percent(share)} of groups have no signal",
    )


def guessed_median(longest: int) -> float:
    """Half of a short limit, an eighth of a long one: 32 -> 16, 128 -> 16, 2048 -> 256."""
    return max(1.0, min(SHORT_TOKENS, longest / 2), longest / 8)


def _engine_in_words(engine: EngineSpeed) -> str:
    rates = " and ".join(
        f"{significant(number / engine.step_s(number))} tokens/s at {number}"
        for number in sorted({max(1, engine.max_running // 8), engine.max_running})
    )
    return f"an engine does {rates} running"


def _short(seconds: float) -> str:
    return f"{significant(seconds)} s" if seconds >= 1 else f"{significant(seconds * 1000)} ms"


def grouped(assumptions: tuple[Assumption, ...]) -> Mapping[Source, list[str]]:
    """Texts by source, in order of first appearance."""
    by_source: dict[Source, list[str]] = {}
    for each in assumptions:
        by_source.setdefault(each.source, []).append(each.text)
    return by_source
