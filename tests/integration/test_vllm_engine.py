"""The rollout engine on the real vLLM, against transformers as the truth. One engine for the file.

The model is tiny, has tied embeddings, and weights large enough that its answers are not noise.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.errors import EngineFailed, InputError, WeightsDiffer
from posttrain.ports import EngineSpec
from posttrain.types import Rollout, Sampling
from posttrain.weight_sync.flat_file import write_weights

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from tiny_engine import (  # noqa: E402
    CONTEXT,
    END_OF_TURN,
    Bench,
    HalfWay,
    furthest,
    prompt,
    true_logprobs,
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("engine"))
    yield bench
    bench.close()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_distribution_sampled_from(bench, temperature):
    version, rollouts = bench.run(
        bench.engine.generate("g", prompt(20), 8, Sampling(24, temperature, seed=3))
    )
    model = bench.model_of(version)
    for rollout in rollouts:
        assert furthest(rollout.logprobs, true_logprobs(model, rollout, temperature)) <= 1e-4
    assert len({rollout.token_ids for rollout in rollouts}) == 8


def test_on_a_gpu_vllm_leaves_room_for_what_arrives_by_nccl(bench, monkeypatch):
    from vllm.platforms import current_platform

    from posttrain.rollout.vllm_build import engine_arguments

    on_gpus = replace(bench.spec, precision="bf16", gpus=2)
    numbers = sum(value.numel() for value in bench.model_of(0).parameters())
    monkeypatch.setattr(current_platform, "get_device_total_memory", lambda: 20 * numbers)
    by_nccl = engine_arguments(replace(on_gpus, weight_sync="nccl"))
    assert by_nccl.gpu_memory_utilization == pytest.approx(0.92 - 0.1)  # two bytes of twenty
    assert engine_arguments(on_gpus).gpu_memory_utilization == 0.92  # vLLM's own
    assert by_nccl.tensor_parallel_size == 2


def test_greedy_takes_the_likeliest_token(bench):
    version, (rollout,) = bench.run(bench.engine.generate("g", prompt(20), 1, Sampling(12, 0.0)))
    model = bench.model_of(version)
    ids = torch.tensor([rollout.prompt_ids + rollout.token_ids])
    with torch.no_grad():
        likeliest = model(ids).logits[0, 19:-1].argmax(-1).tolist()
    assert list(rollout.token_ids) == likeliest
    assert furthest(rollout.logprobs, true_logprobs(model, rollout)) <= 1e-4


def test_rollouts_are_complete_records(bench):
    asked = prompt(9)
    _, rollouts = bench.run(bench.engine.generate("12", asked, 64, Sampling(16, seed=5)))
    assert [rollout.sample for rollout in rollouts] == list(range(64))
    for rollout in rollouts:
        assert rollout.group_id == "12"
        assert rollout.prompt_ids == asked.token_ids
        lengths = {len(rollout.mask), len(rollout.logprobs), len(rollout.versions)}
        assert lengths == {len(rollout.token_ids)}
        spoken = [token for token in rollout.token_ids if token > END_OF_TURN]
        assert rollout.text == "".join(chr(46 + token) for token in spoken)
        ended = rollout.token_ids[-1] == END_OF_TURN
        assert rollout.finish == ("stop" if ended else "length")
        assert ended or len(rollout.token_ids) == 16
    assert {rollout.finish for rollout in rollouts} == {"stop", "length"}


def test_128_seeded_prompts_survive_and_do_not_depend_on_their_company(bench):
    # Split prompts end vLLM's CPU engine where requests are seeded: none of 128 would come back.
    prompts = [prompt(30, number) for number in range(128)]
    sampling = Sampling(20, 1.0, seed=11)
    together = bench.run(bench.engine.generate_many(prompts, sampling))
    assert len(together) == 128
    for number in (0, 63, 127):
        alone = bench.run(
            bench.engine.generate("g", prompts[number], 1, Sampling(20, 1.0, seed=11 + number))
        )[1][0]
        assert alone.token_ids == together[number].token_ids
        assert alone.logprobs == together[number].logprobs  # to the bit
    assert bench.run(bench.engine.generate_many(prompts, sampling)) == together


def test_a_prompt_found_in_the_cache_gives_the_same_answer(bench):
    asked, sampling = prompt(100), Sampling(20, 1.0, seed=4)
    first = bench.run(bench.engine.generate("g", asked, 1, sampling))
    assert bench.run(bench.engine.generate("g", asked, 1, sampling)) == first


def test_token_logprobs_of_given_answers(bench):
    version, rollouts = bench.run(bench.engine.generate("g", prompt(20), 4, Sampling(24, seed=8)))
    pairs = [(rollout.prompt_ids, rollout.token_ids) for rollout in rollouts]
    for rollout, row in zip(rollouts, bench.run(bench.engine.token_logprobs(pairs)), strict=True):
        assert furthest(row, true_logprobs(bench.model_of(version), rollout)) <= 1e-4


def test_an_update_changes_every_answer_and_all_of_the_model(bench):
    asked = prompt(96)  # three cache blocks: an answer from a stale cache would show
    _, before = bench.run(bench.engine.generate("g", asked, 8, Sampling(24, seed=1)))
    published = bench.publish(model=(bench.version + 1) % 2)
    report = bench.run(bench.engine.update_weights(published))
    assert (report.version, report.checksums_agree) == (published.version, True)
    assert 0 < report.stall_ms < report.sync_ms
    version, after = bench.run(bench.engine.generate("g", asked, 8, Sampling(24, seed=1)))
    assert version == published.version
    for old, new in zip(before, after, strict=True):
        assert old.token_ids != new.token_ids
        assert set(new.versions) == {published.version}
        # Tied output head included: packed separately, it stays old if nobody packs it again.
        assert furthest(new.logprobs, true_logprobs(bench.model_of(version), new)) <= 1e-4


def test_answers_under_way_go_on_with_the_new_weights(bench):
    async def update_in_the_middle():
        asked = [prompt(30, number) for number in range(64)]
        sampling = Sampling(90, 1.0, seed=21)
        with HalfWay(bench.engine, 64) as half_way:
            answers = [
                asyncio.create_task(bench.engine.generate(str(i), asked[i], 1, sampling))
                for i in range(64)
            ]
            await half_way.there()
            published = bench.publish(model=(bench.version + 1) % 2)
            await bench.engine.update_weights(published)
        return published.version, [(await answer)[1][0] for answer in answers]

    version, rollouts = bench.run(update_in_the_middle())
    old, new = bench.model_of(version - 1), bench.model_of(version)
    changed = [rollout for rollout in rollouts if set(rollout.versions) == {version - 1, version}]
    assert len(changed) > 32  # the others had ended before
    for rollout in changed:
        assert list(rollout.versions) == sorted(rollout.versions)
        first = rollout.versions.index(version)
        assert furthest(rollout.logprobs[:first], true_logprobs(old, rollout)[:first]) <= 1e-4
        assert furthest(rollout.logprobs[first:], true_logprobs(new, rollout)[first:]) <= 1e-4
        assert furthest(rollout.logprobs[first:], true_logprobs(old, rollout)[first:]) > 0.1


def test_a_damaged_file_is_refused_and_the_old_weights_stay(bench):
    asked, sampling = prompt(40), Sampling(16, seed=2)
    before = bench.run(bench.engine.generate("g", asked, 4, sampling))
    published = bench.publish(model=(bench.version + 1) % 2)
    with open(published.location, "r+b") as file:
        file.seek(published.num_bytes - 100)
        file.write(b"\x7f")
    with pytest.raises(WeightsDiffer, match=f"the trainer published {published.checksum[:8]}"):
        bench.run(bench.engine.update_weights(published))
    bench.version -= 1
    assert bench.run(bench.engine.generate("g", asked, 4, sampling)) == before


def test_a_missing_tensor_is_refused(bench):
    weights = dict(bench.models[0].named_parameters())
    del weights["model.layers.1.self_attn.k_proj.weight"]
    published = write_weights(weights, bench.shared.path, bench.version + 1, attempt=0)
    with pytest.raises(WeightsDiffer, match=r"1 missing, first model\.layers\.1\.self_attn"):
        bench.run(bench.engine.update_weights(published))


def test_another_folder_of_the_same_architecture(bench):
    bench.run(bench.engine.load_model_folder(str(bench.folders[1]), version=1))
    bench.version = 1
    version, rollouts = bench.run(bench.engine.generate("g", prompt(20), 4, Sampling(12, seed=3)))
    assert version == 1
    for rollout in rollouts:
        assert furthest(rollout.logprobs, true_logprobs(bench.models[1], rollout)) <= 1e-4


def test_a_folder_of_another_architecture_is_refused(bench, tmp_path):
    config = json.loads((bench.folders[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match="num_hidden_layers 2 / 3"):
        bench.run(bench.engine.load_model_folder(str(tmp_path)))


def test_a_prompt_without_room_is_refused_and_the_engine_lives(bench):
    with pytest.raises(InputError, match="120 tokens, context is 128 with 16 kept"):
        bench.run(bench.engine.generate("g", prompt(120), 1, Sampling(16)))
    assert len(bench.run(bench.engine.generate("g", prompt(112), 2, Sampling(16)))[1]) == 2


def test_cancelled_answers_leave_the_engine(bench):
    async def unfinished() -> float:
        counts = await bench.engine.stats()
        return counts["running"] + counts["waiting"]

    async def give_up():
        with HalfWay(bench.engine, 32) as half_way:
            answer = asyncio.create_task(bench.engine.generate("g", prompt(10), 32, Sampling(100)))
            await half_way.there()
            answer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await answer
            async with asyncio.timeout(60):
                while await unfinished():
                    await asyncio.sleep(0.01)

    bench.run(give_up())


def test_stats_count_tokens_since_the_last_call(bench):
    bench.run(bench.engine.stats())
    _, rollouts = bench.run(bench.engine.generate("g", prompt(10), 16, Sampling(16, seed=1)))
    stats = bench.run(bench.engine.stats())
    assert stats["tokens"] == sum(len(rollout.token_ids) for rollout in rollouts)
    assert stats["busy_s"] > 0
    assert bench.run(bench.engine.stats())["tokens"] == 0


BF16 = """
import asyncio, json, sys
from posttrain.ports import EngineSpec
from posttrain.rollout.vllm_engine import VllmEngine
from posttrain.types import Prompt, Sampling

