from collections.abc import Callable

import pytest
import torch


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest, require: Callable[..., None]) -> torch.dtype:
    """The formats of the C++ operators; bfloat16 where the processor has instructions for it."""
    require("compiler", *(["bfloat16"] if request.param == torch.bfloat16 else []))
    return request.param
