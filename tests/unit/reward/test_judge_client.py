"""What the client does when an endpoint is down, slow, busy, or answers nonsense."""

import asyncio
import logging
import pickle
import socket
import time

import pytest
from judge_endpoint import Reply, rating

from posttrain.config.plugins import load_plugin
from posttrain.errors import RewardBroken
from posttrain.reward.judging.client import judge_for
from posttrain.reward.judging.form import JudgeNonsense
from posttrain.reward.protocol import Example, require_ready, score_one

judge = load_plugin("reward", "judge")
ROW = {"prompt": "What is 2 + 2?"}


def score(config, answer="4"):
    return score_one(judge, Example(ROW, answer), config)


def failure(config):
    with pytest.raises(RewardBroken) as raised:
        score(config)
    assert "sk-very-secret" not in f"{raised.value} {raised.value.help} {raised.value!r}"
    assert raised.value.__cause__ is None  # a traceback would show what the server said
    return raised.value


def test_a_request_holds_what_it_should(endpoint, settings):
    score(judge.Config(**settings, temperature=0.5, max_tokens=77))
    (body,), (headers,) = endpoint.bodies, endpoint.headers
    assert headers["authorization"] == "Bearer sk-very-secret"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge-model", 0.5, 77)
    assert body["response_format"]["type"] == "json_schema"


def test_no_key_of_another_endpoint_is_sent(endpoint, settings, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("OPENAI_ORG_ID", "my-organisation")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "my-project")
    score(judge.Config(**settings | {"api_key_env": ""}))
    sent = str(endpoint.headers)
    assert "sk-of-openai" not in sent and "my-organisation" not in sent and "my-proj" not in sent


def test_busy_and_broken_answers_are_tried_again(endpoint, settings):
    endpoint.script = [Reply(429, headers={"Retry-After": "1"}), Reply(500)]
    assert score(judge.Config(**settings, retries=2)).value == pytest.approx(8 / 9)
    first, second, _ = endpoint.times
    assert second - first >= 1.0  # by itself the library waits half a second


def test_retries_end(endpoint, settings):
    endpoint.script = [Reply(429, "slow down", {"Retry-After": "0.05"})] * 2
    error = failure(judge.Config(**settings, retries=1))
    assert error.message == f"judge `judge-model` at {endpoint.url} answered 429: slow down"
    assert error.help == "after 2 tries: set `requests_per_minute`, or more `retries`"
    assert len(endpoint.bodies) == 2


def test_a_slow_endpoint_is_named(endpoint, settings):
    endpoint.answer = lambda body: Reply(text=rating(9), delay_s=1.0)
    error = failure(judge.Config(**settings, retries=0, request_timeout_s=0.2))
    assert error.message == (
        f"judge `judge-model` at {endpoint.url} did not answer within 0.2 s, in 1 tries"
    )


def test_an_endpoint_that_is_down_is_named():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    error = failure(judge.Config(endpoint=url, model="m", retries=0, cache=False))
    assert error.message.startswith(f"judge `m` at {url} cannot be reached in 1 tries: ")
    assert error.help == "is the server up, and `endpoint` its address?"


def test_a_key_that_the_endpoint_repeats_is_hidden(endpoint, settings, caplog):
    caplog.set_level(logging.DEBUG)
    endpoint.answer = lambda body: Reply(401, "bad key sk-very-secret given")
    error = failure(judge.Config(**settings))
    assert "answered 401: bad key *** given" in error.message
    assert error.help == "it does not take the key in $JUDGE_KEY"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert "Bearer sk-very-secret" not in caplog.text


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(text="lovely weather"), "judge answered nonsense: 'lovely weather'"),
        (Reply(text='{"reason": "ri', finish="length"), "(cut after 20 tokens)"),
        (Reply(text=""), "judge answered nonsense: ''"),
        (Reply(text='{"hello": 1}', raw=True), "is no chat completion"),
        (Reply(text="<html>", raw=True), "did not answer with JSON"),
        (
            Reply(text="<html>", raw=True, headers={"Content-Type": "text/html"}),
            "is no chat completion",
        ),
        (Reply(404, "no such model"), "answered 404: no such model"),
    ],
)
def test_nonsense_is_broken_and_never_0(endpoint, settings, reply, words):
    endpoint.answer = lambda body: reply
    assert words in failure(judge.Config(**settings, retries=0)).message


def test_an_endpoint_without_structured_output_is_asked_without_from_then_on(endpoint, settings):
    def answer(body):
        if "response_format" in body:
            return Reply(400, "response_format is not supported")
        return "I think:\nRating: 10"

    endpoint.answer = answer
    config = judge.Config(**settings)
    assert score(config).value == 1.0
    assert score(config, "four").value == 1.0
    assert ["response_format" in body for body in endpoint.bodies] == [True, False, False]


