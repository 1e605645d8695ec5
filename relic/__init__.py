"""RELIC: an open interactive video world model with long-horizon memory (arXiv 2512.04040).

`relic.RelicTransformer3DModel` and `relic.RelicPipeline` are imported when they are first asked for: diffusers takes
seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relic.model.relic_transformer_3d import RelicTransformer3DModel as RelicTransformer3DModel
    from relic.pipeline import RelicPipeline as RelicPipeline
else:
    _LATE = {"RelicTransformer3DModel": "relic.model.relic_transformer_3d", "RelicPipeline": "relic.pipeline"}

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LATE[name]), name)
