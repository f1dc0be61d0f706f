"""Finding plug-ins by name and holding them to their contracts.

A plug-in is one Python file: an algorithm, a reward, an averaging method or a selection. `grpo` is
one that ships, `./my_reward.py` a file of your own, `my_package.my_reward` an installed module.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from posttrain.config.document import Places, show_path
from posttrain.config.plugin import (
    Keys,
    NamedStage,
    Plugin,
    is_plugin,
    named_stages,
    nested_plugins,
    with_each_block,
)
from posttrain.config.suggest import closest, did_you_mean
from posttrain.errors import InputError, Problem

Kind = Literal["algorithm", "reward", "averaging", "selection"]
Mode = Literal["online", "offline"]

PACKAGES = {
    "algorithm": "posttrain.algorithms",
    "reward": "posttrain.rewards",
    "averaging": "posttrain.averaging",
    "selection": "posttrain.selection",
}
CONTRACTS: dict[str, tuple[str, ...]] = {
    "online": ("Config", "NEEDS", "advantages", "loss"),
    "offline": ("Config", "NEEDS", "objective"),
    "reward": ("Config", "score", "gold", "bad"),
    "averaging": ("Config", "NEEDS", "merge"),
    "selection": ("Config", "COLUMNS", "select"),
}
"""What a plug-in's file has to hold; algorithms are online or offline."""


@cache
def shipped(kind: str) -> Sequence[str]:
    """Names of the plug-ins that ship with posttrain, without importing any."""
    spec = importlib.util.find_spec(PACKAGES[kind])
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return sorted(
        path.stem
        for folder in folders
        for path in Path(folder).glob("*.py")
        if not path.stem.startswith("_") and _holds_config(path)
    )


def _holds_config(path: Path) -> bool:
    """Whether a file beside the plug-ins is one: it has a `Config`."""
    return "class Config" in path.read_text(encoding="utf-8")


def is_file_name(name: str) -> bool:
    """Whether a plug-in's name is a path to a file rather than a name or a module."""
    return name.endswith(".py") or "/" in name or name.startswith(("~", "."))


def load_plugin(
    kind: str, name: str, base_dir: str | Path | None = None, *, mode: Mode | None = None
) -> ModuleType:
    """The module of a plug-in, held to its contract.

    `mode` says which of the two contracts an algorithm has to fulfil; either will do without it.
    Relative files are looked for in `base_dir`, then in the current folder. Raises InputError where
    there is no such plug-in, where its file does not run, or where its contract is not met.
    """
    if is_file_name(name):
        module = _load_file(kind, _find_file(kind, name, base_dir))
    elif "." in name:
        module = _load_module(kind, name)
    elif name in shipped(kind):
        module = importlib.import_module(f"{PACKAGES[kind]}.{name}")
    else:
        help = did_you_mean(name, shipped(kind), "shipped:") or f"your own: ./{name}.py"
        raise InputError(Problem("unknown-plugin", f"no {_noun(kind)} `{name}`", help=help))
    _hold_to_contract(kind, name, module, mode)
    return module


def plugin_config(
    module: ModuleType, settings: Mapping[str, Any], *, path: str = "", places: Places | None = None
) -> Any:
    """The plug-in's own Config, filled from `settings`; what is not given gets its default.

    Raises InputError with one problem per setting that is unknown or wrong, placed below `path`.
    """
    try:
        return module.Config.model_validate(dict(settings))
    except ValidationError as error:
        # Here, not above: it knows the keys of all stages, and rewards' processes start without.
        from posttrain.config.wording import problems_of

        raise InputError(problems_of(error, module.Config, path, places or Places())) from error


def complete_settings(
    kind: str, plugin: Plugin, base_dir: str | Path | None, *, counted_only: bool = False
) -> dict[str, Any]:
    """All of a plug-in's settings as plain values, defaults included; of a reward that is made of
    others also theirs. `counted_only`: without those that its Config calls UNCOUNTED, because they
    change no number. Raises InputError as `load_plugin` and `plugin_config` do.
    """
    config = plugin_config(load_plugin(kind, plugin.name, base_dir), plugin.settings)
    settings: dict[str, Any] = config.model_dump(mode="json")
    for keys, part in nested_plugins(config):
        block: Any = settings
        for key in keys[:-1]:
            block = block[key]
        inner = complete_settings(kind, part, base_dir, counted_only=counted_only)
        block[keys[-1]] = {"name": part.name, "settings": inner}
    for key in getattr(config, "UNCOUNTED", ()) if counted_only else ():
        del settings[key]
    return settings


