"""Which values of a pipeline are files, and making them absolute: workers change directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.config.critic import is_folder
from posttrain.config.document import COMMAND_LINE, Places, join
from posttrain.config.keys import PLUGIN_KINDS
from posttrain.config.plugins import is_file_name
from posttrain.config.presets import shipped_folder
from posttrain.config.suggest import closest

DATA_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".csv")


def looks_like_a_file(value: str) -> bool:
    """Whether a path can only be meant as a file or folder here, not as a name on a hub."""
    return (
        value.startswith(("/", "./", "../", "~"))
        or value in (".", "..")
        or value.count("/") > 1
        or value.endswith((*DATA_SUFFIXES, ".json", ".gz", ".txt", ".yaml", ".jinja", ".py"))
    )


def absolute(value: str, folder: Path) -> str:
    """A file beside the YAML, or else below the current folder, as an absolute path.

    A name that is no file in either place stays as it is where it may be a hub name.
    """
    given = Path(value).expanduser()
    for start in (folder, Path.cwd()):
        if (start / given).exists():
            return str((start / given).resolve())
    return str((folder / given).absolute().resolve()) if looks_like_a_file(value) else value


def neighbour(path: str) -> str | None:
    """The file most like a missing one, in the same folder or in the nearest folder that exists."""
    missing = Path(path)
    parent = missing.parent
    while not parent.is_dir() and parent != parent.parent:
        missing, parent = parent, parent.parent
    try:
        beside = sorted(each.name for each in parent.iterdir())
    except OSError:  # a folder that may not be read has no suggestions to make
        return None
    near = closest(missing.name, beside)
    return str(parent / near) if near else None


def make_absolute(raw: dict[str, Any], places: Places, base_dir: Path) -> None:
    """Make every file in `raw` absolute, relative to the folder of the file that names it.

    Values of the command line and of shipped files are relative to the current folder.
    """
    for block, key, dotted in files_of(raw):
        value = block[key]
        if isinstance(value, str) and not value.startswith("microworld/"):
            block[key] = absolute(value, _folder(dotted, places, base_dir))


def _folder(dotted: str, places: Places, base_dir: Path) -> Path:
    file, _ = places.of(dotted)
    if file in ("", COMMAND_LINE):
        return Path.cwd()
    folder = (Path.cwd() / file).resolve().parent
    shipped = (shipped_folder("posttrain.pipelines"), shipped_folder())
    return Path.cwd() if any(folder.is_relative_to(each.resolve()) for each in shipped) else folder


def files_of(raw: Mapping[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    """(block, key, dotted key) of every value that may be a file."""
    for name, stage in _blocks(raw.get("stages")):
        prefix = f"stages.{name}"
        if stage.get("kind") == "model":
            yield from _present(stage, "path", prefix)
            if is_file_name(str(stage.get("chat_template", ""))):
                yield from _present(stage, "chat_template", prefix)
        yield from _of_block(stage, prefix)
    for name, suite in _blocks(raw.get("suites")):
        for task_name, task in _blocks(suite.get("tasks")):
            yield from _of_block(task, f"suites.{name}.tasks.{task_name}")
        if isinstance(harness := suite.get("lm_eval"), dict):
            yield from _present(harness, "tasks", f"suites.{name}.lm_eval")


def _of_block(block: dict[str, Any], prefix: str) -> Iterator[tuple[Any, Any, str]]:
    data = block.get("data")
    if isinstance(data, dict):
        yield from _present(data, "path", join(prefix, "data"))
        for name, part in _blocks(data.get("mix")):
            yield from _present(part, "path", join(prefix, "data", "mix", name))
    algorithm = block.get("algorithm")
    if isinstance(algorithm, dict) and is_folder(str(algorithm.get("critic", ""))):
        yield algorithm, "critic", join(prefix, "algorithm", "critic")
    for key, kind in PLUGIN_KINDS.items():
        plugin = block.get(key)
        if isinstance(plugin, dict) and is_file_name(str(plugin.get("name", ""))):
            yield from _present(plugin, "name", join(prefix, key))
        if isinstance(plugin, dict) and kind == "reward":
            yield from _python_files(plugin, join(prefix, key))


def _python_files(block: Any, prefix: str) -> Iterator[tuple[Any, Any, str]]:
    """Rewards inside a reward that is made of others, wherever it names them."""
    for key, value in block.items() if isinstance(block, dict) else enumerate(block):
        if isinstance(value, dict | list):
            yield from _python_files(value, join(prefix, key))
        elif isinstance(value, str) and value.endswith(".py"):
            yield block, key, join(prefix, key)


def _present(
    block: dict[str, Any], key: str, prefix: str
) -> Iterator[tuple[dict[str, Any], str, str]]:
    if key in block:
        yield block, key, join(prefix, key)


def _blocks(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, Mapping):
        for name, block in value.items():
            if isinstance(block, dict):
                yield str(name), block
