"""Filling in `${stages.rm.data}` and `${oc.env:HOME}`, each mistake reported at its own line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from posttrain.config.document import Places, join
from posttrain.config.suggest import closest_key
from posttrain.errors import Problem, ProblemList

_REFERENCE = re.compile(r"\$\{([^${}]+)\}")


def interpolate(raw: dict[str, Any], places: Places, problems: ProblemList) -> dict[str, Any]:
    """`raw` with every interpolation filled in; what cannot be is left out and reported."""
    found = [(path, value) for path, value in _leaves(raw, ()) if "${" in value]
    if not found:
        return raw  # OmegaConf takes a fifth of a second to import
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    whole = [(path, text) for path, text in found if _parses(path, text, raw, places, problems)]
    config = OmegaConf.create(raw)
    for path, text in whole:
        try:
            value = _read(config, path)
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
        except (OmegaConfBaseException, RecursionError) as error:
            problems.add(_problem(path, text, error, raw, places))
            _leave_out(raw, path)
            continue
        parent = _read(raw, path[:-1])
        parent[path[-1]] = value
    return raw


def _parses(
    path: tuple[Any, ...],
    text: str,
    raw: dict[str, Any],
    places: Places,
    problems: ProblemList,
) -> bool:
    """Whether an interpolation is complete; one that is not would spoil the whole file."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.create({"value": text})
    except OmegaConfBaseException:
        file, line = places.of(join(*path))
        message = f"`{text}` is no whole interpolation"
        help = "${stages.sft.data}, or \\${ for the characters themselves"
        problems.add(Problem("bad-interpolation", message, join(*path), file, line, help))
        _leave_out(raw, path)
        return False
    return True


def _leaves(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    elif isinstance(value, str):
        yield path, value


def _read(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _leave_out(raw: Any, path: tuple[Any, ...]) -> None:
    parent = _read(raw, path[:-1])
    if isinstance(parent, dict):
        del parent[path[-1]]
    else:
        parent[path[-1]] = ""  # other items of the list keep their numbers


def _problem(
    path: tuple[Any, ...], text: str, error: BaseException, raw: Mapping[str, Any], places: Places
) -> Problem:
    key = join(*path)
    file, line = places.of(key)
    wanted = next(iter(_REFERENCE.findall(text)), text)
    if isinstance(error, RecursionError) or "recursive" in str(error).lower():
        message, help = (
            f"`{text}` needs its own value",
            "write the value itself in one of the places",
        )
    elif wanted.startswith("oc.env:"):
        name = wanted.removeprefix("oc.env:")
        message, help = (
            f"`{text}`: the environment has no {name}",
            f"or: ${{oc.env:{name},default}}",
        )
    else:
        near = closest_key(wanted, list(_all_keys(raw, "")))
        message = f"`{text}` names nothing"
        help = (
            f"did you mean `${{{near}}}`?"
            if near
            else "a dotted key of this file: ${stages.sft.data}"
        )
    return Problem("bad-interpolation", message, key, file, line, help)


def _all_keys(value: Any, prefix: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield join(prefix, key)
            yield from _all_keys(item, join(prefix, key))
