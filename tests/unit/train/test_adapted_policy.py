"""An online step that trains adapters: what moves, what is sent, saved and left behind."""

import pytest
import torch
from safetensors.torch import load_file

from posttrain.algorithms import grpo
from posttrain.checkpoint.store import CheckpointStore
from posttrain.config.lora import Lora
from posttrain.model.load import load_model, load_state, load_tokenizer
from posttrain.model.lora import adapted_layers, add_adapters
from posttrain.train.reference_weights import AdaptersOff, reference_weights
from posttrain.train.rl_batch import flatten
from posttrain.train.rl_step import RlTrainer, StepSettings
from posttrain.weight_sync.adapter import BASE, SCALING, MergedWeights, base_checksum


def make_trainer(micro, precision="fp32", lora=Lora(rank=4, alpha=8), **config):  # noqa: B008
    model = load_model(micro)
    add_adapters(model, lora, seed=1)
    reference = reference_weights(model, str(micro), "keep", "cpu")
    assert isinstance(reference, AdaptersOff)
    settings = StepSettings(1.0, 64, precision)
    algorithm = grpo.Config(lr=1e-2, **config)
    return RlTrainer(model, reference, load_tokenizer(micro), grpo, algorithm, settings)


@pytest.fixture
def trained(micro, hand_made_batch):
    trainer = make_trainer(micro, kl_in_loss=0.1)
    flat = flatten(hand_made_batch)
    trainer.metrics = [trainer.step(flat, step, 10) for step in range(3)]
    return trainer


def test_only_the_adapters_move(trained, micro):
    base = dict(load_model(micro).named_parameters())
    for name, layer in adapted_layers(trained.policy.model).items():
        assert torch.equal(layer.weight, base[f"{name}.weight"])
        assert layer.up.abs().max() > 0
    assert trained.policy.model.model.embed_tokens.weight.grad is None


def test_the_reference_is_the_model_that_the_stage_started_from(trained, micro, hand_made_batch):
    """Bit for bit, after three steps; the same numbers as with a second model in memory."""
    flat = flatten(hand_made_batch)
    micro_batches = trained._preparation.micro_batches(flat, range(len(flat.rollouts)))
    plain = RlTrainer(
        load_model(micro), load_model(micro), load_tokenizer(micro), grpo, grpo.Config(),
        StepSettings(1.0, 64),
    )  # fmt: skip
    ours = trained._preparation._reference.logprobs(flat, micro_batches, "a test")
    theirs = plain._preparation._reference.logprobs(flat, micro_batches, "a test")
    assert torch.equal(ours, theirs) and ours.abs().max() > 0
    assert not torch.equal(trained.logprobs(flat.rollouts), ours)


def test_engines_are_sent_the_adapter_alone(trained, micro):
    sent = trained.policy.published_weights()
    layers = adapted_layers(trained.policy.model)
    assert len(sent) == 2 * len(layers) + 2
    assert sent[SCALING].tolist() == [2.0]
    assert bytes(sent[BASE].tolist()).hex() == base_checksum(micro)
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in sent.values())
    # rank 4 × (rows + columns) of the seven matrices of a layer, 4 bytes each
    assert num_bytes == len(layers) // 7 * 4 * 4 * 2816 + 8 + 16
    whole = sum(p.numel() * 4 for p in load_model(micro).parameters())
    assert num_bytes < 0.07 * whole


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_engines_merge_to_the_model_folder_bit_for_bit(micro, hand_made_batch, tmp_path, precision):
    trainer = make_trainer(micro, precision)
    trainer.step(flatten(hand_made_batch), 0, 10)
    trainer.policy.export(tmp_path / "model")
    folder = load_state(tmp_path / "model")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    engine = MergedWeights(micro, trainer.policy.published_weights(), dtype)
    assert folder.keys() == dict(engine).keys()
    assert all(torch.equal(folder[name], engine[name].to(dtype)) for name in folder)
    assert any(not torch.equal(folder[name], load_state(micro)[name].to(dtype)) for name in folder)
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * len(adapted_layers(trainer.policy.model))


def test_a_checkpoint_holds_the_adapter_and_goes_on_bit_for_bit(micro, hand_made_batch, tmp_path):
    flat = flatten(hand_made_batch)
    straight, cut, resumed = (make_trainer(micro) for _ in range(3))
    for step in range(2):
        straight.step(flat, step, 10)
    cut.step(flat, 0, 10)
    store = CheckpointStore(tmp_path)
    store.save(1, cut.policy.weights(), cut.policy.optimiser_state(), {})
    saved = store.latest()
    assert (saved.path / "model.safetensors").stat().st_size < 0.1 * sum(
        p.numel() * 4 for p in load_model(micro).parameters()
    )
    resumed.policy.load(saved.load_model(), saved.load_optimiser())
    resumed.step(flat, 1, 10)
    one, two = straight.policy.published_weights(), resumed.policy.published_weights()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_training_adapters_lowers_the_loss_of_what_scores(micro, hand_made_batch):
    """After some steps the right answers are likelier beside the wrong ones than they were."""
    flat = flatten(hand_made_batch)
    trainer = make_trainer(micro)
    before = trainer.logprobs(flat.rollouts)
    for step in range(5):
        trainer.step(flat, step, 10)
    moved = (trainer.logprobs(flat.rollouts) - before) * flat.mask_T
    sums = torch.zeros(9).index_add(0, flat.sequence_T, moved)
    assert sums[0] > sums[2]  # draw 4: a right answer beside a wrong one
