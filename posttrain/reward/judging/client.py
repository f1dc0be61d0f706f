"""Asking a judge: the one place that talks to an endpoint, with the `openai` library.

    Judge.ask --cached?--> the form, read
              --no--> one place of `concurrency` --pace--> endpoint --form, read--> cache

The library tries again after 429, 5xx, lost connections and timeouts, as Retry-After says; each try
waits for its turn in the pace. Whatever goes wrong comes out as RewardBroken: never as a score, and
never with the key in it. Questions with the same words wait for one another, so that equal answers
of a group are paid for once.
"""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from posttrain.errors import RewardBroken
from posttrain.reward.judging.cache import JudgementCache, Said, cache_folder, question_hash
from posttrain.reward.judging.form import Form, JudgeNonsense
from posttrain.reward.judging.pace import Pace
from posttrain.reward.judging.settings import JudgeSettings
from posttrain.reward.judging.trouble import endpoint_trouble
from posttrain.reward.judging.wording import with_fresh_fence

_NO_KEY = (
    "none"  # the library insists on one, and would take another endpoint's from OPENAI_API_KEY
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LIMIT, _NEW_LIMIT = "max_tokens", "max_completion_tokens"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A filled-in form. Example: Judgement(9.0, "right and complete", cost=0.0004, cached=False)"""

    choice: float | str
    reason: str
    cost: float
    cached: bool


@dataclass(slots=True)
class Spending:
    """What a process has asked of a judge so far; `cost` in the currency of the prices given."""

    requests: int = 0  # answered ones
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class _Lane:
    """What belongs to one event loop: connections, and who waits."""

    def __init__(self, client: Any, concurrency: int) -> None:
        self.client = client
        self.places = asyncio.Semaphore(concurrency)
        self.questions: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


class Judge:
    """One model behind one endpoint. Take it from `judge_for`: its limits are a process' own."""

    def __init__(self, settings: JudgeSettings) -> None:
        self.spending = Spending()
        self._settings = settings
        self._pace = Pace(settings.requests_per_minute)
        folder = cache_folder(settings.cache_folder)
        self._cache = JudgementCache(folder) if settings.cache else None
        self._lanes: dict[asyncio.AbstractEventLoop, _Lane] = {}
        self._takes_schema = True  # until the endpoint says otherwise
        self._limit_key = _LIMIT

    async def ask(self, prompt: str, form: Form, *, afresh: bool = False) -> Judgement:
        """The judge's judgement. `afresh` asks even where it has said it before.

        Raises RewardBroken where the endpoint fails, JudgeNonsense where the form is not filled in.
        """
        lane = self._lane()
        question = self._hash(prompt, form)
        async with lane.questions.setdefault(question, asyncio.Lock()):
            said = None if afresh or self._cache is None else self._cache.get(question)
            if said is not None:
                self.spending.cached += 1
                return Judgement(*form.read(said.text), cost=0.0, cached=True)
            async with lane.places:
                said, was_cut = await self._request(lane.client, prompt, form)
            cost = self._count(said)
            try:
                choice, reason = form.read(said.text)
            except JudgeNonsense as nonsense:
                nonsense.cost = cost
                if was_cut:
                    nonsense.add_to_message(f" (cut after {said.completion_tokens} tokens)")
                raise
            if self._cache is not None:
                self._cache.put(question, said)
            return Judgement(choice, reason, cost, cached=False)

    async def _request(self, client: Any, prompt: str, form: Form) -> tuple[Said, bool]:
        """What the judge says, and whether it was cut short."""
        import openai

        settings = self._settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": "user", "content": with_fresh_fence(prompt)}],
        }
        if settings.temperature is not None:
            body["temperature"] = settings.temperature
        takes_schema, limit_key = self._takes_schema, self._limit_key
        while True:
            dialect: dict[str, Any] = {limit_key: settings.max_tokens}
            if takes_schema:
                dialect["response_format"] = form.response_format()
            try:
                answer = await client.chat.completions.create(**body, **dialect)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as refused:
                if limit_key == _LIMIT and _NEW_LIMIT in str(refused):
                    limit_key = _NEW_LIMIT
                elif takes_schema:
                    takes_schema = False
                else:
                    raise endpoint_trouble(refused, settings, self._key()) from None
                continue
            except (openai.OpenAIError, ValueError) as error:  # ValueError: no JSON came back
                raise endpoint_trouble(error, settings, self._key()) from None
            self._takes_schema, self._limit_key = takes_schema, limit_key
            return _said(answer)

    def _lane(self) -> _Lane:
        """This loop's connections, made on first use. Raises RewardBroken without an endpoint."""
        loop = asyncio.get_running_loop()
        if loop not in self._lanes:
            self._lanes = {each: lane for each, lane in self._lanes.items() if not each.is_closed()}
            self._lanes[loop] = _Lane(self._client(), self._settings.concurrency)
        return self._lanes[loop]

    def _client(self) -> Any:
        settings = self._settings
        if not settings.endpoint:
            raise RewardBroken(
                "the judge has no `endpoint`",
                help="endpoint: https://api.openai.com/v1, model: NAME, api_key_env: VARIABLE",
            )
        key = self._key()
        import openai

        async def in_turn(_request: Any) -> None:
            await asyncio.sleep(self._pace.reserve())

        host = urlsplit(settings.endpoint).hostname or ""
        client = openai.AsyncOpenAI(
            base_url=settings.endpoint,
            api_key=key or _NO_KEY,
            timeout=settings.request_timeout_s,
            max_retries=settings.retries,
            http_client=openai.DefaultAsyncHttpxClient(
                event_hooks={"request": [in_turn]},
                trust_env=host not in _LOOPBACK,  # no proxy to ourselves
            ),
        )
        if not host.endswith("openai.com"):  # nobody else's business; taken from the environment
            client.organization = client.project = None
        return client

    def _key(self) -> str:
        """The API key. Raises RewardBroken where its variable is named and not set."""
        name = self._settings.api_key_env
        if not name:
            return ""
        if not (key := os.environ.get(name, "").strip()):
            raise RewardBroken(
                f"${name} is not set; it has to hold the key of the judge at "
                f"{self._settings.endpoint}",
                help=f"export {name}=..., where the run is started",
            )
        return key

    def _hash(self, prompt: str, form: Form) -> str:
        settings = self._settings
        return question_hash(
            endpoint=_stable(settings.endpoint),
            model=settings.model,
            prompt=prompt,
            form=[form.field, *form.choices],
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
        )

    def _count(self, said: Said) -> float:
        settings, spending = self._settings, self.spending
        cost = settings.price_per_million_prompt * said.prompt_tokens / 1e6
        cost += settings.price_per_million_completion * said.completion_tokens / 1e6
        spending.requests += 1
        spending.prompt_tokens += said.prompt_tokens
        spending.completion_tokens += said.completion_tokens
        spending.cost += cost
        return cost


