"""Where each result came from, and what it was made with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.track.views import RunView, StageView


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows that overlap with questions: `text` says it in a line, the rest with examples."""

    text: str
    rows: Sequence[tuple[str, str, str, str, str]]  # source, task, rows, first prompt, question


@dataclass(frozen=True, slots=True)
class Origin:
    """One stage's result: what went in, and the command that makes it again."""

    stage: StageView
    result: str
    inputs: Sequence[tuple[str, str]]  # stage, identity
    data: Sequence[tuple[str, str, str]]  # path, fingerprint, rows
    left_out: LeftOut | None
    seed: str
    command: str


def lineage(view: RunView) -> list[Origin]:
    """Every stage that has started."""
    return [_origin(stage) for stage in view.stages if stage.manifest]


def _origin(stage: StageView) -> Origin:
    manifest = stage.manifest
    artifact = stage.artifact or {}
    path = artifact.get("path", "")
    result = f"{artifact.get('type')} in {stage.name}/{stage.identity}/{path}" if artifact else ""
    seed = manifest.get("seed")
    return Origin(
        stage,
        result,
        [(str(name), str(identity)) for name, identity in (manifest.get("inputs") or {}).items()],
        [
            (str(data.get("path", "")), str(data.get("fingerprint", "")), str(data.get("rows", "")))
            for data in manifest.get("data") or ()
        ],
        _left_out(stage),
        "" if seed is None else str(seed),
        str(manifest.get("command") or ""),
    )


def _left_out(stage: StageView) -> LeftOut | None:
    try:
        report = json.loads((stage.directory / "decontamination.json").read_text("utf-8"))
        rows = [
            (source, task, str(found["rows"]), first.get("prompt", ""), first.get("question", ""))
            for source, counted in report["sources"].items()
            for task, found in counted["tasks"].items()
            for first in (found["examples"] or [{}])[:1]
        ]
        return LeftOut(str(report["text"]), rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing, or half there
        return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Machine, versions, and the resolved configuration as text."""

    facts: Sequence[tuple[str, str]]
    pipeline: str
    configs: Sequence[tuple[str, str, str]]  # stage, why it ran, YAML


def environment(view: RunView) -> Surroundings:
    """As recorded by the run; nothing is read from this machine."""
    manifests = [stage.manifest for stage in view.stages if stage.manifest]
    versions = _merged(manifests, "versions")
    git = _merged(manifests, "git")
    facts = [("command", view.command), ("host", view.host), ("run", view.run_id)]
    if git:
        dirty = " with changes not committed" if git.get("dirty") else ""
        facts.append(("git", f"{git.get('commit', '')}{dirty}"))
    facts += [(str(name), str(version)) for name, version in versions.items()]
    configs = [
        (stage.name, stage.why, text)
        for stage in view.stages
        if (text := _text(view, f"{stage.name}/{stage.identity}/config.yaml"))
    ]
    return Surroundings(
        [(name, value) for name, value in facts if value], _text(view, "pipeline.yaml"), configs
    )


def _merged(manifests: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for manifest in manifests:
        merged |= manifest.get(key) or {}
    return merged


def _text(view: RunView, path: str) -> str:
    try:
        return (view.directory / path).read_text("utf-8")
    except OSError:
        return ""
