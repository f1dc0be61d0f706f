"""Where the harness's tasks are defined, found without importing it.

Its own index reads 14,000 YAML files and takes 17 s on one core. Looking for one key in their text
takes 1.7 s, and then only the folders of the tasks that are asked have to be read as YAML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from posttrain.errors import Problem

PACKAGE = "lm_eval"
_NAMED = re.compile(
    r"""^["']?(?:task|group)["']?:[ \t]*["']?([^\s"'#\[\]{}]+)["']?[ \t]*(?:#.*)?$""", re.MULTILINE
)


def is_installed() -> bool:
    """Whether the harness can be imported; does not import it."""
    return find_spec(PACKAGE) is not None


def installed_version() -> str:
    """Of the harness: its tasks change from one to the next. "" where it is not installed."""
    return version(PACKAGE) if is_installed() else ""


def not_installed(task: str) -> Problem:
    """That the harness is not there, for want of which a task cannot be asked."""
    message = f"`{task}` is asked by the lm-evaluation-harness, which is not installed"
    return Problem("no-lm-eval", message, help="pip install 'posttrain[lm-eval]'")


def shipped_folder() -> Path:
    """The folder of the tasks that come with the harness, which has to be installed."""
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def defined_in(folder: Path) -> dict[str, Path]:
    """Name -> YAML file of the tasks and groups that files in a folder, or below it, name.

    Names that a file takes from another one that it includes are not seen.
    """
    found: dict[str, Path] = {}
    for file in yaml_files(folder):
        for name in _NAMED.findall(file.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(name, file)
    return found


def yaml_files(folder: Path) -> Iterator[Path]:
    """All `.yaml` files in a folder and below it, sorted."""
    for here, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(here, each) for each in sorted(files) if each.endswith(".yaml"))


def families(files: list[Path], root: Path) -> list[Path]:
    """The folders right below `root` that hold these files, each once.

    Example: of root/mmlu/default/a.yaml and root/mmlu/b.yaml: [root/mmlu].
    """
    return list(dict.fromkeys(root / each.relative_to(root).parts[0] for each in files))
