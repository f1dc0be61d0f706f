"""Overrides of the command line: `stages.rlvr.algorithm.lr=1e-5`.

They are set before presets are put underneath, so `cluster=laptop` and `stages.sft.uses=sft/small`
work like any other; whether a key means anything is known only once everything is in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from posttrain.config.document import COMMAND_LINE, Places, parse_value
from posttrain.config.keys import EXCLUSIVE, PLUGIN_KINDS, is_model, stage_class, unwrap
from posttrain.config.pipeline import Pipeline
from posttrain.config.plugin import Plugin
from posttrain.config.plugins import load_plugin
from posttrain.config.suggest import closest_key, did_you_mean
from posttrain.config.wording import show_value
from posttrain.errors import InputError, Problem, ProblemList


@dataclass(frozen=True, slots=True)
class Override:
    """One `key=value` as typed. Example: Override("seed", 3, "seed=3")"""

    key: str
    value: Any
    text: str


def parse_overrides(texts: Sequence[str], problems: ProblemList) -> list[Override]:
    """Overrides in the order given; what is none becomes a problem."""
    parsed = []
    for text in texts:
        key, equals, written = text.partition("=")
        if not equals or not all(key.strip().split(".")):
            help = "write key=value, without spaces: stages.rlvr.steps=20"
            problems.add(_problem("override-syntax", f"`{text}` is no override", help))
            continue
        try:
            parsed.append(Override(key.strip(), parse_value(written), text))
        except ValueError as error:
            help = "quote it for the shell: 'stages.final.models=[base, sft]'"
            problems.add(_problem("override-syntax", f"`{text}`: {error}", help))
    return parsed


def apply_overrides(
    raw: dict[str, Any], overrides: Sequence[Override], places: Places, problems: ProblemList
) -> list[Override]:
    """Set each override in `raw`; returns those that found their place."""
    applied = []
    for override in overrides:
        problem = _set(raw, override)
        if problem is not None:
            problems.add(problem)
            continue
        for key in [key for key in places.by_key if key.startswith(f"{override.key}.")]:
            del places.by_key[key]
        places.by_key[override.key] = (COMMAND_LINE, None)
        applied.append(override)
    return applied


def refuse_unknown(
    raw: dict[str, Any], overrides: Sequence[Override], places: Places, problems: ProblemList
) -> None:
    """Report overrides whose key means nothing, and take them out of the finished `raw`."""
    known = dict(known_keys(raw)) if overrides else {}
    for override in overrides:
        if _means_something(override.key, known):
            continue
        _remove(raw, override.key.split("."))
        near = closest_key(override.key, known)
        help = _suggest(near, override, raw, places) if near else ""
        problems.add(_problem("override-path", f"`{override.text}` sets nothing", help))


def known_keys(raw: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Every dotted key that could be set in this pipeline, settings of its plug-ins included.

    The second value says whether more keys of any name may follow below (`data.columns`).
    """
    yield "cluster.uses", False
    for key, field in Pipeline.model_fields.items():
        if key not in ("stages", "suites"):
            yield from _below(key, unwrap(field.annotation), raw.get(key))
    suite = get_args(Pipeline.model_fields["suites"].annotation)[1]
    for name, value in _items(raw.get("suites")):
        yield from _below(f"suites.{name}", suite, value)
    for name, value in _items(raw.get("stages")):
        model = stage_class(value)
        yield f"stages.{name}.uses", True
        yield from _below(f"stages.{name}", model, value) if model else [(f"stages.{name}", True)]


def _problem(code: str, message: str, help: str) -> Problem:
    return Problem(code, message, file=COMMAND_LINE, help=help)


