import subprocess
import sys

import pytest

pytestmark = pytest.mark.render

BOTH = """
from relic_data.renderer import Renderer
Renderer(8, 8)
import triton
print("both live")
"""


def test_triton_may_be_imported_after_a_renderer_was_made() -> None:
    pytest.importorskip("triton")
    done = subprocess.run([sys.executable, "-c", BOTH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert "both live" in done.stdout
