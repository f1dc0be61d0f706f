"""What went wrong at an endpoint, in one sentence that names it, with the cure; never the key."""

from __future__ import annotations

from typing import Any

from posttrain.errors import RewardBroken
from posttrain.reward.judging.settings import JudgeSettings

_MOST_WORDS = 300  # characters of the endpoint's own


def endpoint_trouble(error: Exception, settings: JudgeSettings, key: str) -> RewardBroken:
    """A RewardBroken for an error of the `openai` library, or for an answer that is no JSON."""
    import openai

    judge = f"judge `{settings.model}` at {settings.endpoint}"
    tries = f"{settings.retries + 1} tries"
    if isinstance(error, openai.APITimeoutError):
        message = f"{judge} did not answer within {settings.request_timeout_s:g} s, in {tries}"
        return RewardBroken(message, help="raise `request_timeout_s`, or lower `concurrency`")
    if isinstance(error, openai.APIConnectionError):
        cause = _hidden(str(error.__cause__ or error), key)
        message = f"{judge} cannot be reached in {tries}: {cause}"
        return RewardBroken(message, help="is the server up, and `endpoint` its address?")
    if isinstance(error, openai.APIStatusError):
        words = _hidden(_words(error), key)
        return RewardBroken(
            f"{judge} answered {error.status_code}: {words}",
            help=_cure(error.status_code, settings),
        )
    words = _hidden(f"{type(error).__name__}: {error}", key)
    message = f"{judge} did not answer with JSON: {words}"
    return RewardBroken(message, help="does `endpoint` end in /v1?")


def _cure(status: int, settings: JudgeSettings) -> str:
    if status in (401, 403):
        if settings.api_key_env:
            return f"it does not take the key in ${settings.api_key_env}"
        return "it wants a key: `api_key_env` names the variable that holds it"
    if status == 404:
        return "`endpoint` (does it end in /v1?) or `model` is not what it knows"
    if status == 429:
        return f"after {settings.retries + 1} tries: set `requests_per_minute`, or more `retries`"
    if status >= 500:
        return f"after {settings.retries + 1} tries; the server's own log says more"
    return "a setting that it does not take: its words say which"


def _words(error: Any) -> str:
    """The endpoint's own words: the `message` of its error object, or the start of its answer."""
    body = error.body
    inner = body.get("error", body) if isinstance(body, dict) else body
    text = inner.get("message") if isinstance(inner, dict) else inner
    return str(text or error.message)


def _hidden(text: str, key: str) -> str:
    """One line without the key: some servers repeat it when they do not like it."""
    text = text.replace(key, "***") if key else text
    return " ".join(text.split())[:_MOST_WORDS]
