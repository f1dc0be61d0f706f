"""Model folders: what is read, what is refused, what is written."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.errors import InputError
from posttrain.model.load import (
    adopt_model,
    context_length,
    load_model,
    load_state,
    load_tokenizer,
    save_model,
)


def test_load_and_context_length(micro):
    model = load_model(micro)
    assert model.dtype == torch.float32 and not model.training
    assert model.config._attn_implementation == "posttrain_packed"
    assert context_length(model.config) == 128
    assert load_model(micro, "bf16").dtype == torch.bfloat16
    assert load_model(micro, None).dtype == torch.float32
    assert load_tokenizer(micro).eos_token == "<eos>"


def test_saved_folder_is_the_same_model(micro, tmp_path):
    model = load_model(micro)
    save_model(model, load_tokenizer(micro), tmp_path / "out" / "model")
    before, after = load_state(micro), load_state(tmp_path / "out" / "model")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "posttrain" not in (tmp_path / "out" / "model" / "config.json").read_text()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model"]  # nothing half-written


def test_saving_again_replaces_the_folder(micro, tmp_path):
    model = load_model(micro)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")
    save_model(model, load_tokenizer(micro), tmp_path / "model")
    assert not (tmp_path / "model" / "old.txt").exists()


def test_failed_save_leaves_the_old_folder(micro, tmp_path):
    class Broken:
        dtype = torch.float32

        def save_pretrained(self, folder):
            (Path(folder) / "model.safetensors").write_text("half")
            raise OSError("disk full")

    save_model(load_model(micro), load_tokenizer(micro), tmp_path / "model")
    with pytest.raises(OSError, match="disk full"):
        save_model(Broken(), load_tokenizer(micro), tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    load_model(tmp_path / "model")


def test_bf16_folder_keeps_tied_weights_tied(micro, tmp_path):
    save_model(load_model(micro), load_tokenizer(micro), tmp_path / "model", "bf16")
    state = load_state(tmp_path / "model")
    assert state.keys() == load_state(micro).keys()
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert load_model(tmp_path / "model", None).dtype == torch.bfloat16


def test_sharded_state_is_read_whole(micro, tmp_path):
    load_model(micro).save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert load_state(tmp_path).keys() == load_state(micro).keys()


def test_pickled_weights_are_refused(micro, tmp_path):
    shutil.copy(micro / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        load_model(tmp_path)
    problem = caught.value.problems[0]
    assert problem.code == "no-weights"
    assert problem.message == (
        "the model folder has no .safetensors file, only pytorch_model.bin, and pickled files can "
        "run code"
    )


def test_missing_folder_and_missing_weights(micro, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_model(tmp_path / "nothing")
    half = tmp_path / "half"
    shutil.copytree(micro, half)
    state = load_file(half / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, half / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        InputError, match=r"lacks model\.norm\.weight, which its config.json asks for"
    ):
        load_model(half)


def test_uncovered_attention_falls_back_to_sdpa(micro, tmp_path):
    shutil.copytree(micro, tmp_path / "soft")
    config = json.loads((tmp_path / "soft" / "config.json").read_text())
    config["attn_logit_softcapping"] = 50.0
    (tmp_path / "soft" / "config.json").write_text(json.dumps(config))
    assert load_model(tmp_path / "soft").config._attn_implementation == "sdpa"


def test_adopted_folder_links_and_keeps(micro, tmp_path):
    adopt_model(str(micro), tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_symlink()
    assert load_tokenizer(tmp_path / "model").chat_template == load_tokenizer(micro).chat_template
    assert load_state(tmp_path / "model").keys() == load_state(micro).keys()


def test_adopted_folder_with_another_template(tmp_path):
    models_dir = Path(os.environ.get("POSTTRAIN_MODELS", "../shared/models"))
    if not (models_dir / "stories260K").is_dir():
        pytest.skip("no stories260K model here: set POSTTRAIN_MODELS")
    source = models_dir / "stories260K"
    before = (source / "tokenizer_config.json").read_text()
    adopt_model(str(source), tmp_path / "model", "tulu")
    assert "<|assistant|>" in load_tokenizer(tmp_path / "model").chat_template
    generation = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 1]
    assert (source / "tokenizer_config.json").read_text() == before
    assert not (source / "chat_template.jinja").exists()


def test_name_that_no_hub_has(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="`nobody/nothing` is no folder here, and no hub has it"):
        adopt_model("nobody/nothing", tmp_path / "model")
    assert not (tmp_path / "model").exists()
