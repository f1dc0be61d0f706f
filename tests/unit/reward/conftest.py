import pytest
from judge_endpoint import JudgeEndpoint, rating


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    """A judge that gives everything 9 of 10, with a key and a cache of its own."""
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    server = JudgeEndpoint(lambda body: rating(9))
    yield server
    server.close()


@pytest.fixture
def settings(endpoint):
    """The least that a judge's configuration needs; without a cache."""
    return {
        "endpoint": endpoint.url,
        "model": "judge-model",
        "api_key_env": "JUDGE_KEY",
        "cache": False,
    }
