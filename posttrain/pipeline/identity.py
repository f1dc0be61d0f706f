"""Which stage is which: a hash of everything that changes its numbers, and of nothing else.

Same identity = already done. Counted: kind, plug-ins with all their settings, data and models by
content, inputs by their identities, batch, steps, seed, sampling, staleness, precision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config.answers import OverOptimisationStage
from posttrain.config.average import AnswerSamples, AverageStage
from posttrain.config.critic import is_folder
from posttrain.config.keys import PLUGIN_KINDS
from posttrain.config.pipeline import EvaluateStage, ModelStage
from posttrain.config.plugin import with_each_block
from posttrain.config.plugins import labelled, plugin_label, reward_stages
from posttrain.config.stage_base import StageBase
from posttrain.config.wording import show_value

UNCOUNTED = (
    # what people read, and what is done with the result afterwards
    "description",
    "gates",
    # where and how fast, not what
    "resources",
    "batch.tokens_per_micro_batch",
    "checkpoint_every",
    "logprob_check_every",
    *(
        f"{key}.{setting}"
        for key in ("reward", "scored_by", "gold")
        for setting in ("timeout_s", "processes", "process_memory_mb")
    ),
    "reference",
    # seen, never trained on
    "watch",
)
"""Dotted keys of a stage that are outside its identity."""

BY_CONTENT = (
    "path",
    "data.path",
    "data.name",
    "data.split",
    "data.revision",
    "data.mix",
    "data.decontaminate",
    "suite",
)
"""Dotted keys that say where something lies: a fingerprint of what lies there counts instead, and
of the parts of a mixture their names, their order and what else each says."""

INPUTS = ("model", "models", "pre", "post", "samples")
"""Keys that name stages: the identity of the stage counts in place of its name."""


def identity(
    *,
    stage: StageBase,
    plugins: Mapping[str, tuple[str, Mapping[str, Any]]],
    inputs: Mapping[str, str],
    data_fingerprints: Sequence[str],
    precision: str,
    seed: int,
    suite_fingerprint: str = "",
) -> str:
    """Ten hex digits of SHA-256 over everything that counts.

    `plugins` holds name and *complete* settings by kind, so that a default changed in code counts.
    `inputs` are the identities of the stages needed, by name; names themselves do not count, except
    where the result is by name. `seed` is the one that the stage gets.
    """
    config = stage.model_dump(mode="json")
    for key in INPUTS:
        if isinstance(config.get(key), str):
            config[key] = inputs[config[key]]
    if isinstance(stage, EvaluateStage | OverOptimisationStage):
        config["models"] = dict(inputs)
    if isinstance(stage, AverageStage):
        _name_averaged(config, stage, inputs)
    judges = _stages_that_judge(stage, inputs)
    if config.get("stop_at_members_std", 0) is None:  # stages without stay what they were
        del config["stop_at_members_std"]
    _name_data_stages(config.get("data") or {}, inputs)
    for kind, (name, settings) in plugins.items():
        key = "method" if kind == "averaging" else kind
        counted_settings = _with_content(settings, inputs, judges)
        config[key] = {**config[key], "settings": counted_settings, "name": plugin_label(name)}
    if isinstance(stage, ModelStage) and stage.path is not None:
        config["content"] = model_fingerprint(stage.path)
    if isinstance(stage, ModelStage) and Path(stage.chat_template or "").is_file():
        config["chat_template"] = plugin_label(str(stage.chat_template))
    mix = (config.get("data") or {}).get("mix")
    if mix:  # only then: identities of other stages stay what they were
        data_fingerprints = [*data_fingerprints, json.dumps(_parts_without_places(mix))]
    counted = _without(config, (*UNCOUNTED, *BY_CONTENT, "seed")) | {
        "data_fingerprints": list(data_fingerprints),
        "suite_fingerprint": suite_fingerprint,
        "precision": precision,
        "actual_seed": 0 if _is_read(stage) else seed,
    }
    canonical = json.dumps(counted, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def _is_read(stage: StageBase) -> bool:
    """A model that is there already is the same for all seeds, and so is what is made of it."""
    return isinstance(stage, ModelStage) and stage.path is not None and not stage.tiny


def _name_averaged(config: dict[str, Any], stage: AverageStage, inputs: Mapping[str, str]) -> None:
    """Identities of what is averaged; without a list or samples the keys say nothing."""
    config["models"] = [inputs[each] for each in stage.models or ()]
    samples = stage.samples
    config["samples"] |= {"stage": inputs[samples.stage] if samples.stage else None}
    if samples == AnswerSamples():
        config["samples"] = None
    if not stage.is_sweep:
        config["recommend"] = None
    config["suite"] = None  # its questions count, by their fingerprint
    for key in ("models", "weights", "greedy", "samples", "recommend", "suite"):
        if not config[key]:
            del config[key]


def _stages_that_judge(stage: StageBase, inputs: Mapping[str, str]) -> set[tuple[str, str]]:
    """(key, stage) of settings of the stage's rewards that name a stage."""
    rewards = [
        reward
        for key, kind in PLUGIN_KINDS.items()
        if kind == "reward" and key not in UNCOUNTED
        if (reward := getattr(stage, key, None)) is not None
    ]
    named = [each for reward in rewards for each in reward_stages(reward)]
    return {(str(each.keys[-1]), each.stage) for each in named if each.stage in inputs}