def with_parts(
    plugin: Plugin, base_dir: str | Path | None, *path: str | int
) -> Iterator[tuple[Keys, Plugin, ModuleType, Any]]:
    """(keys, plug-in, module, Config) of a reward, and of whatever it is made of, level by level.

    Raises InputError as `load_plugin` and `plugin_config` do.
    """
    module = load_plugin("reward", plugin.name, base_dir)
    config = plugin_config(module, plugin.settings, path=".".join(map(str, path)))
    yield path, plugin, module, config
    for keys, part in nested_plugins(config):
        yield from with_parts(part, base_dir, *path, *keys)


def reward_stages(reward: Plugin, base_dir: str | Path | None = None) -> list[NamedStage]:
    """The stages whose models judge in a reward or whose reward models score in it, with the keys
    below the reward. What cannot be loaded names none: `check` says what is wrong with it.
    """
    found = []
    try:
        for keys, _, _, config in with_parts(reward, base_dir):
            found += [replace(each, keys=(*keys, *each.keys)) for each in named_stages(config)]
    except InputError:
        pass
    return found


def baseline_columns(reward: Plugin, base_dir: str | Path | None = None) -> list[str]:
    """The columns with an answer of the row's own that a reward, or a part of it, scores beside the
    policy's, each once. What cannot be loaded names none.
    """
    found: list[str] = []
    with suppress(InputError):
        for *_, module, config in with_parts(reward, base_dir):
            if hasattr(module, "baseline_columns"):
                found += module.baseline_columns(config)
    return list(dict.fromkeys(found))


def fused_scores(reward: Plugin, base_dir: str | Path | None = None) -> list[tuple[str, int]]:
    """(stage, number of neighbours) of the reward models whose scores a reward, or a part of it,
    wants fused, each once. What cannot be loaded names none.
    """
    found: list[tuple[str, int]] = []
    with suppress(InputError):
        for *_, module, config in with_parts(reward, base_dir):
            if hasattr(module, "fused_scores"):
                found += module.fused_scores(config)
    return list(dict.fromkeys(found))


def algorithm_mode(module: ModuleType) -> Mode | None:
    """Whether an algorithm's file fulfils the online or the offline contract; None for neither."""
    for mode in ("online", "offline"):
        if all(hasattr(module, each) for each in CONTRACTS[mode]):
            return mode
    return None


def source_fingerprint(name: str) -> str | None:
    """Hash of a plug-in that is a file of the user's own; None for shipped ones and modules."""
    if not is_file_name(name):
        return None
    return hashlib.sha256(Path(name).expanduser().read_bytes()).hexdigest()[:16]


def labelled(value: Any) -> Any:
    """A setting in which plug-ins (`{name, settings}`) go by their labels."""
    return with_each_block(
        value,
        lambda block: block | {"name": plugin_label(block["name"])} if is_plugin(block) else block,
    )


def plugin_label(name: str) -> str:
    """A plug-in's name as it counts: a file of the user's own by name and content, not by place.

    Example: plugin_label("grpo") is "grpo", plugin_label("/home/me/mine.py") "mine@5c1f…".
    """
    source = source_fingerprint(name)
    return f"{Path(name).stem}@{source}" if source else name


def _noun(kind: str) -> str:
    return "averaging method" if kind == "averaging" else kind


def _find_file(kind: str, name: str, base_dir: str | Path | None) -> Path:
    given = Path(name).expanduser()
    folders = [Path(base_dir)] if base_dir else []
    for folder in [*folders, Path.cwd()]:
        if (folder / given).is_file():
            return (folder / given).resolve()
    folder = (folders[0] if folders else Path.cwd()) / given.parent
    beside = [each.name for each in folder.glob("*.py")] if folder.is_dir() else []
    near = closest(given.name, beside)
    help = (
        f"did you mean `{given.parent / near}`?" if near else f"shipped: {', '.join(shipped(kind))}"
    )
    raise InputError(Problem("missing-file", f"no file `{show_path(name)}`", help=help))


