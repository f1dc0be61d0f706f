"""Measurements from plain lists of right and wrong."""

import pytest

from posttrain.config.suites import Suite
from posttrain.stages import statistics
from posttrain.stages.measure import Measurement, TaskResult, points
from posttrain.types import Interval


@pytest.fixture
def suite():
    return Suite(
        gain=["microworld/arithmetic"],
        keep=["microworld/copy", "perplexity/wikitext"],
        tax_since="base",
    )


@pytest.fixture
def measured(suite):
    """`measured(arithmetic=[1, 0], copy=[1, 1], perplexity=7.5)`: one model's measurement."""

    def build(arithmetic=None, copy=None, perplexity=None):
        results = {
            f"microworld/{task}": TaskResult(
                "accuracy", statistics.share(passed), len(passed), tuple(passed)
            )
            for task, passed in (("arithmetic", arithmetic), ("copy", copy))
            if passed is not None
        }
        if perplexity is not None:
            interval = Interval(perplexity, perplexity - 1, perplexity + 1)
            results["perplexity/wikitext"] = TaskResult("perplexity", interval, 3)
        gain, keep = points(suite.gain, results), points(suite.keep, results)
        return Measurement("abilities", "f00d", results, gain, keep, 1.5)

    return build
