"""How a stage's W&B run is called, whether it is online, what of a configuration it may see."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from posttrain.config.pipeline import WandbSettings
from posttrain.types import Artifact

Mode = Literal["online", "offline", "disabled"]

DEFAULT_SERVERS = ("https://api.wandb.ai", "https://api.forge.coreweave.com")
_SECRET_KEY = re.compile(
    r"(api_?key|secret|password|passwd|credentials?|access_?key|_token)$", re.I
)
_URL_WITH_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")


def resolve_mode(settings: WandbSettings) -> Mode:
    """`auto` is online where a key is found (WANDB_API_KEY or netrc) and offline elsewhere."""
    if settings.mode != "auto":
        return settings.mode
    return "online" if has_key() else "offline"


def has_key() -> bool:
    """Whether this machine can log in. The key itself is not read by us any further."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    own = os.environ.get("WANDB_BASE_URL")
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        hosts = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any(urlsplit(server).netloc in hosts for server in ((own,) if own else DEFAULT_SERVERS))


def without_secrets(value: Any) -> Any:
    """A configuration as W&B may see it: values of keys that name a secret are hidden."""
    if isinstance(value, Mapping):
        return {
            str(key): "(hidden)"
            if isinstance(item, str) and _SECRET_KEY.search(str(key))
            else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if isinstance(value, str):
        return _URL_WITH_PASSWORD.sub("(hidden)@", value)
    return value


@dataclass(frozen=True, slots=True)
class WandbPlan:
    """Which W&B run a stage logs to, and what it says of itself.

    Example: WandbPlan(Path("runs/quickstart"), "quickstart", "20261120-0912", "rlvr", "online_rl",
    "4f1c9a2e", WandbSettings(), {"steps": 60})
    """

    run_directory: Path
    run_name: str  # the pipeline's: `quickstart`; W&B's group
    run_id: str  # of the run folder: the same for every stage and every resume
    stage: str
    kind: str
    identity: str
    settings: WandbSettings
    config: Mapping[str, Any] = field(default_factory=dict)  # the stage's resolved configuration
    tags: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)  # stage -> identity

    @property
    def id(self) -> str:
        """The W&B run id: a resume of the same stage goes on in the same W&B run."""
        return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{self.run_id}-{self.stage}-{self.identity}")

    def result_of(self, stage: str, identity: str) -> Artifact | None:
        """What a stage of this run left behind, where it is there: a model, or measurements."""
        folder = self.run_directory / stage / identity
        if (folder / "model").is_dir():
            return Artifact("model", stage, identity, str((folder / "model").resolve()))
        if (folder / "measurements.json").is_file():
            path = str((folder / "measurements.json").resolve())
            return Artifact("measurements", stage, identity, path)
        return None
