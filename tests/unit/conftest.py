"""A folder with one sound pipeline to break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time: a red test is what somebody's change did. `deadline` is wall time, of
# which a busy machine takes any amount.
settings.register_profile(
    "ours", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ours")

SOUND = """\
name: mine
suites:
  abilities: {gain: [microworld/arithmetic], keep: [microworld/copy], tax_since: base}
stages:
  blank: {kind: model, from_scratch: micro}
  base: {kind: sft, model: blank, data: microworld/skills, steps: 10}
  sft: {kind: sft, model: base, data: microworld/arithmetic_worked, steps: 10}
  rlvr:
    kind: online_rl
    model: sft
    algorithm: {name: grpo, lr: 3e-4}
    reward: arithmetic
    data: microworld/arithmetic
    batch: {prompts: 32, samples_per_prompt: 8}
    steps: 60
    gates: [arithmetic > sft.arithmetic]
  average: {kind: average, pre: sft, post: rlvr}
  final: {kind: evaluate, models: [base, sft, rlvr, average], suite: abilities}
"""


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a micro model with random weights, the same for every module."""
    from posttrain.model.micro import build_micro

    folder = tmp_path_factory.mktemp("models") / "micro"
    build_micro(folder, seed=0)
    return folder


@pytest.fixture
def write_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`write_pipeline(old, new, ...)` writes mine.yaml with each `old` replaced, in the current
    folder.
    """
    monkeypatch.chdir(tmp_path)

    def write_file(*changes: str) -> str:
        text = SOUND
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the pipeline"
            text = text.replace(old, new)
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        return "mine.yaml"

    return write_file
