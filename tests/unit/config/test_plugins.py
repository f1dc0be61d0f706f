"""Plug-ins: shipped ones, files, modules, their contracts and their settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from reward_examples import LEAST_SETTINGS

from posttrain.config.document import Places
from posttrain.config.plugins import (
    algorithm_mode,
    load_plugin,
    plugin_config,
    shipped,
    source_fingerprint,
)
from posttrain.errors import InputError

REWARD = """\
from posttrain.config.strict import StrictModel

class Config(StrictModel):
    tolerance: float = 0.5

def score(row, completion, config):
    return 1.0

def gold(config): return []
def bad(config): return []
"""


def refused(kind: str, name: str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_plugin(kind, name, **options)  # type: ignore[arg-type]
    return caught.value.problems[0].render()


def test_shipped_plugins_are_listed_without_importing_them() -> None:
    code = (
        "import sys; from posttrain.config.plugins import shipped; print(shipped('reward'));"
        "print([m for m in sys.modules if m.startswith('posttrain.rewards.')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, imported = ran.stdout.splitlines()
    assert "'arithmetic'" in names
    assert "'gsm8k'" in names
    assert imported == "[]"


@pytest.mark.parametrize("kind", ["algorithm", "reward", "averaging"])
def test_every_shipped_plugin_meets_its_contract(kind: str) -> None:
    for name in shipped(kind):
        module = load_plugin(kind, name)
        assert plugin_config(module, LEAST_SETTINGS.get(name, {})) is not None


def test_algorithms_are_online_or_offline() -> None:
    assert algorithm_mode(load_plugin("algorithm", "grpo")) == "online"
    assert algorithm_mode(load_plugin("algorithm", "sft")) == "offline"
    line = refused("algorithm", "sft", mode="online").splitlines()
    assert line[0] == (
        "error[wrong-algorithm]: `sft` is an offline algorithm, this stage needs an online one"
    )
    assert line[1].startswith("  help: online: ")
    assert "grpo" in line[1]


def test_a_file_is_a_plugin_and_runs_once_until_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(REWARD)
    first = load_plugin("reward", "./mine.py", tmp_path)
    assert first.__name__.startswith("posttrain_plugin_mine_")
    assert load_plugin("reward", str(file)) is first
    file.write_text(REWARD.replace("0.5", "0.25"))
    assert plugin_config(load_plugin("reward", str(file)), {}).tolerance == 0.25


def test_an_edit_that_keeps_size_and_time_counts_and_nothing_is_written_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "mine.py"
    for tolerance in ("0.5", "0.7"):
        file.write_text(REWARD.replace("0.5", tolerance))
        os.utime(file, (1e9, 1e9))
        assert plugin_config(load_plugin("reward", str(file)), {}).tolerance == float(tolerance)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_the_content_of_a_file_has_a_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(REWARD)
    before = source_fingerprint(str(file))
    file.write_text(REWARD + "\n")
    assert before is not None
    assert before != source_fingerprint(str(file))
    assert source_fingerprint("gsm8k") is None


def test_unknown_names_suggest_the_nearest(tmp_path: Path) -> None:
    assert refused("algorithm", "grop") == (
        "error[unknown-plugin]: no algorithm `grop`\n  help: did you mean `grpo`?"
    )
    (tmp_path / "my_reward.py").write_text(REWARD)
    assert refused("reward", "./my_rewrad.py", base_dir=tmp_path).splitlines()[1] == (
        "  help: did you mean `my_reward.py`?"
    )
    assert refused("reward", "no_such_package.mine") == (
        "error[unknown-plugin]: no module `no_such_package` for reward `no_such_package.mine`\n"
        "  help: install it, or give its file: ./no_such_package/mine.py"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = (\n", "error[plugin-broken] bad.py:1 (reward): not Python: '(' was never closed"),
        ("import os\n1 / 0\n", "error[plugin-broken] bad.py:2 (reward): raises ZeroDivisionError "
                               "when it is loaded: division by zero"),
        ("def score(): ...\n", "error[plugin-contract]: reward `./bad.py` has no `Config`, "
         "`gold`, `bad`"),
        ("Config = 3\ndef score(): ...\ndef gold(): ...\ndef bad(): ...\n",
         "error[plugin-contract]: reward `./bad.py`: `Config` is no configuration class"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text(source)
    assert refused("reward", "./bad.py").splitlines()[0] == expected


def test_settings_are_checked_against_the_plugins_own_config() -> None:
    module = load_plugin("algorithm", "grpo")
    places = Places({"stages.rlvr.algorithm.lrr": ("mine.yaml", 29)})
    with pytest.raises(InputError) as caught:
        plugin_config(
            module, {"lrr": 1, "clip_low": 2}, path="stages.rlvr.algorithm", places=places
        )
    assert sorted(problem.render() for problem in caught.value.problems) == [
        "error[bad-value] stages.rlvr.algorithm.clip_low: is 2, has to be less than 1",
        "error[unknown-key] mine.yaml:29 stages.rlvr.algorithm: no key `lrr`\n"
        "  help: did you mean `lr`?",
    ]


def test_importing_algorithms_needs_no_torch() -> None:
    code = (
        "import sys; from posttrain.config.plugins import *\n"
        "for kind in ('algorithm', 'reward', 'averaging'):\n"
        "    for name in shipped(kind): load_plugin(kind, name)\n"
        "heavy = ('torch', 'ray', 'vllm', 'transformers', 'datasets')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert ran.stdout == "[]\n"
