"""From a pipeline file and overrides to checked classes, with every mistake collected on the way.

YAML -> overrides -> presets underneath -> interpolation -> absolute paths -> strict classes. Each
stage is validated by itself, and again without its faulty keys: one mistake hides no other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.config.document import Places, join, read_document, show_path
from posttrain.config.interpolation import interpolate
from posttrain.config.keys import STAGE_CLASSES, stage_class
from posttrain.config.overrides import (
    apply_overrides,
    known_keys,
    parse_overrides,
    refuse_unknown,
)
from posttrain.config.paths import make_absolute, neighbour
from posttrain.config.pipeline import Cluster, Pipeline, WandbSettings
from posttrain.config.presets import PresetExpander, expand_short_forms, shipped_folder
from posttrain.config.stage_base import StageBase
from posttrain.config.suggest import did_you_mean
from posttrain.config.suites import Suite
from posttrain.config.validate import lenient, section, validate_stage
from posttrain.errors import InputError, Problem, ProblemList


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A pipeline file with everything filled in, and what is wrong with it.

    `draft` holds the stages that could be read, some without their faulty keys, so that `check` can
    go on looking; `pipeline` is for everybody else, and refuses to be read while there are errors.
    """

    draft: Pipeline
    cluster: Cluster
    file: Path
    origins: Mapping[str, tuple[str, int | None]]  # dotted key -> (file, line)
    problems: tuple[Problem, ...]
    raw: Mapping[str, Any]  # plain values: presets, overrides and interpolations filled in
    base_dir: Path  # the folder of the file; the current folder for shipped pipelines
    unreadable: Mapping[str, str | None] = field(default_factory=dict)  # stage -> kind, where known

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline. Raises InputError, with all problems, where there are errors."""
        if any(problem.severity == "error" for problem in self.problems):
            raise InputError(list(self.problems))
        return self.draft

    @property
    def places(self) -> Places:
        return Places(dict(self.origins))


def shipped_pipelines() -> list[str]:
    """Names of the pipelines that ship with posttrain."""
    return sorted(path.stem for path in shipped_folder("posttrain.pipelines").glob("*.yaml"))


def find_pipeline(file_or_name: str) -> Path:
    """The YAML file meant by a path, or by a name: ./NAME.yaml, or a shipped pipeline.

    Raises InputError with the nearest name where there is none.
    """
    given = Path(file_or_name).expanduser()
    is_path = given.suffix in (".yaml", ".yml") or "/" in file_or_name or not given.name
    for path in [given] if is_path else [given.with_name(f"{given.name}.yaml"), given]:
        if path.is_file():
            return path
    shipped = shipped_folder("posttrain.pipelines") / f"{file_or_name}.yaml"
    if not is_path and shipped.is_file():
        return shipped
    if given.is_dir():
        inside = [given / "pipeline.yaml", *sorted(given.glob("*.yaml"))]
        near = next((path for path in inside if path.is_file()), None)
        help = f"did you mean `{near}`?" if near else ""
        raise InputError(Problem("missing-file", "is a folder", file=file_or_name, help=help))
    if is_path:
        suggested = neighbour(str(given.absolute()))
        help = f"did you mean `{show_path(suggested)}`?" if suggested else ""
        raise InputError(Problem("missing-file", "no such file", file=file_or_name, help=help))
    local = [path.stem for path in sorted(Path.cwd().glob("*.yaml"))]
    help = did_you_mean(file_or_name, [*shipped_pipelines(), *local], "shipped and here:")
    raise InputError(Problem("unknown-pipeline", f"no pipeline `{file_or_name}`", help=help))


def load_pipeline(file_or_name: str, overrides: Sequence[str] = ()) -> LoadedPipeline:
    """Read a pipeline. Mistakes in its content are collected in `.problems`, not raised.

    Raises InputError only where there is nothing to go on with: no such file, or no YAML in it.
    """
    file = find_pipeline(file_or_name)
    document = read_document(file)
    places = document.places
    problems = ProblemList(list(document.problems))
    if not isinstance(document.data, dict):
        help = "start from a shipped one: posttrain new mine --from quickstart"
        raise InputError(
            Problem("empty-pipeline", "holds no keys", "", show_path(file), None, help)
        )
    is_shipped = file.resolve().parent == shipped_folder("posttrain.pipelines").resolve()
    base_dir = Path.cwd() if is_shipped else file.resolve().parent
    raw = _complete(document.data, overrides, base_dir, places, problems)
    return _validated(raw, file, base_dir, places, problems)


def with_values(
    loaded: LoadedPipeline, values: Mapping[tuple[str, ...], Any], said_by: str
) -> LoadedPipeline:
    """A sound pipeline with some keys set, checked like a file. `said_by` stands for their place.

    What was warned of while loading is told again. Raises InputError where the pipeline has errors.
    """
    if any(problem.severity == "error" for problem in loaded.problems):
        raise InputError(list(loaded.problems))
    raw = dict(loaded.raw)
    places = Places(dict(loaded.origins))
    for path, value in values.items():
        raw = _set(raw, path, value)
        places.by_key[join(*path)] = (said_by, None)
    problems = ProblemList(list(loaded.problems))
    return _validated(raw, loaded.file, loaded.base_dir, places, problems)


def _set(block: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy of plain values with one key set. Blocks that several keys share stay as they are."""
    if not path:
        return value
    below = dict(block) if isinstance(block, Mapping) else {}
    return below | {path[0]: _set(below.get(path[0]), path[1:], value)}


