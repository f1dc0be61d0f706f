"""Everything that can be known to be wrong before anything starts, all of it at once.

Keys and values were checked while loading. Here come references, gates, plug-ins with settings,
files and their first rows, and the batch arithmetic in words. Imports neither torch nor ray.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from posttrain.config.average import AverageStage
from posttrain.config.document import Places, join, show_path
from posttrain.config.keys import PLUGIN_KINDS, WITH_DATA
from posttrain.config.load import LoadedPipeline
from posttrain.config.offline import OfflineStage, PreferenceStage, RewardModelStage, SftStage
from posttrain.config.pipeline import EvaluateStage, OnlineRlStage, Pipeline
from posttrain.config.plugin import Plugin, nested_plugins
from posttrain.config.plugins import Mode, load_plugin, plugin_config, reward_stages
from posttrain.config.restraints import RestrainedStage
from posttrain.config.stage_base import StageBase
from posttrain.config.strict import StrictModel
from posttrain.config.suggest import did_you_mean
from posttrain.config.suites import Suite
from posttrain.config.tasks import BUILT_IN, is_harness, row_tasks, suite_tasks, task_spec
from posttrain.errors import InputError, Problem
from posttrain.pipeline.arithmetic import describe
from posttrain.pipeline.check_algorithms import check_algorithm, stage_needs
from posttrain.pipeline.check_answers import check_answers, check_rows_of_stages
from posttrain.pipeline.check_average import check_average
from posttrain.pipeline.check_cluster import check_cluster
from posttrain.pipeline.check_data import DataChecker, check_decontaminate
from posttrain.pipeline.check_harness import check_harness
from posttrain.pipeline.check_models import check_model
from posttrain.pipeline.check_objectives import wrong_objective
from posttrain.pipeline.check_online import check_online
from posttrain.pipeline.check_restraints import check_restraints
from posttrain.pipeline.graph import Graph, build_graph
from posttrain.ports import Needs
from posttrain.prompts.judged import COLUMNS as JUDGED_COLUMNS
from posttrain.stages.step_limits import check_step

_MODES: dict[type[StageBase], Mode] = {
    SftStage: "offline",
    RewardModelStage: "offline",
    PreferenceStage: "offline",
    OnlineRlStage: "online",
}


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found. `notes` is the batch arithmetic, one sentence per stage."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    graph: Graph
    plugins: Mapping[
        str, Mapping[str, StrictModel]
    ]  # stage -> key (algorithm, ...) -> whole Config
    seconds: float

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity != "error"]

    def raise_if_any(self) -> None:
        """Raises InputError with all problems, warnings too, if one of them is an error."""
        if self.errors:
            raise InputError(list(self.problems))


def check(loaded: LoadedPipeline, *, every_row: bool = False) -> CheckReport:
    """Look at a loaded pipeline. Reads the first rows of its files, or every row."""
    checker = _Checker(loaded, loaded.draft, loaded.places, DataChecker(loaded.places, every_row))
    graph = build_graph(loaded.draft, loaded.places, loaded.unreadable)
    began = time.perf_counter()
    checker.problems += [*loaded.problems, *graph.problems]
    checker.problems += check_cluster(loaded, loaded.places)
    for name, suite in loaded.draft.suites.items():
        checker.check_suite(name, suite)
    for name, stage in loaded.draft.stages.items():
        checker.check_stage(name, stage)
    rows = checker.data.rows_by_stage
    notes = tuple(
        note
        for name in (graph.order or loaded.draft.stages)
        if (
            note := describe(
                name, loaded.draft, loaded.cluster, rows.get(name), checker.needs(name)
            )
        )
    )
    problems = _ordered(checker.problems, show_path(loaded.file))
    seconds = time.perf_counter() - began
    return CheckReport(problems, notes, graph, checker.plugins, seconds)


def _ordered(problems: list[Problem], file: str) -> tuple[Problem, ...]:
    """Without repetitions, in the order of the pipeline file; other files after it."""
    unique = {(p.code, p.message, p.file, p.line): p for p in reversed(problems)}
    ordered = [p for p in problems if unique[(p.code, p.message, p.file, p.line)] is p]
    return tuple(sorted(ordered, key=lambda p: (p.file != file, p.line or 0)))


@dataclass(slots=True)
class _Checker:
    loaded: LoadedPipeline
    pipeline: Pipeline
    places: Places
    data: DataChecker
    problems: list[Problem] = field(default_factory=list)
    plugins: dict[str, dict[str, StrictModel]] = field(default_factory=dict)

    def add(self, code: str, message: str, key: str, help: str = "") -> None:
        file, line = self.places.of(key)
        self.problems.append(Problem(code, message, key, file, line, help))

    def check_suite(self, name: str, suite: Suite) -> None:
        known = [*suite.tasks, *BUILT_IN]
        for role in ("gain", "keep"):
            for index, task in enumerate(getattr(suite, role)):
                if task not in known and not is_harness(suite, task):
                    key = f"suites.{name}.{role}.{index}"
                    self.add("unknown-task", f"no task `{task}`", key, did_you_mean(task, known))
        if not suite_tasks(suite):
            self.add("empty-suite", "asks nothing", f"suites.{name}", "gain: [TASK, ...]")
        self.problems += check_harness(name, suite, self.places)
        for task in row_tasks(suite):
            if task not in known:
                continue
            key = f"suites.{name}.tasks.{task}"
            spec = task_spec(suite, task)
            needs = ("prompt",) if spec.reward else ("text",)
            self.problems += self.data.check(spec.data, f"{key}.data", needs, f"(task {task})")
            if spec.reward is not None:
                self._check_plugin("reward", spec.reward, f"{key}.reward", None)
                for named in reward_stages(spec.reward, self.loaded.base_dir):
                    message = f"`{named.stage}` judges, and a suite has no engine for a judge"
                    help = "give the judge an endpoint, or let it judge in an online_rl stage"
                    if named.makes == "reward_models":
                        message = f"`{named.stage}` scores, and a suite has no reward models"
                        help = "let it score in an online_rl, generate or best_of_n stage"
                    self.add("bad-value", message, join(key, "reward", *named.keys), help)
        for task in suite.tasks:
            if task not in suite_tasks(suite):
                message = f"task `{task}` is defined but not asked"
                file, line = self.places.of(f"suites.{name}.tasks.{task}")
                path, help = f"suites.{name}.tasks", f"gain: [{task}], or keep: [{task}]"
                self.problems.append(
                    Problem("unused-task", message, path, file, line, help, "warning")
                )

    def check_stage(self, name: str, stage: StageBase) -> None:
        prefix = f"stages.{name}"
        for key, kind in PLUGIN_KINDS.items():
            plugin = getattr(stage, key, None)
            if isinstance(plugin, Plugin):
                mode = _MODES.get(type(stage)) if kind == "algorithm" else None
                config = self._check_plugin(kind, plugin, f"{prefix}.{key}", mode)
                if config is not None:
                    self.plugins.setdefault(name, {})[key] = config
        if isinstance(stage, OnlineRlStage):
            trainers = self.loaded.cluster.trainers_for(stage)
            gpus = self.loaded.cluster.gpus_per_trainer
            self.problems += check_online(name, stage, trainers, gpus, self.places)
            config = self.plugins.get(name, {}).get("algorithm")
            if config is not None:
                self.problems += check_algorithm(
                    name, config, self.needs(name), self.pipeline, self.places
                )
        if isinstance(stage, AverageStage) and name in self.plugins:
            method = load_plugin("averaging", stage.method.name, self.loaded.base_dir)
            self.problems += check_average(name, stage, method.NEEDS, self.pipeline, self.places)
        if isinstance(stage, SftStage | PreferenceStage):
            self._check_shares(name, stage)
        if isinstance(stage, OfflineStage) and name in self.plugins:
            problem = wrong_objective(name, stage, self.loaded.base_dir, self.places)
            self.problems += [problem] if problem else []
        if isinstance(stage, WITH_DATA):
            needs = stage.needs if isinstance(stage, OfflineStage) else ("prompt",)
            needs = JUDGED_COLUMNS if self.needs(name).judged else needs
            found = self.data.check(stage.data, f"{prefix}.data", needs, f"(stage {name})", name)
            self.problems += found
            self.problems += check_rows_of_stages(name, stage.data, needs, self.loaded)
            self.problems += check_decontaminate(
                stage.data, f"{prefix}.data", self.pipeline.suites, self.places
            )
        if isinstance(stage, OnlineRlStage):
            prompts = self.data.prompts_by_stage.get(name)
            self.problems += check_step(name, stage, prompts, None, self.places)
        if isinstance(stage, RestrainedStage):
            num_rows = self.data.rows_by_stage.get(name)
            self.problems += check_restraints(name, stage, num_rows, self.places)
        if isinstance(stage, EvaluateStage) and stage.suite.use not in self.pipeline.suites:
            help = did_you_mean(stage.suite.use, self.pipeline.suites, "suites here:")
            self.add("unknown-suite", f"no suite `{stage.suite.use}`", f"{prefix}.suite.use", help)
        self.problems += check_answers(name, stage, self.loaded)
        self.problems += check_model(stage, prefix, self.places)

    def _check_plugin(
        self, kind: str, plugin: Plugin, key: str, mode: Mode | None
    ) -> StrictModel | None:
        """The plug-in's whole Config; None where there is none to be had."""
        file, line = self.places.of(f"{key}.name")
        try:
            module = load_plugin(kind, plugin.name, self.loaded.base_dir, mode=mode)
        except InputError as error:
            for each in error.problems:
                own = bool(each.file)
                placed = each if own else replace(each, path=key, file=file, line=line)
                self.problems.append(placed)
            return None
        try:
            config: StrictModel = plugin_config(
                module, plugin.settings, path=key, places=self.places
            )
        except InputError as error:
            self.problems += error.problems
            return None
        for keys, part in nested_plugins(config):
            self._check_plugin(kind, part, join(key, *keys), mode)
        return config

    def needs(self, name: str) -> Needs:
        """What the stage's algorithm asks for; nothing where that is not known, or does not depend
        on its settings.
        """
        stage = self.pipeline.stages[name]
        config = self.plugins.get(name, {}).get("algorithm")
        if not isinstance(stage, OnlineRlStage | PreferenceStage) or config is None:
            return Needs()
        return stage_needs(stage, config, self.loaded.base_dir)

    def _check_shares(self, name: str, stage: SftStage | PreferenceStage) -> None:
        """Every trainer gets the same number of rows of each step."""
        rows = stage.batch.rows
        trainers = self.loaded.cluster.trainers_for(stage)
        if rows % trainers:
            message = f"{rows} rows per step cannot be shared by {trainers} trainers"
            help = f"rows: {-(-rows // trainers) * trainers}"
            self.add("batch-not-divisible", message, f"stages.{name}.batch.rows", help)
