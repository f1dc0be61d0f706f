"""The `generate` stage: a model is asked many times, what it says is scored, and rows are selected.

    prompts --parts--> engines --answers--> scorer --scores--> one parquet file per part
                                                                        |  once all are there
                                              selection: what becomes rows of `rows.jsonl`

Each engine has two parts under way, so that it stays full while the end of one is waited for. A
part is written whole: a stage that was stopped or killed goes on with those that are missing, and
an engine that dies costs the parts that it had.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from posttrain.config.answers import GenerateStage
from posttrain.config.plugins import load_plugin
from posttrain.errors import EngineFailed, ProcessDied
from posttrain.stages.context import StageContext, context_length, engine_spec
from posttrain.stages.dataset import Answers, DatasetFolder
from posttrain.stages.jobs import PluginRef
from posttrain.stages.launcher import LeasedEngine, Scorer
from posttrain.stages.own_answers import keep_tokenizer, own_answers
from posttrain.stages.questions import prompts_of_stage
from posttrain.stages.scoring import scores_or_broken, scoring_job
from posttrain.stages.select_rows import select_rows
from posttrain.types import Prompt, Rollout, Sampling, Score

ANSWERS_PER_PART = 512
PARTS_PER_ENGINE = 2  # under way at once
SHOWN_PER_PART = 2  # answers, on the screen and in the report
ENGINE_ATTEMPTS = 3  # until it is not the engine that is to blame
SEEDS_PER_PART = 1 << 20  # more than any part has answers: no two share a seed


def run(
    stage: GenerateStage, scored_by: PluginRef | None, selection: PluginRef, context: StageContext
) -> str:
    """Generate, score, select; returns "done" or "stopped"."""
    model_path = context.inputs[stage.model].path
    room = context_length(model_path) - stage.sampling.max_new_tokens
    prompts = prompts_of_stage(model_path, stage.data, room, context)
    module = load_plugin("selection", selection.name, selection.base_dir)
    own: Sequence[Rollout | None] = [None] * len(prompts)
    if column := getattr(module, "OWN_ANSWER", None):
        own = context.launcher.call(own_answers, model_path, prompts, column)
    folder = DatasetFolder(context.directory / "dataset")
    folder.begin(prompts)
    work = _Work(stage, prompts, own, folder, context)
    if work.left:
        _generate(work, scored_by, model_path)
    if work.left:
        return "stopped"
    context.launcher.call(keep_tokenizer, model_path, str(folder.tokenizer))
    select_rows(stage, selection, folder, context)
    return "done"


def _generate(work: _Work, scored_by: PluginRef | None, model_path: str) -> None:
    """Make what is missing, with other engines where some die."""
    stage, context = work.stage, work.context
    longest = max(len(prompt.token_ids) for prompt in work.prompts)
    spec = engine_spec(context.cluster, model_path, longest + stage.sampling.max_new_tokens)
    count = context.cluster.engines_for(stage)
    scoring: Any = nullcontext(None)
    if stage.scored_by is not None and scored_by is not None:
        job = scoring_job("scored_by", stage.scored_by, scored_by, context, model_path)
        scoring = context.launcher.scorer(job, context.tracker)
    with scoring as scorer:
        for attempt in range(1, ENGINE_ATTEMPTS + 1):
            try:
                with context.launcher.engines(spec, count) as engines:
                    work.generate(engines, scorer)
                break
            except (EngineFailed, ProcessDied) as error:
                if attempt == ENGINE_ATTEMPTS:
                    raise
                context.tracker.event("engine-lost", message=error.message)


@dataclass(slots=True)
class _Work:
    """The parts of one stage, and what is done of them."""

    stage: GenerateStage
    prompts: Sequence[Prompt]
    own: Sequence[Rollout | None]
    folder: DatasetFolder
    context: StageContext
    left: set[int] = field(init=False)  # first prompts of the parts that are still to be made
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        firsts = range(0, len(self.prompts), self.prompts_per_part)
        self.left = {first for first in firsts if not self.folder.has_part(first)}

    @property
    def prompts_per_part(self) -> int:
        return max(1, ANSWERS_PER_PART // self.stage.samples_per_prompt)

    def generate(self, engines: Sequence[LeasedEngine], scorer: Scorer | None) -> None:
        """Make what is missing, until all is there or a stop is asked for."""
        waiting = iter(sorted(self.left))
        with ThreadPoolExecutor(PARTS_PER_ENGINE * len(engines)) as pool:
            workers = [
                pool.submit(self._serve, engine, scorer, waiting)
                for engine in engines
                for _ in range(PARTS_PER_ENGINE)
            ]
            done, _ = wait(workers, return_when=FIRST_EXCEPTION)
            if any(each.exception() for each in done):
                self._take_all(waiting)  # the others end with the part that they have
        for each in workers:
            each.result()

    def _serve(self, engine: LeasedEngine, scorer: Scorer | None, waiting: Iterator[int]) -> None:
        while not self.context.launcher.stop_asked():
            with self.lock:
                first = next(waiting, None)
            if first is None:
                return
            self._make(first, engine, scorer)

    def _take_all(self, waiting: Iterator[int]) -> None:
        with self.lock:
            for _ in waiting:
                pass

    def _make(self, first: int, engine: LeasedEngine, scorer: Scorer | None) -> None:
        """Answers to one part's prompts, scored and written."""
        samples = self.stage.samples_per_prompt
        prompts = self.prompts[first : first + self.prompts_per_part]
        sampling = Sampling(
            self.stage.sampling.max_new_tokens,
            self.stage.sampling.temperature,
            (self.context.seed + first * SEEDS_PER_PART) % (1 << 62),
        )
        asked = [prompt for prompt in prompts for _ in range(samples)]
        rollouts = engine.generate_many(asked, sampling)
        groups = []
        for index, prompt in enumerate(prompts):
            of_prompt = rollouts[index * samples : (index + 1) * samples]
            group = [replace(each, sample=number) for number, each in enumerate(of_prompt)]
            own = self.own[first + index]
            groups.append((prompt, tuple(group + ([own] if own else []))))
        scores = iter(self._scores(groups, scorer))
        answers = [
            Answers(prompt, group, tuple(next(scores) for _ in group)) for prompt, group in groups
        ]
        self.folder.write_part(first, answers)
        with self.lock:
            self.left.discard(first)
            left = sorted(self.left)
        self._tell(answers, left)

    def _scores(
        self, groups: Sequence[tuple[Prompt, tuple[Rollout, ...]]], scorer: Scorer | None
    ) -> list[Score | None]:
        prompts = [prompt for prompt, group in groups for _ in group]
        rollouts = [rollout for _, group in groups for rollout in group]
        if scorer is None:
            return [None] * len(rollouts)
        return scores_or_broken(scorer.score(prompts, rollouts))

    def _tell(self, answers: Sequence[Answers], left: Sequence[int]) -> None:
        rollouts = [rollout for each in answers for rollout in each.rollouts]
        scores = [score for each in answers for score in each.scores]
        values = [score.value for score in scores if score is not None]
        size, samples = self.prompts_per_part, self.stage.samples_per_prompt
        still = sum(len(self.prompts[first : first + size]) for first in left)
        made, total = (n * samples for n in (len(self.prompts) - still, len(self.prompts)))
        tokens = sum(len(rollout.token_ids) for rollout in rollouts)
        cut = sum(rollout.finish == "length" for rollout in rollouts)
        numbers = {
            "generate/answers": float(made),
            "generate/tokens_mean": tokens / len(rollouts),
            "generate/cut_share": cut / len(rollouts),
            "generate/empty_share": sum(not each.text.strip() for each in rollouts) / len(rollouts),
        }
        if values:
            numbers["generate/score_mean"] = math.fsum(values) / len(values)
        if self.stage.scored_by is not None:
            numbers["generate/broken"] = float(len(scores) - len(values))
        self.context.tracker.log(numbers, step=made)
        self.context.tracker.samples(made, [_shown(each) for each in answers[:SHOWN_PER_PART]])
        self.context.tracker.event("generated", text=f"{made:,} of {total:,} answers")


def _shown(answers: Answers) -> dict[str, Any]:
    """The first answer to a prompt, for people to look at."""
    score = answers.scores[0]
    return {
        "prompt": answers.prompt.text,
        "completion": answers.rollouts[0].text,
        "score": score.value if score else None,
        "passed": score.passed if score else None,
    }
