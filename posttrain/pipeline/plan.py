"""What a run will do, and why: every stage's identity, and whether it is already done."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from posttrain.config.data import ResolvedData
from posttrain.config.keys import PLUGIN_KINDS, TRAINED_KINDS, WITH_DATA
from posttrain.config.load import LoadedPipeline
from posttrain.config.pipeline import Pipeline
from posttrain.config.plugins import complete_settings
from posttrain.config.stage_base import StageBase
from posttrain.config.suites import Suite
from posttrain.config.tasks import asked_suite, resolved, row_tasks, task_spec
from posttrain.pipeline.graph import Graph
from posttrain.pipeline.identity import explain_change, identity
from posttrain.pipeline.store import RunFolder
from posttrain.prompts.decontamination import questions_fingerprint
from posttrain.prompts.rows import data_fingerprint
from posttrain.stages.jobs import PluginRef
from posttrain.stages.measure import suite_fingerprint


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage, resolved: nothing about it is left to be looked up while it runs."""

    name: str
    stage: StageBase
    identity: str
    needs: tuple[str, ...]
    why: str  # kept, new, changed: KEY OLD → NEW, upstream: STAGE
    plugins: Mapping[str, PluginRef]  # by key of the stage, with complete settings
    data: tuple[Mapping[str, str], ...]  # path and fingerprint of each data set
    seed: int
    precision: str = "fp32"
    suite: Suite | None = None  # that the stage asks itself, with its changes
    suite_fingerprint: str = ""

    @property
    def kept(self) -> bool:
        return self.why == "kept"

    @property
    def kind(self) -> str:
        return self.stage.kind  # type: ignore[attr-defined]

    def config(self) -> dict[str, Any]:
        """The resolved configuration, as config.yaml stores it."""
        document = self.stage.model_dump(mode="json")
        for key, plugin in self.plugins.items():
            document[key] = document[key] | {"settings": dict(plugin.settings)}
        if self.suite is not None:
            document["suite"] = (document["suite"] or {}) | self.suite.model_dump(mode="json")
        return document | {"seed": self.seed, "precision": self.precision}


@dataclass(frozen=True, slots=True)
class RunPlan:
    """All stages, in an order in which they may run."""

    loaded: LoadedPipeline
    graph: Graph
    stages: tuple[PlannedStage, ...]
    suites: Mapping[str, Suite]
    fingerprints: Mapping[str, str]  # of suites

    def __getitem__(self, name: str) -> PlannedStage:
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def to_do(self) -> list[PlannedStage]:
        """The stages that are not done already."""
        return [stage for stage in self.stages if not stage.kept]

    @property
    def to_train(self) -> list[PlannedStage]:
        """Those of them that train something."""
        return [stage for stage in self.to_do if stage.kind in TRAINED_KINDS]


def make_plan(loaded: LoadedPipeline, graph: Graph, folder: RunFolder) -> RunPlan:
    """Identities of all stages, compared with what the run folder holds. Reads data files."""
    pipeline = loaded.pipeline
    prints = {name: fingerprint_of(suite) for name, suite in pipeline.suites.items()}
    planned: dict[str, PlannedStage] = {}
    for name in graph.order:
        planned[name] = _plan_stage(loaded, graph, folder, name, planned)
    return RunPlan(loaded, graph, tuple(planned.values()), pipeline.suites, prints)