def _stable(endpoint: str) -> str:
    """The endpoint as the cache knows it: a server of this host gets another port at each start."""
    return "loopback" if urlsplit(endpoint).hostname in _LOOPBACK else endpoint


def _said(answer: Any) -> tuple[Said, bool]:
    """The text and tokens of a chat completion. Raises JudgeNonsense where it is none."""
    choice: Any = next(iter(getattr(answer, "choices", None) or ()), None)
    message = getattr(choice, "message", None)
    if message is None:
        raise JudgeNonsense(
            f"judge answered nonsense: {str(answer)[:100]!r} is no chat completion",
            help="does `endpoint` end in /v1?",
        )
    usage = getattr(answer, "usage", None)
    prompt_tokens = int(getattr(usage, "prompt_tokens", 0) or 0)
    completion_tokens = int(getattr(usage, "completion_tokens", 0) or 0)
    text = message.content or getattr(message, "refusal", None) or ""
    return Said(text, prompt_tokens, completion_tokens), choice.finish_reason == "length"


_judges: dict[tuple[Any, ...], Judge] = {}
_judges_lock = threading.Lock()


def judge_for(settings: JudgeSettings) -> Judge:
    """The process' judge with these settings: limits and counts are shared by all who ask it."""
    key = tuple(getattr(settings, name) for name in JudgeSettings.model_fields)
    key = (*key, os.environ.get("POSTTRAIN_CACHE", ""))
    with _judges_lock:
        if key not in _judges:
            _judges[key] = Judge(settings)
        return _judges[key]
