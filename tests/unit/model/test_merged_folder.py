"""Folders made of other folders: alike to the first, whole or not at all, in little memory."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from posttrain.errors import InputError
from posttrain.model import merged_folder
from posttrain.model.load import load_model, load_state, load_tokenizer, save_model
from posttrain.model.merged_folder import MergeSources, check_alike, merge_folders
from posttrain.model.micro import build_micro
from posttrain.model.stored_tensors import stored_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two micro models, each in shards of 1 MB."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("pre", "post")):
        build_micro(folder / name, seed)
        model = load_model(folder / name)
        (folder / name / "model.safetensors").unlink()
        model.save_pretrained(folder / name, max_shard_size="1MB")
    return folder


def sources(models, **settings):
    pre, post = (stored_model(models / name, name) for name in ("pre", "post"))
    return MergeSources((post,), pre, **settings)


def half(versions):
    return (versions.pre + versions.models[0]) / 2


def names_in(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_result_is_a_model_like_post(models, tmp_path):
    merge_folders(sources(models), tmp_path / "out" / "model", half, {})
    assert names_in(tmp_path / "out") == ["model"]
    assert names_in(tmp_path / "out" / "model") == names_in(models / "post")
    before, after, merged = map(
        load_state, (models / "pre", models / "post", tmp_path / "out" / "model")
    )
    assert merged.keys() == after.keys()
    for name, tensor in merged.items():
        assert torch.equal(tensor, (before[name] + after[name]) / 2)
    load_model(tmp_path / "out" / "model")  # with its index
    assert load_tokenizer(tmp_path / "out" / "model").chat_template is not None


def test_tensors_know_their_place(models, tmp_path):
    found = []

    def look(versions):
        found.append(versions)
        return versions.models[0]

    merge_folders(
        sources(models, weight_pre=0.3, weights=(1.0,), seed=5), tmp_path / "m", look, {}, "found"
    )
    layers = {versions.name: versions.layer for versions in found}
    assert layers["model.embed_tokens.weight"] is None
    assert layers["model.layers.2.mlp.up_proj.weight"] == 2
    one = found[0]
    assert (one.num_layers, one.weight_pre, one.weights) == (3, 0.3, (1.0,))
    assert (one.seed, one.found) == (5, "found")
    assert {versions.name for versions in sources(models).tensors()} == layers.keys()


def test_formats_are_those_of_post_and_sums_are_made_in_fp32(models, tmp_path):
    model = load_model(models / "post")
    save_model(model, load_tokenizer(models / "post"), tmp_path / "post", "bf16")
    mixed = MergeSources((stored_model(tmp_path / "post"),), stored_model(models / "pre"))
    formats = set()

    def look(versions):
        formats.update({versions.pre.dtype, versions.models[0].dtype})
        return half(versions)

    merge_folders(mixed, tmp_path / "model", look, {})
    assert formats == {torch.float32}
    assert {tensor.dtype for tensor in load_state(tmp_path / "model").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"


# -- small folders by hand ----------------------------------------------------------------------


def write_folder(folder, state, tokens=("a", "b"), **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "micro"} | config))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return stored_model(folder, folder.name)


WEIGHT = {"w": torch.tensor([[1.0, 2.0]])}


def refused(tmp_path, one, other):
    with pytest.raises(InputError) as caught:
        merge_folders(MergeSources((other,), one), tmp_path / "model", half, {})
    assert names_in(tmp_path) == sorted([one.label, other.label])  # nothing was written
    return [(problem.code, problem.message) for problem in caught.value.problems]


def test_other_shapes_are_named(tmp_path):
    sft = write_folder(tmp_path / "sft", {"lm_head.weight": torch.zeros(8, 2), **WEIGHT})
    rlvr = write_folder(tmp_path / "rlvr", {"lm_head.weight": torch.zeros(6, 2), **WEIGHT})
    with pytest.raises(InputError) as caught:
        check_alike(MergeSources((rlvr,), sft))
    assert caught.value.problems[0].render() == (
        "error[shapes-differ]: `lm_head.weight` is 8×2 in `sft`, 6×2 in `rlvr`; nothing is "
        "written\n  help: 2 added tokens differ: average models of one family"
    )


def test_missing_tensors_are_named(tmp_path):
    sft = write_folder(tmp_path / "sft", {"v": torch.zeros(1), **WEIGHT})
    rlvr = write_folder(tmp_path / "rlvr", {"x": torch.zeros(1), **WEIGHT})
    assert refused(tmp_path, sft, rlvr) == [
        ("shapes-differ", "`v` is only in `sft` (1 more tensor differs); nothing is written")
    ]


def test_other_tokenizers_are_refused(tmp_path):
    sft = write_folder(tmp_path / "sft", WEIGHT)
    rlvr = write_folder(tmp_path / "rlvr", WEIGHT, tokens=("b", "a"))
    assert refused(tmp_path, sft, rlvr) == [
        (
            "other-tokenizer",
            "`sft` and `rlvr` have other tokenizers: a token is not the same in both",
        )
    ]


def test_embeddings_tied_in_one_model_only(tmp_path):
    sft = write_folder(tmp_path / "sft", WEIGHT, tie_word_embeddings=True)
    rlvr = write_folder(tmp_path / "rlvr", WEIGHT, tie_word_embeddings=False)
    assert refused(tmp_path, sft, rlvr) == [
        ("other-architecture", "tie_word_embeddings is True in `sft`, False in `rlvr`")
    ]


def test_a_head_of_its_own_where_config_does_not_say_that_the_other_is_tied(tmp_path):
    head = {"lm_head.weight": torch.zeros(2, 2)}
    sft = write_folder(tmp_path / "sft", WEIGHT, tie_word_embeddings=True)
    rlvr = write_folder(tmp_path / "rlvr", WEIGHT | head)
    assert refused(tmp_path, sft, rlvr) == [
        ("shapes-differ", "`lm_head.weight` is only in `rlvr`; nothing is written")
    ]


def test_every_model_that_differs_is_named(tmp_path):
    """Three models: one has another shape, one lacks a tensor."""
    base = write_folder(tmp_path / "base", {"v": torch.zeros(1), **WEIGHT})
    maths = write_folder(tmp_path / "maths", {"v": torch.zeros(2), **WEIGHT})
    code = write_folder(tmp_path / "code", WEIGHT)
    with pytest.raises(InputError) as caught:
        check_alike(MergeSources((maths, code), base))
    assert [problem.message for problem in caught.value.problems] == [
        "`v` is only in `maths`; nothing is written",
        "`v` is 1 in `base`, 2 in `maths`; nothing is written",
    ]


def test_quantized_weights_are_refused(tmp_path):
    sft = write_folder(tmp_path / "sft", WEIGHT)
    rlvr = write_folder(tmp_path / "rlvr", WEIGHT, quantization_config={"bits": 4})
    assert refused(tmp_path, sft, rlvr) == [
        ("quantized-weights", "`rlvr` has quantized weights, and those cannot be averaged")
    ]


def test_numbers_that_are_whole_in_one_model_only(tmp_path):
    sft = write_folder(tmp_path / "sft", WEIGHT)
    rlvr = write_folder(tmp_path / "rlvr", {"w": torch.tensor([[1, 2]])})
    assert refused(tmp_path, sft, rlvr) == [
        ("shapes-differ", "`w` is F32 in `sft`, I64 in `rlvr`; nothing is written")
    ]


def test_whole_numbers_are_those_of_post(tmp_path):
    state = {"n": torch.tensor([1, 2]), **WEIGHT}
    sft = write_folder(tmp_path / "sft", state)
    rlvr = write_folder(tmp_path / "rlvr", state | {"n": torch.tensor([4, 5])})
    merge_folders(MergeSources((rlvr,), sft), tmp_path / "model", half, {})
    assert load_state(tmp_path / "model")["n"].tolist() == [4, 5]


def test_more_than_fp32_stays(tmp_path):
    wide = {"w": torch.tensor([[1.0, 2.0]], dtype=torch.float64) / 3}
    sft, rlvr = write_folder(tmp_path / "sft", WEIGHT), write_folder(tmp_path / "rlvr", wide)
    merge_folders(
        MergeSources((rlvr,), sft), tmp_path / "model", lambda versions: versions.models[0], {}
    )
    assert torch.equal(load_state(tmp_path / "model")["w"], wide["w"])


def test_a_tied_head_that_one_folder_holds_all_the_same(tmp_path):
    head = {"lm_head.weight": torch.zeros(2, 2)}
    sft = write_folder(tmp_path / "sft", WEIGHT | head, tie_word_embeddings=True)
    rlvr = write_folder(tmp_path / "rlvr", WEIGHT, tie_word_embeddings=True)
    merge_folders(MergeSources((sft,), rlvr), tmp_path / "model", half, {})
    assert load_state(tmp_path / "model").keys() == {"w"}


def test_what_is_in_a_folder_beside_the_model_is_copied(tmp_path):
    sft, rlvr = write_folder(tmp_path / "sft", WEIGHT), write_folder(tmp_path / "rlvr", WEIGHT)
    (tmp_path / "rlvr" / "generation_config.json").write_text("{}")
    (tmp_path / "rlvr" / "pytorch_model.bin").write_text("")
    (tmp_path / "rlvr" / "README.md").write_text("# rlvr")
    (tmp_path / "template").write_text("{{ x }}")
    (tmp_path / "rlvr" / "chat_template.jinja").symlink_to(tmp_path / "template")
    merge_folders(MergeSources((rlvr,), sft), tmp_path / "model", half, {})
    assert names_in(tmp_path / "model") == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert not (tmp_path / "model" / "chat_template.jinja").is_symlink()


# -- interruptions ------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def killed_after(count):
    """A merge that dies at its n-th tensor, and the names it has seen."""
    seen = []

    def merge(versions):
        seen.append(versions.name)
        if len(seen) == count:
            raise Killed
        return half(versions)

    return merge, seen


def interrupt(models, tmp_path, identity):
    """Dies in the second shard. Returns the names of the first one's tensors."""
    first, second, *_ = sources(models).models[0].shards.values()
    merge, _ = killed_after(len(first) + 1)
    with pytest.raises(Killed):
        merge_folders(sources(models), tmp_path / "model", merge, identity)
    assert names_in(tmp_path) == [".model.merging"]  # never a half-written model
    assert second
    return first


