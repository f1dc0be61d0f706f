"""The settings that every judge has, whatever it is asked."""

from __future__ import annotations

import re
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from posttrain.config.plugin import StageName
from posttrain.config.strict import Contradiction, StrictModel

_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


class JudgeSettings(StrictModel):
    """Which model judges, where it is, how it is asked, and what that costs."""

    UNCOUNTED: ClassVar[tuple[str, ...]] = (
        "api_key_env",
        "concurrency",
        "requests_per_minute",
        "retries",
        "request_timeout_s",
        "price_per_million_prompt",
        "price_per_million_completion",
        "cache",
        "cache_folder",
    )
    """Settings that change no judgement: a stage's identity does not count them."""

    stage: StageName = ""
    """The stage of the pipeline whose model judges, in place of `endpoint` and `model`: an engine
    of the run's own serves it while an online_rl stage runs."""
    endpoint: str = ""
    """Address of a server that speaks OpenAI's chat protocol, as in `https://api.openai.com/v1`."""
    model: str = ""
    """The judge's name at the endpoint; for one at 127.0.0.1 the cache knows it by this alone."""
    api_key_env: str = ""
    """The environment variable that holds the API key, as in `OPENAI_API_KEY`; empty: no key."""
    temperature: float | None = Field(default=0.0, ge=0)
    """Of the judge's sampling; empty where the endpoint allows only its own."""
    max_tokens: int = Field(default=1024, gt=0)
    """Most tokens of one judgement, the judge's reasoning included."""
    max_answer_characters: int = Field(default=20_000, gt=0)
    """A longer question, answer or reference loses its middle before the judge sees it."""
    concurrency: int = Field(default=16, gt=0)
    """Requests under way at once, of each process that scores."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Most requests a minute, retries included, of each process that scores; empty: no limit."""
    retries: int = Field(default=3, ge=0)
    """Further tries after 429, 5xx, a lost connection or a timeout; waits as Retry-After says."""
    request_timeout_s: float = Field(default=60.0, gt=0)
    """How long one try may take; all tries together have to fit into the reward's `timeout_s`."""
    price_per_million_prompt: float = Field(default=0.0, ge=0)
    """What a million prompt tokens cost, in whatever currency reports shall show."""
    price_per_million_completion: float = Field(default=0.0, ge=0)
    """What a million completion tokens cost."""
    cache: bool = True
    """Never ask the same twice: judgements are kept on disk by their question's hash."""
    cache_folder: str = ""
    """Where they are kept; empty: judges/ in $POSTTRAIN_CACHE, or else in ~/.cache/posttrain."""

    @field_validator("endpoint")
    @classmethod
    def _address(cls, endpoint: str) -> str:
        """Messages and caches name the endpoint, so that nothing secret may stand in it."""
        parts = urlsplit(endpoint)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise Contradiction(
                "an address with a user, a password or a query in it",
                "the plain address; keys come from the variable that `api_key_env` names",
            )
        if endpoint and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise Contradiction("is no http(s) address", "as in http://127.0.0.1:8000/v1")
        return endpoint.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, name: str) -> str:
        """A key pasted in the name's place must not be shown, let alone be stored with a run."""
        if name and not _VARIABLE.match(name):
            raise Contradiction(
                "is no variable's name", "`export JUDGE_KEY=...`, then `api_key_env: JUDGE_KEY`"
            )
        return name

    @model_validator(mode="after")
    def _model_is_named(self) -> JudgeSettings:
        if self.stage and (self.endpoint or self.model):
            raise Contradiction(
                f"a `stage` ({self.stage}) and an endpoint's judge", "keep one: they are two judges"
            )
        if not self.stage and not self.endpoint:
            raise Contradiction(
                "a judge without `endpoint` or `stage`",
                "endpoint: http://127.0.0.1:8000/v1 and model: NAME; or the stage of a model",
            )
        if self.endpoint and not self.model:
            raise Contradiction("an endpoint without a `model`", "name the judge: model: NAME")
        return self
