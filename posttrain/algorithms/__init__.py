"""One file per algorithm: the file's name is the algorithm's name in a pipeline.

Online: `Config`, `NEEDS`, `advantages(inputs, config)`, `loss(inputs, config)`.
Offline: `Config`, `NEEDS`, `objective(config)`.
Where the needs depend on the settings, a file also has `needs(config)`; ask `needs_of`.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posttrain.config.strict import StrictModel
    from posttrain.ports import Needs


def needs_of(algorithm: ModuleType, config: StrictModel) -> Needs:
    """What an algorithm asks of the trainer under these settings."""
    return algorithm.needs(config) if hasattr(algorithm, "needs") else algorithm.NEEDS
