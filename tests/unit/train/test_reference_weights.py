"""Where the reference is kept changes no number; what it costs is measured."""

import json
import subprocess
import sys

import pytest
import torch

from posttrain.model.load import load_model, load_tokenizer, save_model
from posttrain.model.micro import build_micro
from posttrain.model.packed import packed_forward
from posttrain.train.ranks import Ranks
from posttrain.train.reference_weights import Kept, Mapped, MovedIn, reference_weights

MEASURE = """
import json, sys
import torch
from posttrain.model.load import load_model
from posttrain.model.packed import packed_forward
from posttrain.train.reference_weights import reference_weights

def own_memory_kb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

torch.set_num_threads(1)
policy = load_model(sys.argv[1], "fp32")
tokens = torch.arange(3, 40)
packed_forward(policy, tokens, [37])
before = own_memory_kb()
reference = reference_weights(policy, sys.argv[1], sys.argv[2], "cpu")
with torch.no_grad(), reference.ready() as model:
    packed_forward(model, tokens, [37])
print(json.dumps(own_memory_kb() - before))
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Model folders by number format."""
    root = tmp_path_factory.mktemp("models")
    build_micro(root / "fp32", seed=0)
    tokenizer = load_tokenizer(root / "fp32")
    save_model(load_model(root / "fp32"), tokenizer, root / "bf16", "bf16")
    return root


def logprobs(weights, autocast=None):
    with torch.no_grad(), weights.ready() as model:
        return packed_forward(model, torch.arange(3, 40), [20, 17], autocast=autocast).logprobs_N


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", [Mapped, lambda model: MovedIn(model, "cpu")])
def test_the_same_numbers_wherever_it_is_kept(stored, kind, precision, autocast):
    kept = Kept(load_model(stored / precision, "fp32"))
    other = kind(load_model(stored / precision, None))
    other.spread(Ranks())
    expected = logprobs(kept, autocast)
    for _ in range(2):  # nothing is left behind by the first time
        assert torch.equal(logprobs(other, autocast), expected)


@pytest.mark.parametrize("kind", [Mapped, lambda model: MovedIn(model, "cpu")])
def test_weights_return_to_where_they_were(stored, kind):
    model = load_model(stored / "bf16", None)
    before = {name: (p.data_ptr(), p.dtype) for name, p in model.named_parameters()}
    weights = kind(model)
    logprobs(weights)
    assert {n: (p.data_ptr(), p.dtype) for n, p in model.named_parameters()} == before
    with pytest.raises(IndexError), weights.ready() as ready:
        packed_forward(ready, torch.tensor([10**6, 3]), [2])  # no such token
    assert {n: (p.data_ptr(), p.dtype) for n, p in model.named_parameters()} == before


def test_the_mode_chooses(stored):
    path, policy = str(stored / "bf16"), load_model(stored / "bf16", "fp32")
    assert isinstance(reference_weights(policy, path, "keep", "cpu"), Kept)
    assert isinstance(reference_weights(policy, path, "offload", "cpu"), Mapped)


def test_mapped_it_takes_no_memory_of_its_own(tmp_path):
    """25 M parameters stored in bf16: 100 MB as fp32, which only `keep` holds."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=64, hidden_size=512, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64, intermediate_size=1536, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    assert 24e6 < sum(p.numel() for p in model.parameters()) < 27e6
    model.save_pretrained(tmp_path)
    used_mb = {}
    for mode in ("keep", "offload"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path), mode],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        used_mb[mode] = json.loads(done.stdout) / 1024
    assert used_mb["keep"] > 80
    assert used_mb["offload"] < 15  # one layer's matrix at a time


def test_a_configuration_that_names_another_format_rounds_nothing(stored, tmp_path):
    """fp32 tensors beside a config.json that says bfloat16, as folders of others may have it."""
    import json
    import shutil

    folder = tmp_path / "foreign"
    shutil.copytree(stored / "fp32", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    policy = load_model(folder, "fp32")
    offloaded = reference_weights(policy, str(folder), "offload", "cpu")
    offloaded.spread(Ranks())
    kept = Kept(load_model(folder, "fp32"))
    assert torch.equal(logprobs(offloaded), logprobs(kept))
