"""The hub, its cache and W&B: settings only, and no secret."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from posttrain.doctor.finding import Finding
from posttrain.doctor.imports import import_findings
from posttrain.doctor.services import (
    Cache,
    cache_folder,
    hub_findings,
    read_cache,
    wandb_finding,
)
from posttrain.doctor.storage import Space

EMPTY, FULL = Cache(Space(Path("hub"))), Cache(Space(Path("hub")), 2, 1)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({}, "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/h/hub"),
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, "/c"),
    ],
)
def test_where_the_cache_is(environment: dict[str, str], folder: str) -> None:
    assert cache_folder(environment) == Path(folder)


def test_the_cache_is_counted(tmp_path: Path) -> None:
    for name in ("models--a--b", "models--c", "datasets--d", ".locks", "version.txt"):
        (tmp_path / name).mkdir()
    cache = read_cache({"HF_HUB_CACHE": str(tmp_path)})
    assert (cache.num_models, cache.num_data_sets, cache.space.writable) == (2, 1, True)
    assert read_cache({"HF_HUB_CACHE": str(tmp_path / "none")}).num_models == 0


@pytest.mark.parametrize(
    ("environment", "cache", "verdict", "begins"),
    [
        ({}, EMPTY, "ok", "asked where a file names it; 0 models"),
        ({"HF_HUB_OFFLINE": "0"}, EMPTY, "ok", "asked"),
        ({"HF_HUB_OFFLINE": "1"}, EMPTY, "watch", "offline (HF_HUB_OFFLINE): only what is cached"),
        ({"HF_HUB_OFFLINE": "TRUE"}, FULL, "ok", "offline (HF_HUB_OFFLINE)"),
        ({"TRANSFORMERS_OFFLINE": "1"}, FULL, "ok", "offline (TRANSFORMERS_OFFLINE)"),
    ],
)
def test_the_hub(environment: dict[str, str], cache: Cache, verdict: str, begins: str) -> None:
    (found,) = hub_findings(cache, environment)
    assert (found.verdict, found.text.startswith(begins)) == (verdict, True)


def test_no_secret_is_told() -> None:
    environment = {"HF_TOKEN": "hf_sesame", "HTTPS_PROXY": "http://me:sesame@proxy:1"}
    (found,) = hub_findings(EMPTY, environment)
    assert "through HTTPS_PROXY, with a token" in found.text
    assert "sesame" not in f"{found}"


def test_a_cache_that_cannot_be_written() -> None:
    found = hub_findings(Cache(Space(Path("hub"), writable=False)), {})
    assert [(each.name, each.verdict) for each in found] == [("hub", "ok"), ("cache", "watch")]


@pytest.mark.parametrize(
    ("has_key", "mode", "verdict"),
    [
        (True, "auto", "ok"),
        (False, "auto", "ok"),
        (False, "offline", "ok"),
        (True, "online", "ok"),
        (False, "online", "act"),
    ],
)
def test_wandb(has_key: bool, mode: str, verdict: str) -> None:
    assert wandb_finding(has_key, mode).verdict == verdict


def test_imports_are_tried_in_processes_of_their_own() -> None:
    programs = {
        "fine": "import sys; print('1.2')",
        "broken": "raise ImportError('no such symbol')",
        "silent": "import sys; sys.exit(3)",
        "slow": "import time; time.sleep(60)",
    }
    fine, broken, silent = import_findings({k: programs[k] for k in list(programs)[:3]}, 30.0)
    assert (fine.verdict, fine.text.startswith("fine 1.2, ")) == ("ok", True)
    help = f'{sys.executable} -c "import broken"'
    assert broken == Finding("import", "act", "broken: ImportError: no such symbol", help)
    assert silent.text == "silent: ends with 3"
    (slow,) = import_findings({"slow": programs["slow"]}, 0.2)
    assert (slow.verdict, slow.text) == ("act", "slow takes more than 0 s")