def _set(raw: dict[str, Any], override: Override) -> Problem | None:
    """Set one value; a problem where a key on the way is missing or holds no keys."""
    *parents, leaf = override.key.split(".")
    here: Any = raw
    nothing = f"`{override.text}` sets nothing"
    if parents[:1] in (["stages"], ["suites"]):
        there = raw.get(parents[0])
        name = override.key.split(".")[1]
        is_new = isinstance(there, Mapping) and name not in there
        if is_new and not (len(parents) == 1 and isinstance(override.value, Mapping)):
            help = did_you_mean(name, there or (), f"{parents[0]} here:")
            noun = parents[0].removesuffix("s")
            return _problem("override-path", f"{nothing}: no {noun} `{name}`", help)
    for depth, key in enumerate(parents):
        below = _step(here, key)
        if below is None and isinstance(here, dict):
            below = here[key] = {}
        if not isinstance(below, dict | list):
            above = ".".join(parents[: depth + 1])
            help = f"override `{above}` itself" if below is not None else ""
            message = f"{nothing}: `{above}` is {show_value(below)}, without keys below it"
            return _problem("override-path", message, help)
        here = below
    if isinstance(here, dict):
        for other in EXCLUSIVE.get(leaf, ()):
            here.pop(other, None)
        here[leaf] = override.value
    elif leaf.isdigit() and int(leaf) < len(here):
        here[int(leaf)] = override.value
    else:
        message = f"{nothing}: `{'.'.join(parents)}` is a list of {len(here)}"
        return _problem("override-path", message, "override the whole list: key=[a,b]")
    return None


def _step(here: Any, key: str) -> Any:
    if isinstance(here, dict):
        return here.get(key)
    return here[int(key)] if key.isdigit() and int(key) < len(here) else None


def _remove(raw: Any, keys: list[str]) -> None:
    for key in keys[:-1]:
        raw = raw.get(key) if isinstance(raw, dict) else None
    if isinstance(raw, dict):
        raw.pop(keys[-1], None)


def _means_something(key: str, known: Mapping[str, bool]) -> bool:
    if key in known or any(each.startswith(f"{key}.") for each in known):
        return True
    parts = key.split(".")
    return any(known.get(".".join(parts[:depth])) for depth in range(1, len(parts)))


def _suggest(near: str, override: Override, raw: Mapping[str, Any], places: Places) -> str:
    here: Any = raw
    for key in near.split("."):
        here = _step(here, key) if isinstance(here, dict | list) else None
    now = f" (now {show_value(here)}, from {places.shown(near)})" if here is not None else ""
    return f"did you mean `{near}={override.text.partition('=')[2]}`?{now}"


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    return iter(value.items()) if isinstance(value, Mapping) else iter(())


def _below(prefix: str, annotation: Any, value: Any) -> Iterator[tuple[str, bool]]:
    if is_model(annotation) and issubclass(annotation, Plugin):
        yield from _plugin_keys(prefix, annotation, value)
    elif is_model(annotation):
        for key, field in annotation.model_fields.items():
            below = value.get(key) if isinstance(value, Mapping) else None
            yield from _below(f"{prefix}.{key}", unwrap(field.annotation), below)
    elif get_origin(annotation) is dict and is_model(unwrap(get_args(annotation)[1])):
        for key, item in _items(value):
            yield from _below(f"{prefix}.{key}", unwrap(get_args(annotation)[1]), item)
    else:
        yield prefix, get_origin(annotation) in (dict, list)


def _plugin_keys(prefix: str, annotation: type[Plugin], value: Any) -> Iterator[tuple[str, bool]]:
    for key in annotation.model_fields:
        if key != "settings":
            yield f"{prefix}.{key}", False
    kind = PLUGIN_KINDS.get(prefix.rpartition(".")[2])
    name = value.get("name") if isinstance(value, Mapping) else None
    if kind is None or not isinstance(name, str):
        return
    try:
        module = load_plugin(kind, name)
    except InputError:
        yield prefix, True  # reported where the plug-in itself is checked
        return
    for key in module.Config.model_fields:
        yield f"{prefix}.{key}", False
