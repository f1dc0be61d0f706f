"""Presets: plain pieces of a stage or cluster, put under what the file itself says.

`uses: sft/pretrain` is configs/sft/pretrain.yaml, `uses: ./mine.yaml` a file of your own, a list is
read left to right. Every value keeps the place of the file it came from.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.config.document import Places, join, read_document
from posttrain.config.keys import EXCLUSIVE, SHORT_FORMS
from posttrain.config.suggest import closest, did_you_mean
from posttrain.errors import InputError, Problem, ProblemList

PACKAGE = "posttrain.configs"


def shipped_folder(package: str = PACKAGE) -> Path:
    """The folder of a package that holds YAML files (posttrain.configs, posttrain.pipelines)."""
    spec = importlib.util.find_spec(package)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0]) if locations else Path(__file__).parent / "absent"


def shipped_presets() -> list[str]:
    """`cluster/laptop`, `sft/pretrain`, ..."""
    folder = shipped_folder()
    return sorted(f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.yaml"))


def expand_short_forms(block: dict[str, Any], prefix: str, places: Places) -> None:
    """Write out `data: x` as `data: {path: x}` and the like, in place. Interpolations stay."""
    for key, name in SHORT_FORMS.items():
        value = block.get(key)
        is_short = isinstance(value, int) if name == "max" else isinstance(value, str)
        if is_short and not isinstance(value, bool) and "${" not in str(value):
            block[key] = {name: value}
            places.by_key[join(prefix, key, name)] = places.of(join(prefix, key))
        elif isinstance(value, dict) and isinstance(value.get("settings"), dict):
            settings = value.pop("settings")
            block[key] = value | settings
            for setting in settings:
                written = places.of(join(prefix, key, "settings", setting))
                places.by_key[join(prefix, key, setting)] = written
    data = block.get("data")
    mix = data.get("mix") if isinstance(data, dict) else None
    parts: dict[str, Any] = mix if isinstance(mix, dict) else {}
    for part, value in parts.items():
        if isinstance(value, str) and "${" not in value:
            parts[part] = {"path": value}
            written = places.of(join(prefix, "data", "mix", part))
            places.by_key[join(prefix, "data", "mix", part, "path")] = written


@dataclass(slots=True)
class PresetExpander:
    """Puts presets under blocks and collects what is wrong with them.

    `folder` stands before bare names: in `cluster`, `laptop` is `cluster/laptop`.
    """

    problems: ProblemList
    folder: str = ""

    def expand(
        self,
        block: Mapping[str, Any],
        prefix: str,
        base_dir: Path,
        places: Places,
        open_presets: tuple[Path, ...] = (),
    ) -> dict[str, Any]:
        """The block at the dotted key `prefix` with its presets under it.

        Preset files are looked for beside the file they are named in (`base_dir`), then in the
        current folder. `places` gains the places of what the presets set.
        """
        own = {key: value for key, value in block.items() if key != "uses"}
        expand_short_forms(own, prefix, places)
        names = block.get("uses") or []
        below: dict[str, Any] = {}
        below_places = Places()
        for index, name in enumerate(names if isinstance(names, list) else [names]):
            key = join(prefix, "uses", index) if isinstance(names, list) else join(prefix, "uses")
            try:
                path = self._find(str(name), base_dir)
                if path in open_presets:
                    raise InputError(Problem("preset-cycle", f"`{name}` uses itself"))
                document = read_document(path)
                if not isinstance(document.data, dict):
                    raise InputError(Problem("bad-preset", f"`{name}` holds no keys"))
            except InputError as error:
                self._add_at(error, places.of(key), key)
                continue
            self.problems.problems += document.problems
            preset = document.places.below(prefix)
            piece = self.expand(document.data, prefix, path.parent, preset, (*open_presets, path))
            below = merge(below, piece)
            below_places.by_key |= preset.by_key
        places.by_key = below_places.by_key | places.by_key
        return merge(below, own)

    def _add_at(self, error: InputError, place: tuple[str, int | None], key: str) -> None:
        file, line = place
        for problem in error.problems:
            known = bool(problem.file)
            self.problems.add(
                problem if known else replace(problem, path=key, file=file, line=line)
            )

    def _find(self, name: str, base_dir: Path) -> Path:
        if name.endswith((".yaml", ".yml")) or name.startswith((".", "/", "~")):
            return _find_file(name, base_dir)
        known = shipped_presets()
        full = f"{self.folder}/{name}" if self.folder and "/" not in name else name
        if full in known:
            return shipped_folder() / f"{full}.yaml"
        if self.folder:
            known = [e.partition("/")[2] for e in known if e.startswith(f"{self.folder}/")]
        what = f"{self.folder} preset".strip()
        help = did_you_mean(name, known)
        raise InputError(Problem("unknown-preset", f"no {what} `{name}`", help=help))


def _find_file(name: str, base_dir: Path) -> Path:
    given = Path(name).expanduser()
    for start in (base_dir, Path.cwd()):
        if (start / given).is_file():
            return start / given
    near = closest(given.name, [path.name for path in (base_dir / given).parent.glob("*.y*ml")])
    help = f"did you mean `{given.with_name(near)}`?" if near else ""
    raise InputError(Problem("missing-file", f"no preset file `{name}`", help=help))


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two blocks as one, `above` winning key by key (`steps` also over `epochs`).

    Where `above` names another plug-in, data set or suite than `below`, nothing of that is kept:
    the settings of ppo mean nothing to grpo.
    """
    replaced = {other for key in above for other in EXCLUSIVE.get(key, ())}
    merged = {key: value for key, value in below.items() if key not in replaced}
    for key, value in above.items():
        under = merged.get(key)
        if not (isinstance(value, Mapping) and isinstance(under, Mapping)):
            merged[key] = value
            continue
        merged[key] = dict(value) if _is_another(key, value, under) else merge(under, value)
    return merged


def _is_another(key: str, above: Mapping[str, Any], below: Mapping[str, Any]) -> bool:
    """Whether two blocks under a key are about different things, by their names."""
    name = SHORT_FORMS.get(key, "max")
    if name == "max":
        return False
    if ("mix" in above and name in below) or (name in above and "mix" in below):
        return True  # a mixture over a data set, or the other way round
    return name in above and above[name] != below.get(name, above[name])
