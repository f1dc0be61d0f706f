"""Where a pipeline names its own stages, and what is wrong with a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from posttrain.config.answers import BestOfNStage, OverOptimisationStage
from posttrain.config.average import AverageStage
from posttrain.config.critic import names_a_stage
from posttrain.config.document import Places, join
from posttrain.config.keys import PLUGIN_KINDS, STAGE_CLASSES, WITH_DATA
from posttrain.config.pipeline import EvaluateStage, OnlineRlStage, Pipeline
from posttrain.config.plugins import reward_stages
from posttrain.config.stage_base import StageBase
from posttrain.config.suggest import closest
from posttrain.config.suites import Suite
from posttrain.config.tasks import asked_suite
from posttrain.errors import Problem

_ARTICLES = {
    "model": "a model",
    "reward_models": "reward models",
    "dataset": "rows",
    "measurements": "measurements",
}


@dataclass(frozen=True, slots=True)
class Reference:
    """One name of a stage in the file, and the type of artifact that is wanted there."""

    key: str  # dotted
    target: str
    wants: str = "model"
    or_wants: str = ""  # another type that will do


@dataclass(slots=True)
class Findings:
    """What is looked at, and the problems found so far."""

    pipeline: Pipeline
    places: Places
    unreadable: Mapping[str, str | None]
    problems: list[Problem] = field(default_factory=list)

    def add(
        self, code: str, message: str, key: str, help: str = "", severity: str = "error"
    ) -> None:
        """A problem at a dotted key of the file."""
        file, line = self.places.of(key)
        self.problems.append(Problem(code, message, key, file, line, help, severity))

    def produced(self) -> dict[str, str | None]:
        """Type of artifact by stage, in file order; None where the stage's kind is not known."""
        known: dict[str, str | None] = {
            name: stage.produces for name, stage in self.pipeline.stages.items()
        }
        for name, kind in self.unreadable.items():
            known[name] = STAGE_CLASSES[kind].produces if kind else None
        return known


def references(name: str, stage: StageBase, suites: Mapping[str, Suite]) -> Iterator[Reference]:
    """Every stage that this one names in a key that makes an edge."""
    prefix = f"stages.{name}"
    if isinstance(stage, WITH_DATA):
        yield Reference(f"{prefix}.model", stage.model)
        parts = {f"data.mix.{name}": part for name, part in stage.data.mix.items()}
        for key, part in (parts or {"data": stage.data}).items():
            if part.stage is not None:
                yield Reference(f"{prefix}.{key}.stage", part.stage, "dataset")
    if isinstance(stage, OnlineRlStage):
        critic = stage.algorithm.settings.get("critic")
        if isinstance(critic, str) and names_a_stage(critic):
            yield Reference(f"{prefix}.algorithm.critic", critic, or_wants="reward_models")
    if isinstance(stage, BestOfNStage):
        yield Reference(f"{prefix}.samples", stage.samples, "dataset")
    for key, kind in PLUGIN_KINDS.items():
        reward = getattr(stage, key, None) if kind == "reward" else None
        for named in reward_stages(reward) if reward is not None else ():
            yield Reference(join(prefix, key, *named.keys), named.stage, named.makes)
    if isinstance(stage, AverageStage):
        for key in ("pre", "post"):
            if getattr(stage, key) is not None:
                yield Reference(f"{prefix}.{key}", getattr(stage, key))
        if stage.samples.stage is not None:
            yield Reference(f"{prefix}.samples.stage", stage.samples.stage, "dataset")
    if isinstance(stage, AverageStage | EvaluateStage | OverOptimisationStage):
        for index, model in enumerate(stage.models or ()):
            yield Reference(f"{prefix}.models.{index}", model)
    use = asked_suite(stage, suites)
    suite = suites.get(use.use) if use is not None else None
    if use is not None and suite is not None and suite.tax_since is not None:
        yield Reference(f"suites.{use.use}.tax_since", suite.tax_since)


def resolve(findings: Findings, name: str, found: Iterator[Reference]) -> tuple[str, ...]:
    """Targets that exist and have the right type; the others become problems."""
    produced = findings.produced()
    targets: list[str] = []
    for reference in found:
        target = reference.target
        if target not in produced:
            if not reference.key.startswith("suites."):  # reported once, with its suite
                add_unknown(findings, name, reference, produced)
            continue
        if produced[target] not in (None, reference.wants, reference.or_wants or None):
            add_wrong_type(findings, reference, produced)
        elif target in findings.pipeline.stages and target not in targets:
            targets.append(target)
    return tuple(targets)


def _makers(produced: Mapping[str, str | None], wanted: str, but: str = "") -> list[str]:
    return [name for name, made in produced.items() if made == wanted and name != but]


def add_unknown(
    findings: Findings, name: str, reference: Reference, produced: Mapping[str, str | None]
) -> None:
    """Report a name that no stage has."""
    makers = _makers(produced, reference.wants, but=name)
    near = closest(reference.target, makers)
    wanted = _ARTICLES[reference.wants]
    there = f"stages that make {wanted}: {', '.join(makers)}" if makers else ""
    help = f"did you mean `{near}`?" if near else there or f"no stage here makes {wanted}"
    findings.add("unknown-stage", f"no stage `{reference.target}`", reference.key, help)


def add_wrong_type(
    findings: Findings, reference: Reference, produced: Mapping[str, str | None]
) -> None:
    """Report a stage that makes something else than is needed."""
    target = reference.target
    _, line = findings.places.of(f"stages.{target}")
    where = f" (line {line})" if line else ""
    made = _ARTICLES[str(produced[target])]
    wanted = _ARTICLES[reference.wants]
    message = f"needs {wanted}, `{target}`{where} makes {made}"
    makers = ", ".join(_makers(produced, reference.wants))
    help = f"stages that make {wanted}: {makers}" if makers else f"no stage here makes {wanted}"
    findings.add("wrong-reference", message, reference.key, help)
