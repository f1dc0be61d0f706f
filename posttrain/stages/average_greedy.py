"""The `average` stage as a greedy soup: all models are asked, the mean grows by those that help.

    models --> suite --> order, best first --> mean with the next one --> suite --> kept or left out

Decided is on the even-numbered questions of each task; gain and tax are told of the odd-numbered
ones, so that a model that was lucky is not praised for it. Every answer and every decision is in
soup.json as soon as it is known: a stage that was interrupted asks nothing twice. A mean is removed
when it was asked; the last one that was kept is made again, which is quicker than keeping all.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.averaging.soup import Tried, greedy
from posttrain.config.average import AverageStage
from posttrain.errors import StageFailed
from posttrain.files import write_json
from posttrain.model.folders import read_json
from posttrain.stages.average import average_folders, average_job
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import PluginRef
from posttrain.stages.measure import Measurement, points
from posttrain.stages.meter import SuiteMeter
from posttrain.stages.recommend import half_of
from posttrain.stages.statistics import difference
from posttrain.types import Interval

SOUP = "soup.json"
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the mean of some models can do; shares 0..1."""

    score: Interval  # gain on the questions that decide
    gain: Interval  # on the others
    tax: Interval | None  # on the others; None where the suite counts none

    def to_json(self) -> dict[str, Any]:
        tax = self.tax.as_dict() if self.tax is not None else None
        return {"score": self.score.as_dict(), "gain": self.gain.as_dict(), "tax": tax}

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> Asked:
        tax = Interval(**entry["tax"]) if entry["tax"] is not None else None
        return Asked(Interval(**entry["score"]), Interval(**entry["gain"]), tax)


@dataclass(slots=True)
class Kitchen:
    """Makes means of the stage's models, asks them, and writes down what came out."""

    stage: AverageStage
    method: PluginRef
    meter: SuiteMeter
    context: StageContext
    asked: dict[Names, Asked] = field(default_factory=dict)
    steps: list[tuple[str, Names, bool]] = field(default_factory=list)  # model, soup, kept
    _since: Measurement | None = None

    def ask(self, names: Names) -> float:
        """The score of the mean of some models, in their order; known ones are not asked again."""
        if names not in self.asked:
            if len(names) == 1:
                found = self._measured(self.context.inputs[names[0]].path, names[0])
            else:
                places = "-".join(str(self.stage.merged.index(name)) for name in names)
                folder = self.context.directory / "soups" / places
                self.make(names, folder)
                found = self._measured(str(folder), " + ".join(names))
                shutil.rmtree(folder)
            self.asked[names] = self._points(found)
            self.write()
        return self.asked[names].score.value

    def make(self, names: Names, target: Path) -> None:
        """The mean of some models; stored like the first of them."""
        self.context.tracker.event("averaging", text=f"the mean of {', '.join(names)} is made")
        whole = average_job(self.stage, self.method, self.stage.shares[0], self.context)
        folders = dict(whole.models)
        job = replace(whole, models=tuple((name, folders[name]) for name in names))
        self.context.launcher.call(average_folders, job, str(target))

    def record(self, tried: Tried) -> None:
        """One decision, as a step of the curves and in the file."""
        soup = tuple(self.stage.merged[model] for model in tried.soup)
        self.steps.append((self.stage.merged[tried.model], soup, tried.kept))
        self.write()
        found = self.asked[soup]
        values = {"score": found.score, "gain": found.gain, "tax": found.tax}
        metrics = {
            f"average/{name}_points": 100 * each.value
            for name, each in values.items()
            if each is not None
        }
        metrics["average/kept"] = float(tried.kept)
        self.context.tracker.log(metrics, step=len(self.steps) - 1)

    def write(self) -> None:
        """soup.json, whole at any time."""
        single = {names[0]: each for names, each in self.asked.items() if len(names) == 1}
        order = sorted(single, key=lambda name: -single[name].score.value)
        kept = [soup for _, soup, is_kept in self.steps if is_kept]
        document = {
            "schema": 1,
            "suite": self.meter.use,
            "asked": [
                {"models": list(names), **each.to_json()} for names, each in self.asked.items()
            ],
            "order": order,
            "steps": [
                {"model": model, "soup": list(soup), "kept": is_kept, **self.asked[soup].to_json()}
                for model, soup, is_kept in self.steps
            ],
            "chosen": list(kept[-1]) if kept else [],
        }
        write_json(self.context.directory / SOUP, document)

    def recall(self) -> None:
        """What an earlier attempt of this very stage has asked."""
        for entry in read_json(self.context.directory / SOUP).get("asked", ()):
            self.asked[tuple(entry["models"])] = Asked.from_json(entry)

    def _measured(self, folder: str, name: str) -> Measurement:
        self.context.tracker.event("asking", text=f"{name} is asked")
        return self.meter.measure(folder)

    def _points(self, found: Measurement) -> Asked:
        decides, told = half_of(found.tasks, 0), half_of(found.tasks, 1)
        score, gain = points(self.meter.suite.gain, decides), points(self.meter.suite.gain, told)
        if score is None or gain is None:
            raise StageFailed(
                f"`{self.meter.use}` gave no gain to compare models by",
                help="a task with a reward among the suite's `gain`",
            )
        kept, before = points(self.meter.suite.keep, told), self._kept_since()
        tax = difference(before, kept) if before is not None and kept is not None else None
        return Asked(score, gain, tax)

    def _kept_since(self) -> Interval | None:
        """What the model that the tax is counted from keeps; asked once, when it is wanted."""
        name = self.meter.suite.tax_since
        if name is None or not self.meter.suite.keep:
            return None
        if self._since is None:
            self._since = self._measured(self.context.inputs[name].path, name)
        return points(self.meter.suite.keep, half_of(self._since.tasks, 1))


def run(
    stage: AverageStage,
    method: PluginRef,
    meter: SuiteMeter,
    context: StageContext,
) -> str:
    """Write the soup and soup.json; returns "done"."""
    kitchen = Kitchen(stage, method, meter, context)
    kitchen.recall()
    shutil.rmtree(context.directory / "soups", ignore_errors=True)  # of an attempt that died
    alone = [kitchen.ask((name,)) for name in stage.merged]
    for tried in greedy(
        alone, lambda models: kitchen.ask(tuple(stage.merged[model] for model in models))
    ):
        kitchen.record(tried)
    chosen = next(soup for _, soup, kept in reversed(kitchen.steps) if kept)
    kitchen.make(chosen, context.directory / "model")
    return "done"