def test_an_interrupted_merge_goes_on(models, tmp_path):
    first = interrupt(models, tmp_path, {"density": 0.5})
    merge, seen = killed_after(0)
    merge_folders(sources(models), tmp_path / "model", merge, {"density": 0.5})
    assert not set(seen) & set(first)  # its whole shard was not computed again
    assert names_in(tmp_path) == ["model"]
    merge_folders(sources(models), tmp_path / "at_once", half, {"density": 0.5})
    for file in names_in(tmp_path / "at_once"):
        whole, resumed = (tmp_path / each / file for each in ("at_once", "model"))
        assert whole.read_bytes() == resumed.read_bytes()


def test_another_merge_begins_anew(models, tmp_path):
    first = interrupt(models, tmp_path, {"density": 0.5})
    merge, seen = killed_after(0)
    merge_folders(sources(models), tmp_path / "model", merge, {"density": 0.6})
    assert set(first) <= set(seen)


def test_a_shard_that_was_cut_short_is_computed_again(models, tmp_path):
    first = interrupt(models, tmp_path, {})
    [file] = (tmp_path / ".model.merging").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    merge, seen = killed_after(0)
    merge_folders(sources(models), tmp_path / "model", merge, {})
    assert set(first) <= set(seen)


def test_a_model_that_is_there_is_replaced_only_by_a_whole_one(models, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")
    merge, _ = killed_after(3)
    with pytest.raises(Killed):
        merge_folders(sources(models), tmp_path / "model", merge, {})
    assert names_in(tmp_path / "model") == ["old.txt"]
    merge_folders(sources(models), tmp_path / "model", half, {})
    assert "old.txt" not in names_in(tmp_path / "model")
    assert names_in(tmp_path) == ["model"]


SLOW = """
import sys, time
from pathlib import Path
from posttrain.model.merged_folder import MergeSources, merge_folders
from posttrain.model.stored_tensors import stored_model
pre, post = (stored_model(folder) for folder in sys.argv[1:3])
def half(versions):
    if "layers.1" in versions.name:
        print("merging", flush=True)
        time.sleep(600)
    return (versions.pre + versions.models[0]) / 2
merge_folders(MergeSources((post,), pre), Path(sys.argv[3]), half, {})
"""


def test_a_process_that_is_killed_while_it_writes_leaves_no_half_model(models, tmp_path):
    """SIGKILL in the middle of a shard; the next process makes what one that lives would."""
    folders = [str(each) for each in (models / "pre", models / "post", tmp_path / "model")]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *folders], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "merging\n"
    process.kill()
    assert process.wait() == -9
    assert names_in(tmp_path) == [".model.merging"]
    assert list((tmp_path / ".model.merging").glob("*.partial-*"))  # a shard had begun
    of_folders = MergeSources(
        (stored_model(models / "post"),), stored_model(models / "pre")
    )  # labels do not count
    merge_folders(of_folders, tmp_path / "model", half, {})
    merge_folders(of_folders, tmp_path / "at_once", half, {})
    assert names_in(tmp_path) == ["at_once", "model"]
    assert names_in(tmp_path / "model") == names_in(tmp_path / "at_once")
    for file in names_in(tmp_path / "at_once"):
        whole, redone = (tmp_path / each / file for each in ("at_once", "model"))
        assert whole.read_bytes() == redone.read_bytes()