async def main():
    engine = VllmEngine(EngineSpec(sys.argv[1], 128, "bf16", 64, True, 32, 256), "1")
    await engine.start()
    await engine.load_model_folder(sys.argv[2])
    prompts = [Prompt("", "", (number + 2,), "", {}) for number in range(16)]
    rollouts = await engine.generate_many(prompts, Sampling(16, seed=1))
    print(json.dumps([[r.prompt_ids, r.token_ids, r.logprobs] for r in rollouts]))
    await engine.shutdown()

asyncio.run(main())
"""


def test_bf16_with_prompts_of_one_token(bench):
    # In a process of its own: where AMX is not enabled first, an illegal instruction ends it.
    folders = [str(folder) for folder in bench.folders]
    done = subprocess.run(
        [sys.executable, "-c", BF16, *folders], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    rounded = copy.deepcopy(bench.models[1]).bfloat16().float()
    errors = []
    for prompt_ids, token_ids, logprobs in json.loads(done.stdout):
        rollout = Rollout("", 0, tuple(prompt_ids), tuple(token_ids), (), (), (), "", "stop")
        errors += [
            abs(a - b) for a, b in zip(logprobs, true_logprobs(rounded, rollout), strict=True)
        ]
    assert max(errors) < 0.5
    assert sum(errors) / len(errors) < 0.05


def test_a_start_that_fails_says_why(tmp_path):
    from posttrain.rollout.vllm_engine import VllmEngine

    spec = EngineSpec(str(tmp_path / "nowhere"), CONTEXT, "fp32", 64, True, 32, 256)
    with pytest.raises(EngineFailed, match="engine 7 did not start: no model folder"):
        asyncio.run(VllmEngine(spec, "7").start())


def test_a_layer_that_kept_its_old_weights_is_noticed_before_it_is_used(bench, monkeypatch):
    asked, sampling = prompt(40), Sampling(16, seed=2)
    before = bench.run(bench.engine.generate("g", asked, 4, sampling))
    with monkeypatch.context() as broken:
        broken.setattr("posttrain.weight_sync.shm_engine.repack_output_head", lambda model: None)
        published = bench.publish(model=(bench.version + 1) % 2)
        with pytest.raises(WeightsDiffer, match="1 of its layers compute with others, first lm_h"):
            bench.run(bench.engine.update_weights(published))
    assert bench.run(bench.engine.generate("g", asked, 4, sampling)) == before
    bench.run(bench.engine.update_weights(published))
    version, rollouts = bench.run(bench.engine.generate("g", asked, 4, sampling))
    assert version == published.version
    for rollout in rollouts:
        assert furthest(rollout.logprobs, true_logprobs(bench.model_of(version), rollout)) <= 1e-4


# The two below end the engine and come last.


def test_without_a_twin_such_a_layer_ends_the_engine(bench, monkeypatch):
    """Where weights are loaded in place: GPUs, compiled models."""
    monkeypatch.setattr("posttrain.weight_sync.shm_engine.repack_output_head", lambda model: None)
    monkeypatch.setattr(bench.engine._weights, "_spec", replace(bench.engine.spec, eager=False))
    published = bench.publish(model=(bench.version + 1) % 2)
    with pytest.raises(WeightsDiffer, match="1 of its layers compute with others, first lm_head"):
        bench.run(bench.engine.update_weights(published))
    with pytest.raises(EngineFailed, match="died in a weight update"):
        bench.run(bench.engine.generate("g", prompt(10), 1, Sampling(4)))


def test_nothing_is_left_behind(bench):
    bench.run(bench.engine.shutdown())
    bench.run(bench.engine.shutdown())
    assert "engine 0" not in {thread.name for thread in threading.enumerate()}
    bench.shared.close()
    assert not list(Path("/dev/shm").glob(f"posttrain-{os.getpid()}-*"))
    assert not (Path(tempfile.gettempdir()) / os.environ["VLLM_DIST_IDENT"]).exists()
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    assert children.split() == []