def stage_seed(pipeline: Pipeline, name: str) -> int:
    """The stage's own seed, or one made of the pipeline's and the stage's name; below 2**31."""
    own = pipeline.stages[name].seed
    if own is not None:
        return own
    digest = hashlib.sha256(f"{pipeline.seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def fingerprint_of(suite: Suite) -> str:
    """What decides a suite's questions, files included."""
    data = {task: data_fingerprint(task_spec(suite, task).data) for task in row_tasks(suite)}
    return suite_fingerprint(suite, data)


def _plan_stage(
    loaded: LoadedPipeline,
    graph: Graph,
    folder: RunFolder,
    name: str,
    planned: Mapping[str, PlannedStage],
) -> PlannedStage:
    stage = _with_questions(loaded.pipeline.stages[name], loaded.pipeline.suites)
    seed = stage_seed(loaded.pipeline, name)
    plugins = _plugins(stage, loaded.base_dir)
    suite = _stage_suite(stage, loaded.pipeline)
    suite_print = fingerprint_of(suite) if suite is not None else ""
    fingerprints = _fingerprints(stage)
    needs = tuple(graph.needs[name])
    own = identity(
        stage=stage,
        plugins=_counted(stage, loaded.base_dir),
        inputs={need: planned[need].identity for need in needs},
        data_fingerprints=[*fingerprints, *_left_out(stage)],
        precision=loaded.cluster.precision,
        seed=seed,
        # Whose abilities the tax is counted from changes no question, but the result.
        suite_fingerprint=f"{suite_print} {suite.tax_since}" if suite is not None else "",
    )
    fresh = PlannedStage(
        name=name,
        stage=stage,
        identity=own,
        needs=needs,
        why="new",
        plugins=plugins,
        data=_data(stage, fingerprints),
        seed=seed,
        precision=loaded.cluster.precision,
        suite=suite,
        suite_fingerprint=suite_print,
    )
    return replace(fresh, why=_why(fresh, folder, planned))


def _why(stage: PlannedStage, folder: RunFolder, planned: Mapping[str, PlannedStage]) -> str:
    if folder.stage(stage.name, stage.identity).is_done:
        return "kept"
    before = folder.newest_done(stage.name)
    if before is None:
        return "new"
    old = yaml.safe_load((before.path / "config.yaml").read_text(encoding="utf-8"))
    change = explain_change(old, stage.config())
    if change:
        return f"changed: {change}"
    redone = [need for need in stage.needs if not planned[need].kept]
    return f"upstream: {redone[0]}" if redone else "changed: the content of a file"


def _plugins(stage: StageBase, base_dir: Path | str) -> dict[str, PluginRef]:
    """Plug-ins with their complete settings, by the key that names them."""
    refs = {}
    for key, kind in PLUGIN_KINDS.items():
        plugin = getattr(stage, key, None)
        if plugin is not None:
            settings = complete_settings(kind, plugin, base_dir)
            refs[key] = PluginRef(kind, plugin.name, settings, str(base_dir))
    return refs


def _counted(stage: StageBase, base_dir: Path | str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Name and settings of each plug-in as far as they change numbers."""
    return {
        key: (plugin.name, complete_settings(kind, plugin, base_dir, counted_only=True))
        for key, kind in PLUGIN_KINDS.items()
        if (plugin := getattr(stage, key, None)) is not None
    }


def _fingerprints(stage: StageBase) -> list[str]:
    """Of each part of its data; of a stage's rows the identity of that stage counts instead."""
    if isinstance(stage, WITH_DATA):
        parts = stage.data.parts.values()
        return ["" if part.stage else data_fingerprint(part) for part in parts]
    return []


def _with_questions(stage: StageBase, suites: Mapping[str, Suite]) -> StageBase:
    """The stage; its data knows the questions of the suites that `decontaminate` names."""
    if isinstance(stage, WITH_DATA):
        return stage.model_copy(update={"data": resolved(stage.data, suites)})
    return stage


def _left_out(stage: StageBase) -> list[str]:
    """What rows of each part are compared with; empty where none are."""
    data = getattr(stage, "data", None)
    if not isinstance(data, ResolvedData) or not data.questions:
        return []
    prints = {name: questions_fingerprint(of) for name, of in data.questions.items()}
    return [prints.get(part.decontaminate or "", "") for part in data.parts.values()]


def _data(stage: StageBase, fingerprints: list[str]) -> tuple[Mapping[str, str], ...]:
    if not isinstance(stage, WITH_DATA):
        return ()
    return tuple(
        {"path": part.path or f"rows of {part.stage}", "fingerprint": fingerprint}
        for part, fingerprint in zip(stage.data.parts.values(), fingerprints, strict=True)
    )


def _stage_suite(stage: StageBase, pipeline: Pipeline) -> Suite | None:
    use = asked_suite(stage, pipeline.suites)
    if use is None:
        return None
    changes = use.model_dump(exclude={"use"}, exclude_none=True)
    return pipeline.suites[use.use].model_copy(update=changes)
