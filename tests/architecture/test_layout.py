"""What import-linter cannot see: plug-in folders, shipped files, light commands."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch", "ray", "vllm", "transformers", "trl", "datasets", "wandb", "peft", "openai", "lm_eval",
)  # fmt: skip
REWARDS_MAY_IMPORT = (
    "posttrain.config",
    "posttrain.reward",
    "posttrain.types",
    "posttrain.errors",
    "posttrain.microworld",
)


def modules_of(folder):
    """Those that others may name: what plug-ins share among them begins with `_`."""
    return sorted(p.stem for p in (ROOT / folder).glob("*.py") if not p.stem.startswith("_"))


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "posttrain":
                yield from (f"posttrain.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_package_is_shipped():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(config["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "posttrain").rglob("__init__.py")
    }
    assert found <= listed
    assert listed - found == {"posttrain.rewards", "posttrain.pipelines", "posttrain.configs"}


@pytest.mark.parametrize("package", sorted(p.parent for p in ROOT.glob("posttrain/*/__init__.py")))
def test_every_folder_says_what_lives_there_and_what_it_may_import(package):
    lines = ast.get_docstring(ast.parse((package / "__init__.py").read_text())).splitlines()
    assert len(lines[0]) > 20
    assert lines[-1].startswith("May import: ")


@pytest.mark.parametrize("name", modules_of("rewards"))
def test_a_reward_imports_only_what_rewards_may(name):
    ours = [m for m in imports_of(ROOT / "rewards" / f"{name}.py") if m.startswith("posttrain")]
    assert [m for m in ours if not m.startswith(REWARDS_MAY_IMPORT)] == []


@pytest.mark.parametrize("name", modules_of("rewards"))
def test_a_reward_fulfils_its_contract(name):
    from posttrain.config.plugins import CONTRACTS

    module = importlib.import_module(f"posttrain.rewards.{name}")
    assert [each for each in CONTRACTS["reward"] if not hasattr(module, each)] == []
    assert module.__doc__ and module.Config.__doc__


@pytest.mark.parametrize("name", modules_of("posttrain/algorithms"))
def test_an_algorithm_fulfils_one_of_the_two_contracts(name):
    from posttrain.config.field_sentences import sentences
    from posttrain.config.plugins import algorithm_mode

    module = importlib.import_module(f"posttrain.algorithms.{name}")
    assert algorithm_mode(module) in ("online", "offline")
    assert module.__doc__ and module.Config.__doc__
    assert set(module.Config.model_fields) - set(sentences(module.Config)) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["check", "quickstart"], ["status", "-h"]])
def test_light_commands_import_nothing_heavy(arguments, tmp_path):
    code = (
        "import sys\nfrom posttrain.cli import main\n"
        f"code = main({arguments!r})\n"
        f"print('heavy:', [m for m in {HEAVY!r} if m in sys.modules], code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert ran.stdout.splitlines()[-1] == "heavy: [] 0", ran.stderr


def test_nothing_names_a_machine_or_a_registry():
    words = ["/work" + "/", "/opt" + "/wheels", "pypi" + ".org", "/root" + "/"]
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split()
    hits = [
        (name, word)
        for name in tracked
        if (ROOT / name).is_file()
        for word in words
        if word in (ROOT / name).read_text(encoding="utf-8", errors="replace")
    ]
    assert hits == []