def _name_data_stages(data: dict[str, Any], inputs: Mapping[str, str]) -> None:
    """Of a stage whose rows are read the identity; without one the key says nothing."""
    for block in (data, *(data.get("mix") or {}).values()):
        stage = block.pop("stage", None)
        if stage is not None:
            block["stage"] = inputs[stage]


def _parts_without_places(mix: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, what counts beside the content), in order: rows are read part after part."""
    below = tuple(key.removeprefix("data.") for key in BY_CONTENT if key.startswith("data."))
    return [(name, _without(part, below)) for name, part in mix.items()]


def _with_content(
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    judges: Collection[tuple[str, str]] = (),
) -> dict[str, Any]:
    """A plug-in's settings; where `critic` names a stage or a folder, or a setting a stage that is
    in `judges` (key, stage), what is there counts, and of the parts of a reward what their own
    files hold.
    """

    def with_judge(block: dict[str, Any]) -> dict[str, Any]:
        changed = {key: inputs[stage] for key, stage in judges if block.get(key) == stage}
        return block | changed

    found: dict[str, Any] = labelled(with_each_block(settings, with_judge))
    critic = found.get("critic")
    if isinstance(critic, str) and critic in inputs:
        return {**found, "critic": inputs[critic]}
    if isinstance(critic, str) and is_folder(critic):
        return {**found, "critic": model_fingerprint(critic)}
    return found


def explain_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two resolved stage configurations: `algorithm.lr 1e-6 → 3e-7`.

    What is outside the identity is not named; of more than three differences, three. Empty where
    nothing differs: then it is the inputs or the content of the data.
    """
    before, after = (dict(_leaves(_without(config, UNCOUNTED))) for config in (old, new))
    parts = [
        f"{_as_written(key)} {_shown(before, key)} → {_shown(after, key)}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    orders = [list((config.get("data") or {}).get("mix") or {}) for config in (old, new)]
    if not parts and orders[0] != orders[1]:
        parts = [f"data.mix {', '.join(orders[0])} → {', '.join(orders[1])}"]
    more = [f"{len(parts) - 3} more"] if len(parts) > 3 else []
    return ", ".join(parts[:3] + more)


def model_fingerprint(path: str) -> str:
    """A model folder by its content, a hub name by itself.

    Small files count whole; of large ones (weights) the size and 65 blocks spread over them: enough
    to tell two trainings apart without reading hundreds of gigabytes.
    """
    folder = Path(path)
    if not folder.exists():
        return f"hub:{path}"
    files = sorted(each for each in folder.rglob("*") if each.is_file()) or [folder]
    total = hashlib.sha256()
    for file in files:
        if file.name.startswith(".") or file.suffix in (".md", ".png"):
            continue
        total.update(f"{file.relative_to(folder)}:{file.stat().st_size}:".encode())
        total.update(_sample(file))
    return total.hexdigest()[:16]


_BLOCK = 1 << 16


def _sample(file: Path) -> bytes:
    size = file.stat().st_size
    sampled = hashlib.sha256()
    with file.open("rb") as opened:
        if size <= 64 * _BLOCK:
            sampled.update(opened.read())
        else:
            for block in range(65):
                opened.seek(block * (size - _BLOCK) // 64)
                sampled.update(opened.read(_BLOCK))
    return sampled.digest()


def _without(config: Mapping[str, Any], dotted: tuple[str, ...]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key in dotted:
            continue
        below = tuple(each.partition(".")[2] for each in dotted if each.startswith(f"{key}."))
        result[key] = _without(value, below) if isinstance(value, Mapping) and below else value
    return result


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _as_written(key: str) -> str:
    """A plug-in's settings stand beside its name in a pipeline file."""
    return key.replace(".settings.", ".")


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return show_value(leaves[key]) if key in leaves else "(none)"
