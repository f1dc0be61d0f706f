"""What a run talks to: the hub and its cache. Only settings are looked at; nothing is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from posttrain.doctor.finding import Finding
from posttrain.doctor.storage import Space, read_space

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_TRUE = ("1", "on", "yes", "true")


@dataclass(frozen=True, slots=True)
class Cache:
    """The hub's cache on this machine."""

    space: Space
    num_models: int = 0
    num_data_sets: int = 0


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where the hub's client keeps what it loaded: HF_HUB_CACHE, HF_HOME/hub, or its default."""
    if own := environment.get("HF_HUB_CACHE"):
        return Path(own)
    if home := environment.get("HF_HOME"):
        return Path(home) / "hub"
    return Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def read_cache(environment: Mapping[str, str] = os.environ) -> Cache:
    """Counts folders, reads no file. Never raises."""
    folder = cache_folder(environment)
    try:
        names = os.listdir(folder.expanduser())
    except (OSError, RuntimeError):  # not there yet; no home
        names = []
    models = sum(name.startswith("models--") for name in names)
    data_sets = sum(name.startswith("datasets--") for name in names)
    return Cache(_space(folder), models, data_sets)


def _space(folder: Path) -> Space:
    try:
        return read_space(folder)
    except RuntimeError:  # `~` of somebody without a home
        return Space(folder, exists=False, writable=False)


def hub_findings(cache: Cache, environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """The hub's settings and its cache; of a proxy or a token only that there is one."""
    off = [name for name in OFFLINE if environment.get(name, "").lower() in _TRUE]
    proxy = next((name for name in PROXIES if environment.get(name)), "")
    held = f"{cache.num_models} models and {cache.num_data_sets} data sets in {cache.space.path}"
    if off:
        text = f"offline ({', '.join(off)}): only what is cached, {held}"
        empty = not cache.num_models and not cache.num_data_sets
        help = f"unset {' '.join(off)}   (or name local files only)" if empty else ""
        hub = Finding("hub", "watch" if empty else "ok", text, help)
    else:
        through = f" through {proxy}" if proxy else ""
        token = ", with a token" if environment.get("HF_TOKEN") else ""
        hub = Finding("hub", "ok", f"asked where a file names it{through}{token}; {held}")
    if cache.space.writable:
        return [hub]
    text = f"{cache.space.path} cannot be written: nothing can be loaded from the hub"
    return [hub, Finding("cache", "watch", text, "export HF_HOME=DIRECTORY")]


def wandb_finding(has_key: bool, mode: str = "auto") -> Finding:
    """`mode` is the pipeline's `wandb.mode`. The key itself is nobody's business."""
    if mode in ("offline", "disabled"):
        return Finding("W&B", "ok", mode)
    if has_key:
        return Finding("W&B", "ok", "a key is there: online")
    if mode == "online":
        help = "wandb login, or: posttrain run FILE wandb.mode=offline"
        return Finding("W&B", "act", "the file says online, and there is no key", help)
    return Finding("W&B", "ok", "no key: offline; everything is in the run folder")
