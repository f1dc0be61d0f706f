"""One file per algorithm: the file's name is the algorithm's name in a pipeline.

Online: `Config`, `NEEDS`, `advantages(inputs, config)`, `loss(inputs, config)`.
Offline: `Config`, `NEEDS`, `objective(config)`.
Where the needs are not what `NEEDS` and the settings of the KL say, a file also has
`needs(config)`; ask `needs_of`.

May import: ops, ports and below; torch for typing only.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING

from posttrain.config.policy_gradient import PolicyGradientConfig

if TYPE_CHECKING:
    from posttrain.config.strict import StrictModel
    from posttrain.ports import Needs


def needs_of(algorithm: ModuleType, config: StrictModel) -> Needs:
    """What an algorithm asks of the trainer under these settings.

    `NEEDS` says it of the defaults. Of a policy gradient the KL's settings say whether a reference
    is used.
    """
    if hasattr(algorithm, "needs"):
        return algorithm.needs(config)
    if isinstance(config, PolicyGradientConfig):
        return replace(algorithm.NEEDS, reference=config.needs_reference)
    return algorithm.NEEDS
