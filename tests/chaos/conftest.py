"""Uses the integration tests' workplace. Collected only where deaths are asked for."""

import os

import pytest
from conftest import new_workplace, workplace  # noqa: F401

if "CHAOS_N" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def calm_workplace(tmp_path):
    """For a run that nobody disturbs."""
    with new_workplace(tmp_path) as place:
        yield place