# -- memory -------------------------------------------------------------------------------------

SHARD_MB, SHARDS = 50, 4
MERGE = """
import resource, sys
from pathlib import Path
import torch
from posttrain.averaging import linear
from posttrain.model.merged_folder import MergeSources, merge_folders
from posttrain.model.stored_tensors import stored_model
torch.set_num_threads(1)
torch.ones(1000, 1000).add_(1).mul(2)  # what arithmetic loads
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pre, post = (stored_model(folder) for folder in sys.argv[1:3])
sources = MergeSources((post,), pre, weight_pre=0.3)
config = linear.Config()
merge_folders(sources, Path(sys.argv[3]), lambda versions: linear.merge(versions, config), {})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_model(tmp_path):
    """Two models of 200 MB: less than two shards are in memory at any time."""
    for name in ("pre", "post"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        places = {}
        for shard in range(SHARDS):
            file = f"model-{shard}.safetensors"
            # five tensors of 10 MB each
            state = {f"layers.{shard}.{k}": torch.randn(SHARD_MB // 5, 250_000) for k in range(5)}
            save_file(state, folder / file)
            places |= dict.fromkeys(state, file)
        index = json.dumps({"weight_map": places})
        (folder / "model.safetensors.index.json").write_text(index)
    ran = subprocess.run(
        [sys.executable, "-c", MERGE, *map(str, (tmp_path / n for n in ("pre", "post", "model")))],
        capture_output=True,
        text=True,
        check=True,
    )
    grown_mb = int(ran.stdout) / 1024
    assert grown_mb < 2 * SHARD_MB
    merged = stored_model(tmp_path / "model")
    name = "layers.3.2"
    before, after = (stored_model(tmp_path / each).read(name) for each in ("pre", "post"))
    assert torch.allclose(merged.read(name), 0.3 * before + 0.7 * after, atol=1e-6)


def test_the_record_is_no_part_of_the_model(models, tmp_path):
    merge_folders(sources(models), tmp_path / "model", half, {})
    assert not (tmp_path / "model" / merged_folder.RECORD).exists()
