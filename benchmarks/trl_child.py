"""TRL's GRPOTrainer on a workload, in a process of its own: `python -m benchmarks.trl_child JSON`.

The length of each answer is forced through public seams only: the model's `generate` gets one
logits processor more (end of turn at the planned length, never before), `generate_batch` hands
each request its own limit. Everything else is TRL's.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.workload import Workload, prompt_text, reward_of


@dataclass(frozen=True, slots=True)
class TrlSettings:
    """What TRL's users may choose, as far as it can matter for speed on CPUs."""

    generation: str = "generate"  # or "continuous", "vllm"
    num_threads: int = 2  # of each process
    num_processes: int = 1
    micro_batch: int = 128  # sequences of one forward and backward pass, per process
    attention: str = "sdpa"
    compile: bool = False
    cache_implementation: str | None = None


def make_trainer(folder: str, workload: Workload, settings: TrlSettings, clock: Any) -> Any:
    """A GRPOTrainer whose model answers in planned lengths."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=settings.attention
    )
    rows = workload.num_steps * workload.groups_per_step
    dataset = Dataset.from_list([{"prompt": prompt_text(draw)} for draw in range(rows)])
    per_process = workload.samples_per_step // settings.num_processes
    micro_batch = min(settings.micro_batch, per_process)
    arguments = GRPOConfig(
        output_dir=f"{folder}-out",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        ddp_backend="gloo" if settings.num_processes > 1 else None,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=per_process // micro_batch,
        num_generations=workload.samples_per_prompt,
        max_completion_length=workload.longest_tokens,
        max_steps=workload.num_steps,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        beta=0.0,
        loss_type="grpo",
        shuffle_dataset=False,
        use_vllm=settings.generation == "vllm",
        vllm_mode="colocate",
        vllm_max_model_length=workload.context_tokens,
        use_transformers_continuous_batching=settings.generation == "continuous",
        torch_compile=settings.compile,
        cache_implementation=settings.cache_implementation,
        logging_steps=10**6,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=workload.seed,
    )
    plan_lengths(model, tokenizer, workload, settings, clock)
    return GRPOTrainer(
        model=model,
        reward_funcs=_rewards,
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[clock.callback()],
    )


def _rewards(completions: list[str], **_: Any) -> list[float | None]:
    return [reward_of(text) for text in completions]


class Clock:
    """When each step ended, and how much of it went into generation."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu_ends: list[float] = []  # what else runs on the machine hardly changes these
        self.generated_s: list[float] = []
        self.tokens: list[int] = []

    def callback(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class OnStep(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.ends.append(time.perf_counter())
                clock.cpu_ends.append(time.process_time())

        return OnStep()


def plan_lengths(
    model: Any, tokenizer: Any, workload: Workload, settings: TrlSettings, clock: Clock
) -> None:
    """Wrap the model's two ways to generate."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    draws = {
        tuple(tokenizer(prompt_text(draw))["input_ids"]): draw
        for draw in range(workload.num_steps * workload.groups_per_step)
    }

    def lengths_of(prompts: list[list[int]]) -> list[int]:
        counts: dict[int, int] = {}
        lengths = []
        for prompt in prompts:
            draw = draws[tuple(prompt)]
            lengths.append(workload.length(draw, counts.setdefault(draw, 0)))
            counts[draw] += 1
        return lengths

    class EndAsPlanned(LogitsProcessor):
        """Forbids the end of turn before the planned length and forces it there: one copy."""

        def __init__(self, lengths: list[int], prompt_tokens: int) -> None:
            steps = torch.arange(1, max(lengths) + 1)[:, None]
            at_end = steps >= torch.tensor(lengths)[None, :]
            self.column_TB = torch.where(at_end, 1e4, float("-inf"))
            self.prompt_tokens = prompt_tokens

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            scores[:, tokenizer.eos_token_id] = self.column_TB[
                input_ids.shape[1] - self.prompt_tokens
            ]
            return scores

    generate = model.generate

    def planned_generate(**named: Any) -> Any:
        began = time.perf_counter()
        ids, mask = named["input_ids"], named["attention_mask"]
        lengths = lengths_of([row[m.bool()].tolist() for row, m in zip(ids, mask, strict=True)])
        clock.tokens.append(sum(lengths))
        processor = EndAsPlanned(lengths, ids.shape[1])
        answer = generate(**named, logits_processor=LogitsProcessorList([processor]))
        clock.generated_s.append(time.perf_counter() - began)
        return answer

    def planned_generate_batch(inputs: list[list[int]], **named: Any) -> Any:
        began = time.perf_counter()
        lengths = lengths_of(inputs)
        clock.tokens.append(sum(lengths))
        named.pop("progress_bar", None)
        with model.continuous_batching_context_manager(
            generation_config=named["generation_config"],
            continuous_batching_config=named.get("continuous_batching_config"),
            workload_hints=_hints(inputs, lengths),
        ) as manager:
            ids = [
                manager.add_request(prompt, max_new_tokens=length, eos_token_id=-1)
                for prompt, length in zip(inputs, lengths, strict=True)
            ]
            results: dict[str, Any] = {}
            while len(results) < len(ids):
                result = manager.get_result(timeout=1)
                if result is not None and result.is_finished():
                    results[result.request_id] = result
                elif result is None and not manager.is_running():
                    raise RuntimeError("continuous batching ended early")
        clock.generated_s.append(time.perf_counter() - began)
        for result, length in zip((results[i] for i in ids), lengths, strict=True):
            assert len(result.generated_tokens) == length, (len(result.generated_tokens), length)
        return {i: results[i] for i in ids}

    model.generate = planned_generate
    model.generate_batch = planned_generate_batch


def _hints(inputs: list[list[int]], lengths: list[int]) -> Any:
    from transformers.generation.continuous_batching.initialization import WorkloadHints

    return WorkloadHints(
        max_prompt_length=max(map(len, inputs)),
        max_generated_length=max(lengths),
        num_requests=len(inputs),
    )


def main(document: dict[str, Any]) -> None:
    workload = Workload(**document["workload"])
    settings = TrlSettings(**document["settings"])
    import torch

    torch.set_num_threads(settings.num_threads)
    clock = Clock()
    began = time.perf_counter()
    trainer = make_trainer(document["folder"], workload, settings, clock)
    trainer.train()
    if int(os.environ.get("RANK", "0")) == 0:
        ends = clock.ends
        row = {
            "step_s": [b - a for a, b in itertools.pairwise(ends)],
            "cpu_s": [b - a for a, b in itertools.pairwise(clock.cpu_ends)],
            "first_step_s": ends[0] - began,
            "generate_s": clock.generated_s[1:],
            "tokens": clock.tokens[1:],
            "settings": asdict(settings),
        }
        Path(document["answer"]).write_text(json.dumps(row))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