def test_an_endpoint_with_the_newer_name_of_the_limit_is_spoken_to_in_it(endpoint, settings):
    def answer(body):
        if "max_tokens" in body:
            return Reply(400, "use 'max_completion_tokens' instead")
        return rating(10)

    endpoint.answer = answer
    assert score(judge.Config(**settings)).value == 1.0
    assert "response_format" in endpoint.bodies[1]
    assert endpoint.bodies[1]["max_completion_tokens"] == 1024


def test_a_refused_request_says_why(endpoint, settings):
    endpoint.answer = lambda body: Reply(400, "context too long")
    assert "answered 400: context too long" in failure(judge.Config(**settings)).message
    assert len(endpoint.bodies) == 2  # the second without response_format


def test_what_was_judged_once_is_not_asked_again(endpoint, settings, tmp_path):
    config = judge.Config(
        **settings | {"cache": True}, price_per_million_prompt=2, price_per_million_completion=10
    )
    first, second = score(config), score(config)
    # 300 prompt tokens at 2 a million and 20 completion tokens at 10: 0.0006 + 0.0002
    cost = pytest.approx(0.0008)
    assert first.parts == {"judging/rating": 9.0, "judging/cost": cost, "judging/cached": 0.0}
    assert second.parts == {"judging/rating": 9.0, "judging/cost": 0.0, "judging/cached": 1.0}
    assert (first.value, first.reason) == (second.value, second.reason)
    assert len(endpoint.bodies) == 1
    spending = judge_for(config).spending
    assert (spending.requests, spending.cached, spending.cost) == (1, 1, cost)
    assert (spending.prompt_tokens, spending.completion_tokens) == (300, 20)
    files = list((tmp_path / "cache" / "judges").iterdir())
    stored = b"".join(file.read_bytes() for file in files)
    assert b"because" in stored
    assert b"sk-very-secret" not in stored and b"2 + 2" not in stored


def test_another_question_is_asked(endpoint, settings):
    settings |= {"cache": True}
    for config in (
        judge.Config(**settings),
        judge.Config(**settings, temperature=1.0),
        judge.Config(**settings, rubric="Is it short?"),
        judge.Config(**settings | {"model": "other"}),
    ):
        assert score(config).parts["judging/cached"] == 0.0
    assert score(judge.Config(**settings), "5").parts["judging/cached"] == 0.0
    assert len(endpoint.bodies) == 5


def test_nonsense_is_not_kept(endpoint, settings):
    config = judge.Config(**settings | {"cache": True})
    endpoint.script = [Reply(text="nonsense")]
    failure(config)
    assert score(config).value == pytest.approx(8 / 9)


def together(config, answers):
    async def all_of_them():
        return await asyncio.gather(*(judge.score(ROW, answer, config) for answer in answers))

    return asyncio.run(all_of_them())


def test_equal_answers_of_a_group_are_paid_for_once(endpoint, settings):
    scores = together(judge.Config(**settings | {"cache": True}), ["4"] * 8)
    assert len({score.value for score in scores}) == 1 and len(endpoint.bodies) == 1


def test_no_more_requests_are_under_way_than_allowed(endpoint, settings):
    endpoint.answer = lambda body: Reply(text=rating(9), delay_s=0.3)
    together(judge.Config(**settings, concurrency=3), map(str, range(9)))
    assert 1 < endpoint.most_at_once <= 3 and len(endpoint.bodies) == 9


def test_requests_keep_the_pace(endpoint, settings):
    score(judge.Config(**settings))  # imports the library
    endpoint.times.clear()
    started = time.monotonic()
    config = judge.Config(**settings, requests_per_minute=300)  # five a second
    endpoint.script = [Reply(500, headers={"Retry-After": "0.01"})] * 2  # tries count as requests
    together(config, map(str, range(8)))
    assert len(endpoint.times) == 10
    # Five at once, then one every 0.2 s: the tenth after a second.
    assert max(endpoint.times) - started >= 1.0 - 0.01


def test_ready_asks_the_judge_past_its_cache(endpoint, settings):
    config = judge.Config(**settings | {"cache": True})
    require_ready(judge, config)
    require_ready(judge, config)
    assert len(endpoint.bodies) == 2
    endpoint.answer = lambda body: Reply(text="hello")
    with pytest.raises(JudgeNonsense):
        require_ready(judge, config)


def test_ready_says_what_is_missing(endpoint, settings, monkeypatch):
    with pytest.raises(RewardBroken, match="the judge has no `endpoint`"):
        require_ready(judge, judge.Config(stage="critic"))  # its address is given by the run
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(RewardBroken, match=r"\$JUDGE_KEY is not set") as raised:
        require_ready(judge, judge.Config(**settings))
    assert raised.value.help == "export JUDGE_KEY=..., where the run is started"
