"""What of this machine's files travels with a pipeline, and what does not."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from posttrain.config.document import Places
from posttrain.config.load import load_pipeline
from posttrain.config.own_files import (
    LIMIT_BYTES,
    OwnFile,
    gather,
    is_own_file,
    pack,
    places_of,
    too_much,
)
from posttrain.errors import InputError

Write = Callable[..., str]


@pytest.mark.parametrize(
    ("paths", "places"),
    [
        (set(), {}),
        ({"/me/r.py"}, {"/me/r.py": "files/r.py"}),
        (
            {"/me/run/r.py", "/me/data/x.csv"},
            {"/me/run/r.py": "files/run/r.py", "/me/data/x.csv": "files/data/x.csv"},
        ),
        ({"/a/r.py", "/b/r.py"}, {"/a/r.py": "files/a/r.py", "/b/r.py": "files/b/r.py"}),
        (  # a folder, and a file in it
            {"/me/model", "/me/model/chat.jinja"},
            {"/me/model": "files/model", "/me/model/chat.jinja": "files/model/chat.jinja"},
        ),
    ],
)
def test_files_keep_their_names_and_how_they_lie_to_one_another(paths, places) -> None:
    assert places_of(paths) == places


@pytest.mark.parametrize(
    ("value", "own"),
    [
        ("/me/r.py", True),
        ("/shared/rows.jsonl", False),
        ("/shared_not/rows.jsonl", True),
        ("meta/llama", False),
        ("microworld/copy", False),
        (None, False),
        (["gsm8k"], False),
    ],
)
def test_own_are_files_here_that_no_shared_folder_holds(value, own) -> None:
    assert is_own_file(value, [Path("/shared")]) is own


@pytest.fixture
def file(write_pipeline: Write, tmp_path: Path) -> str:
    """A pipeline with a reward, rows and a preset of its own, beside a file that it does not name.

    The reward of a part is a file of another folder.
    """
    (tmp_path / "my_reward.py").write_text("# mine")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1="}\n')
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "length.py").write_text("# a part")
    (tmp_path / "mine_rl.yaml").write_text("sampling: {max_new_tokens: 9}\n")
    (tmp_path / "unrelated.bin").write_bytes(bytes(100))
    return write_pipeline(
        "    reward: arithmetic\n    data: microworld/arithmetic\n",
        "    uses: ./mine_rl.yaml\n"
        "    reward: {combine: ./my_reward.py, rewards: {a: {name: ./parts/length.py}}}\n"
        "    data: ./rows.jsonl\n",
    )


def test_just_the_files_that_the_graph_names_are_packed(file: str, tmp_path: Path) -> None:
    loaded = load_pipeline(file, ["stages.rlvr.steps=7"])
    pack(gather(loaded.raw), "mine.yaml", loaded.places, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [
            "mine.yaml",
            "files/my_reward.py",
            "files/parts/length.py",
            "files/rows.jsonl",
        ]
        assert archive.read("files/parts/length.py") == b"# a part"
        rlvr = yaml.safe_load(archive.read("mine.yaml"))["stages"]["rlvr"]
    assert rlvr["data"]["path"] == "./files/rows.jsonl"
    assert rlvr["reward"]["combine"] == "./files/my_reward.py"
    assert rlvr["reward"]["rewards"]["a"]["name"] == "./files/parts/length.py"
    assert (rlvr["steps"], rlvr["sampling"]["max_new_tokens"]) == (7, 9)
    assert "uses" not in rlvr


def test_the_archive_means_the_same_elsewhere(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_pipeline(file)
    pack(gather(loaded.raw), "mine.yaml", loaded.places, tmp_path / "a.zip")
    elsewhere = tmp_path / "node"
    zipfile.ZipFile(tmp_path / "a.zip").extractall(elsewhere)
    for each in ("my_reward.py", "rows.jsonl", "mine_rl.yaml"):
        (tmp_path / each).unlink()
    monkeypatch.chdir("/")
    there = load_pipeline(str(elsewhere / "mine.yaml"))
    assert there.problems == ()
    assert there.raw["stages"]["rlvr"]["data"]["path"] == str(elsewhere / "files/rows.jsonl")
    before, after = (
        {name: stage.model_dump(exclude={"data", "reward"}) for name, stage in each.stages.items()}
        for each in (loaded.pipeline, there.pipeline)
    )
    assert after == before


def test_the_same_files_make_the_same_archive(file: str, tmp_path: Path) -> None:
    made = []
    for name in ("a.zip", "b.zip"):
        loaded = load_pipeline(file)
        pack(gather(loaded.raw), "mine.yaml", loaded.places, tmp_path / name)
        made.append((tmp_path / name).read_bytes())
        (tmp_path / "rows.jsonl").touch()
    assert made[0] == made[1]


def test_loading_is_left_as_it_was(file: str) -> None:
    loaded = load_pipeline(file)
    before = yaml.safe_dump(dict(loaded.raw))
    gather(loaded.raw)
    assert yaml.safe_dump(dict(loaded.raw)) == before


def test_a_shared_folder_stays_where_it_is(file: str, tmp_path: Path) -> None:
    luggage = gather(load_pipeline(file).raw, [tmp_path / "parts"])
    assert [each.place for each in luggage.files] == ["files/my_reward.py", "files/rows.jsonl"]
    reward = luggage.raw["stages"]["rlvr"]["reward"]
    assert reward["rewards"]["a"]["name"] == str(tmp_path / "parts" / "length.py")


def test_a_folder_travels_whole(write_pipeline: Write, tmp_path: Path) -> None:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "deep" / ".weights").write_text("w")
    luggage = gather(load_pipeline(write_pipeline("from_scratch: micro", "path: ./model")).raw)
    assert luggage.raw["stages"]["blank"]["path"] == "./files/model"
    assert [each.place for each in luggage.files] == [
        "files/model/config.json",
        "files/model/deep/.weights",
    ]


def test_too_much_names_the_largest_file() -> None:
    small = OwnFile(Path("/me/r.py"), "files/r.py", "stages.rlvr.reward.name")
    large = OwnFile(Path("/me/rows.jsonl"), "files/rows.jsonl", "stages.rlvr.data.path")
    places = Places({"stages.rlvr.data.path": ("mine.yaml", 13)})
    assert LIMIT_BYTES == 104_857_600
    assert too_much({small: 10, large: LIMIT_BYTES - 10}, places) is None
    problem = too_much({small: 2_000_000, large: 103_000_000}, places)
    assert problem is not None
    assert problem.render() == (
        "error[too-much-to-send] mine.yaml:13 stages.rlvr.data.path: the pipeline's files are "
        "105.0 MB, 104.9 MB can be sent; the largest is /me/rows.jsonl, 103.0 MB\n"
        "  help: copy it to a folder that all nodes see, name that, and add --shared FOLDER"
    )


def test_too_much_is_not_packed(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.config.own_files.LIMIT_BYTES", 20)
    loaded = load_pipeline(file)
    with pytest.raises(InputError, match=r"the largest is .*rows\.jsonl"):
        pack(gather(loaded.raw), "mine.yaml", loaded.places, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