class _AsWritten(importlib.machinery.SourceFileLoader):
    """Compiles a file each time it is loaded.

    A `__pycache__` beside it would be believed after an edit that keeps size and second, and
    would lie in folders that hold what a run was given.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _load_file(kind: str, path: Path) -> ModuleType:
    """Run a file as a module under a name that is the same in every process."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    module_name = f"posttrain_plugin_{path.stem}_{digest}"
    source = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = sys.modules.get(module_name)
    if loaded is not None and getattr(loaded, "__source_sha256__", None) == source:
        return loaded
    loader = _AsWritten(module_name, str(path)) if path.suffix == ".py" else None
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader)
    if spec is None or spec.loader is None:
        raise InputError(
            Problem(
                "plugin-broken", "not a Python file", file=show_path(path), help="end it in .py"
            )
        )
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__source_sha256__"] = source
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # boundary: whatever it raises becomes a clear line
        del sys.modules[module_name]
        raise InputError(_broken(kind, path, error)) from error
    return module


def _load_module(kind: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        help = f"install it, or give its file: ./{name.replace('.', '/')}.py"
        raise InputError(
            Problem(
                "unknown-plugin", f"no module `{error.name}` for {_noun(kind)} `{name}`", help=help
            )
        ) from error
    except (Exception, SystemExit) as error:  # boundary: as for files
        raise InputError(
            Problem("plugin-broken", f"`{name}` raises {type(error).__name__}: {error}")
        ) from error


def line_in(path: str, error: BaseException) -> int | None:
    """The line of a file in which an error was raised, or passed through last."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == path), None)


def _broken(kind: str, path: Path, error: BaseException) -> Problem:
    if isinstance(error, SyntaxError):
        line, message = error.lineno, f"not Python: {error.msg}"
    else:
        line = line_in(str(path), error)
        said = f": {error}" if str(error) else ""
        message = f"raises {type(error).__name__} when it is loaded{said}"
    help = f"run it alone: python {show_path(path)}"
    return Problem("plugin-broken", message, f"({_noun(kind)})", show_path(path), line, help)


def _hold_to_contract(kind: str, name: str, module: ModuleType, mode: Mode | None) -> None:
    found = algorithm_mode(module) if kind == "algorithm" else None
    if kind == "algorithm" and mode is not None and found is not None and found != mode:
        message = f"`{name}` is an {found} algorithm, this stage needs an {mode} one"
        raise InputError(
            Problem("wrong-algorithm", message, help=f"{mode}: {', '.join(_with_mode(mode))}")
        )
    wanted = CONTRACTS[(mode or found or "online") if kind == "algorithm" else kind]
    missing = [each for each in wanted if not hasattr(module, each)]
    if hasattr(module, "score_many") and kind == "reward":
        missing = [each for each in missing if each != "score"]  # a batch stands for its answers
    if missing:
        message = f"{_noun(kind)} `{name}` has no {', '.join(f'`{each}`' for each in missing)}"
        help = f"its file has to hold {', '.join(wanted)}"
        if kind == "reward":
            help += "; `posttrain explain plugin-contract` shows one to copy"
        raise InputError(Problem("plugin-contract", message, help=help))
    config = module.Config
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        message = f"{_noun(kind)} `{name}`: `Config` is no configuration class"
        help = "class Config(StrictModel), from posttrain.config.strict"
        raise InputError(Problem("plugin-contract", message, help=help))


def offline_algorithms() -> list[tuple[str, ModuleType]]:
    """(name, module) of the shipped algorithms that train on rows."""
    return [
        (name, importlib.import_module(f"{PACKAGES['algorithm']}.{name}"))
        for name in _with_mode("offline")
    ]


def _with_mode(mode: Mode) -> list[str]:
    """Names of the shipped algorithms that fulfil one of the two contracts."""
    names = []
    for name in shipped("algorithm"):
        module = importlib.import_module(f"{PACKAGES['algorithm']}.{name}")
        if algorithm_mode(module) == mode:
            names.append(name)
    return names
