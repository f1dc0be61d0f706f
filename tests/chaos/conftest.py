"""Uses the integration tests' workplace. Collected only where deaths are asked for."""

import os

from conftest import workplace  # noqa: F401

if "CHAOS_N" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