def _complete(
    raw: dict[str, Any],
    overrides: Sequence[str],
    base_dir: Path,
    places: Places,
    problems: ProblemList,
) -> dict[str, Any]:
    """Plain values with overrides, presets, interpolations and absolute paths in place."""
    cluster = raw.get("cluster", "laptop")
    raw["cluster"] = {"uses": cluster} if isinstance(cluster, str) else cluster
    _expand_all(raw, places)
    applied = apply_overrides(raw, parse_overrides(overrides, problems), places, problems)
    if isinstance(raw["cluster"], str):  # overridden by name
        raw["cluster"] = {"uses": raw["cluster"]}
    if isinstance(raw["cluster"], dict):
        expander = PresetExpander(problems, "cluster")
        raw["cluster"] = expander.expand(raw["cluster"], "cluster", base_dir, places)
    expander = PresetExpander(problems)
    for name, stage in _blocks(raw, "stages"):
        raw["stages"][name] = expander.expand(stage, f"stages.{name}", base_dir, places)
    raw = interpolate(raw, places, problems)
    _expand_all(raw, places)
    for _, stage in _blocks(raw, "stages"):
        _name_default_plugins(stage)
    make_absolute(raw, places, base_dir)
    refuse_unknown(raw, applied, places, problems)
    return raw


def _blocks(raw: Mapping[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    value = raw.get(key)
    items = value.items() if isinstance(value, dict) else ()
    return [(name, block) for name, block in items if isinstance(block, dict)]


def _expand_all(raw: dict[str, Any], places: Places) -> None:
    for name, stage in _blocks(raw, "stages"):
        expand_short_forms(stage, f"stages.{name}", places)
    for name, suite in _blocks(raw, "suites"):
        for task_name, task in _blocks(suite, "tasks"):
            expand_short_forms(task, f"suites.{name}.tasks.{task_name}", places)


def _name_default_plugins(stage: dict[str, Any]) -> None:
    """`algorithm: {lr: 1e-3}` in a stage whose algorithm has a default means that one."""
    model = stage_class(stage)
    for key, info in model.model_fields.items() if model else ():
        default = getattr(info.default, "name", None)
        if isinstance(stage.get(key), dict) and default and "name" not in stage[key]:
            stage[key] = {"name": default} | stage[key]


def _validated(
    raw: dict[str, Any], file: Path, base_dir: Path, places: Places, problems: ProblemList
) -> LoadedPipeline:
    stages: dict[str, StageBase] = {}
    unreadable: dict[str, str | None] = {}
    for name, value in section(raw, "stages", places, problems).items():
        stage = validate_stage(name, value, places, problems)
        if stage is None:
            kind = value.get("kind") if isinstance(value, Mapping) else None
            unreadable[name] = kind if isinstance(kind, str) and kind in STAGE_CLASSES else None
        else:
            stages[name] = stage
    suites = {
        name: lenient(Suite, value, f"suites.{name}", places, problems) or Suite()
        for name, value in section(raw, "suites", places, problems).items()
    }
    cluster = lenient(Cluster, raw.get("cluster", {}), "cluster", places, problems) or Cluster()
    wandb = lenient(WandbSettings, raw.get("wandb", {}), "wandb", places, problems)
    parts = {"cluster": cluster, "wandb": wandb or WandbSettings(), "suites": suites}
    top = {key: value for key, value in raw.items() if key not in (*parts, "stages")}
    if not stages and not unreadable:
        file_shown, line = places.of("stages")
        help = "stages: {base: {kind: model, from_scratch: micro}, ...}"
        problems.add(Problem("missing-key", "`stages` is empty", "", file_shown, line, help))
    placeholder = {"x": {"kind": "model", "from_scratch": "micro"}}
    head = lenient(Pipeline, top | {"stages": placeholder}, "", places, problems)
    name = head.name if head else re.sub(r"[^A-Za-z0-9_-]", "-", file.stem)
    values = dict(head) if head else {"name": name, "description": "", "seed": 0}
    draft = Pipeline.model_construct(**(values | parts | {"stages": stages}))
    main = show_path(file)
    ordered = sorted(problems.problems, key=lambda each: (each.file != main, each.line or 0))
    found = tuple(_look_deeper(each, raw) for each in ordered)
    return LoadedPipeline(draft, cluster, file, places.by_key, found, raw, base_dir, unreadable)


def _look_deeper(problem: Problem, raw: Mapping[str, Any]) -> Problem:
    """Where an unknown key is known one level down (`lr` belongs to the algorithm), say so."""
    if problem.code != "unknown-key" or problem.help.startswith("did you mean"):
        return problem
    name = problem.message.split("`")[1]
    below = (key for key, _ in known_keys(raw) if key.startswith(f"{problem.path}."))
    near = next((key for key in below if key.endswith(f".{name}")), None)
    return replace(problem, help=f"did you mean `{near}`?") if near else problem
