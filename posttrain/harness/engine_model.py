"""One of our engines as a model of the harness: text in, log-likelihoods and answers out.

Tokens are made as the harness's own vLLM model makes them: the tokenizer's default for special
tokens, a context and its continuation encoded together, prompts that are too long cut on the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs

from posttrain.types import Prompt, Rollout, Sampling

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedTokenizerBase

FIRST_ROUND_TOKENS = 64
DEFAULT_ANSWER_TOKENS = 256  # the harness's own
KNOWN = frozenset({"until", "do_sample", "temperature", "max_gen_toks"})
ONLY_SAMPLED = frozenset({"top_p", "top_k", "min_p"})  # change nothing where answers are greedy
CHANGE_NOTHING = {"top_p": 1.0, "num_beams": 1, "repetition_penalty": 1.0}
ROUND_SEED = 1_000_003  # rounds draw other numbers than the one before: an odd, large step


class Engine(Protocol):
    """What is asked of an engine: blocking calls (a LeasedEngine has them)."""

    def generate_many(self, prompts: list[Prompt], sampling: Sampling) -> list[Rollout]: ...

    def token_logprobs(
        self, sequences: list[tuple[Sequence[int], Sequence[int]]]
    ) -> list[list[float]]: ...


@dataclass(slots=True)
class _Answer:
    """One answer that grows round by round."""

    prompt_ids: list[int]
    stops: list[str]
    max_tokens: int
    temperature: float
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    is_over: bool = False


def sampling_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A task's generation settings in one form: `until`, `max_gen_toks`, `temperature`, ...

    Greedy (temperature 0) where a task does not say that it samples; 1 where it does and says no
    more, as in transformers.
    """
    found = dict(normalize_gen_kwargs(dict(settings), DEFAULT_ANSWER_TOKENS))
    default = 1.0 if found["do_sample"] else 0.0
    return found | {"temperature": float(found.get("temperature", default))}


def unknown_settings(settings: Mapping[str, Any]) -> list[str]:
    """Keys of a task's generation settings that would change its answers and that engines do not
    have here.

    Example: unknown_settings({"do_sample": True, "top_p": 0.9, "num_beams": 1}) is ["top_p"].
    """
    found = sampling_settings(settings)
    without = KNOWN if found["temperature"] else KNOWN | ONLY_SAMPLED
    return sorted(
        key
        for key, value in found.items()
        if key not in without and value != CHANGE_NOTHING.get(key, object())
    )


def before_stops(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stops in it; empty stops mean nothing.

    Example: before_stops("4. Q: 5", [" Q:", "."]) is "4".
    """
    for stop in stops:
        if stop:
            text = text.partition(stop)[0]
    return text


class EngineModel(TemplateLM):
    """Log-likelihoods and answers of an engine of `max_length` tokens.

    The engine's log-probs say nothing of whether a token was the likeliest one; where
    `wants_greedy`, the engine's own greedy answer to each context says it.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        seed: int,
        wants_greedy: bool,
    ) -> None:
        super().__init__()
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.num_asked = 0
        self.num_cut = 0  # of those asked, without the beginning of their prompt
        self._engine = engine
        self._max_length = max_length
        self._seed = seed
        self._wants_greedy = wants_greedy

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        rendered: Any = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(rendered)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = not (bos and string.startswith(bos))  # a template has put it there
        ids: list[int] = self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"]
        return ids

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy) of each continuation [T] after its context."""
        asked: list[tuple[Sequence[int], Sequence[int]]]
        asked = [self._fitted(context, continuation) for _, context, continuation in requests]
        logprobs = self._engine.token_logprobs(asked)
        greedy = self._are_greedy(asked) if self._wants_greedy else [False] * len(asked)
        return [(sum(each), is_greedy) for each, is_greedy in zip(logprobs, greedy, strict=True)]

    def _fitted(
        self, context: list[int], continuation: list[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The two, without the context's beginning where they are too long; scoring asks for one
        token more.
        """
        self.num_asked += 1
        room = self._max_length - 1 - len(continuation)
        if room < 1:
            raise ValueError(f"an answer of {len(continuation)} tokens leaves no room to ask")
        self.num_cut += len(context) > room
        return tuple(context[-room:]), tuple(continuation)

    def _are_greedy(self, asked: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[bool]:
        """Whether each continuation is what the engine says after its context at temperature 0."""
        longest: dict[tuple[int, ...], int] = {}
        for context, continuation in asked:
            key = tuple(context)
            longest[key] = max(longest.get(key, 1), len(continuation))
        said: dict[tuple[int, ...], tuple[int, ...]] = {}
        for tokens in sorted(set(longest.values())):
            contexts = [each for each, length in longest.items() if length == tokens]
            for context, rollout in zip(
                contexts, self._generate(contexts, tokens, 0.0, self._seed), strict=True
            ):
                said[context] = rollout.token_ids
        return [said[tuple(context)][: len(wanted)] == tuple(wanted) for context, wanted in asked]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        raise NotImplementedError("tasks that score whole texts are refused before they are asked")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers up to the first of their stops, or as many tokens as the task allows.

        Engines know no stops of text, so answers grow in rounds of 64 tokens, then 128, ...: what
        has met a stop asks no more.
        """
        answers = [self._wanted(*request.args) for request in requests]
        size = FIRST_ROUND_TOKENS
        while any(not answer.is_over for answer in answers):
            self._grow([answer for answer in answers if not answer.is_over], size)
            size *= 2
        return [answer.text for answer in answers]

    def _wanted(self, context: str, settings: Mapping[str, Any]) -> _Answer:
        kwargs = sampling_settings(settings)
        max_tokens = min(int(kwargs["max_gen_toks"]), self._max_length // 2)
        ids = self.tok_encode(context) or [self.prefix_token_id]
        room = self._max_length - max_tokens
        self.num_asked += 1
        self.num_cut += len(ids) > room
        return _Answer(ids[-room:], list(kwargs["until"]), max_tokens, kwargs["temperature"])

    def _grow(self, answers: Sequence[_Answer], size: int) -> None:
        """Each answer longer by at most `size` tokens."""
        alike: dict[tuple[int, float], list[_Answer]] = {}
        for answer in answers:
            tokens = min(size, answer.max_tokens - len(answer.token_ids))
            alike.setdefault((tokens, answer.temperature), []).append(answer)
        for (tokens, temperature), group in alike.items():
            asked = [(*answer.prompt_ids, *answer.token_ids) for answer in group]
            seed = self._seed + ROUND_SEED * len(group[0].token_ids)
            found = self._generate(asked, tokens, temperature, seed)
            for answer, rollout in zip(group, found, strict=True):
                answer.token_ids += rollout.token_ids
                whole: Any = self.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
                answer.text = before_stops(whole, answer.stops)
                answer.is_over = (
                    rollout.finish == "stop"
                    or answer.text != whole
                    or len(answer.token_ids) >= answer.max_tokens
                )

    def _generate(
        self, asked: Sequence[tuple[int, ...]], tokens: int, temperature: float, seed: int
    ) -> list[Rollout]:
        prompts = [Prompt(f"lm_eval/{i}", "lm_eval", ids, "", {}) for i, ids in enumerate(asked)]
        return self._engine.generate_many(prompts, Sampling(tokens, temperature, seed))
