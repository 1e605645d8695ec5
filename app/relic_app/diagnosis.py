"""What this machine has of what playing, recording, rendering and testing need; each check is a function.

Nothing heavy is imported before a check runs, and a package that cannot be imported is a finding, not a crash.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["ok", "warn", "fail"]

_PACKAGES = (
    "torch", "transformers", "diffusers", "accelerate", "gradio", "fastapi", "uvicorn", "websockets", "numpy", "pillow",
    "safetensors", "einops", "opencv-python-headless", "imageio", "psutil",
)  # fmt: skip
_OLDEST_PYTHON = (3, 11)
_TORCH = "2.13"
_OLDEST_CAPABILITY = (8, 0)
_APT = "sudo apt-get install -y --no-install-recommends"
_GL_PACKAGES = "libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri"
FURNITURE = Path("/usr/share/sweethome3d/furniture")
_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PROBE_SECONDS = 30
_OPEN_A_BUFFER = """
from panda3d import core
core.loadPrcFileData("", "load-display p3headlessgl\\nwindow-type none\\naudio-library-name null\\n")
pipe = core.GraphicsPipeSelection.get_global_ptr().make_default_pipe()
size, flags = core.WindowProperties.size(8, 8), core.GraphicsPipe.BF_refuse_window
buffer = pipe and core.GraphicsEngine.get_global_ptr().make_output(
    pipe, "probe", 0, core.FrameBufferProperties(), size, flags)
raise SystemExit(0 if buffer else 1)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was checked.
        status: `fail` where playing is impossible without it, `warn` where something else is.
        detail: what was found.
        remedy: what to do when not ok.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


def ok(name: str, detail: str) -> Finding:
    """A check that found what it looked for."""
    return Finding(name=name, status="ok", detail=detail)


def diagnose(weights: Path | None) -> Iterator[Finding]:
    """Run every check.

    Args:
        weights: folder; the default one when None.
    """
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("Python", check_python),
        ("packages", check_packages),
        ("torch", check_torch),
        ("processor", check_processor),
        ("C++ operators", check_native),
        ("GPU", check_gpus),
        ("Triton", check_triton),
        ("xformers", check_xformers),
        ("text encoder", check_text_encoder),
        ("weights", lambda: check_weights(weights)),
        ("gallery", lambda: check_gallery(weights)),
        ("memory", check_memory),
        ("disk", check_disk),
        ("ffmpeg", check_ffmpeg),
        ("rendering", check_rendering),
        ("Chromium", check_chromium),
    )
    for name, check in checks:
        try:
            yield check()
        except ImportError as error:
            yield Finding(name=name, status="fail", detail=f"cannot be checked: {error}", remedy="make setup")


def check_python() -> Finding:
    """Python 3.11 or newer."""
    version = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if tuple(sys.version_info[:2]) >= _OLDEST_PYTHON:
        return ok("Python", version)
    return Finding(name="Python", status="fail", detail=version, remedy="install Python 3.11 or newer")


def check_packages() -> Finding:
    """The packages that playing imports."""
    found, missing = [], []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if not missing:
        return ok("packages", ", ".join(found))
    return Finding(
        name="packages",
        status="fail",
        detail=f"missing: {', '.join(missing)}",
        remedy=f"pip install -c constraints.txt {' '.join(missing)}",
    )


def check_torch() -> Finding:
    """PyTorch of the version that this project was tested with, and which devices its build knows."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    if torch.version.hip:
        build = f"ROCm {torch.version.hip}"
    detail = f"{torch.__version__} ({build}), {torch.get_num_threads()} threads"
    if torch.__version__.startswith(f"{_TORCH}."):
        return ok("torch", detail)
    return Finding(
        name="torch", status="warn", detail=f"{detail}; tested with {_TORCH}", remedy=f"pip install torch=={_TORCH}.0"
    )


def check_processor() -> Finding:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    detail = f"{cores} core{'s' if cores != 1 else ''}"
    if cores >= 2:
        return ok("processor", detail)
    return Finding(
        name="processor",
        status="warn",
        detail=detail,
        remedy="world and browser share the core: play from a browser on another machine, or take a larger one",
    )


def check_native() -> Finding:
    """The operators in C++ by which a world is played on a processor, compiled where they are not yet."""
    import torch

    from relic_kernels.native import has_tiles, why_not, why_not_bytes

    why = why_not(torch.float32)
    if why is None:
        formats = ["float32"]
        formats += ["bfloat16"] if why_not(torch.bfloat16) is None else []
        formats += ["8-bit integers"] if why_not_bytes() is None else []
        tiles = "; products by AMX tiles" if has_tiles() else ""
        return ok("C++ operators", f"compiled for this processor, in {', '.join(formats)}{tiles}")
    fault, _, remedy = why.rpartition(": ")
    return Finding(
        name="C++ operators",
        status="warn",
        detail=f"{fault or why}; the world is drawn by torch's, at half the speed or less",
        remedy=remedy if fault else "unset RELIC_NATIVE",
    )


def check_gpus() -> Finding:
    """Every GPU's name, memory and compute capability, and the driver."""
    import torch

    driver = _driver()
    if not torch.cuda.is_available():
        if driver is None:
            return ok("GPU", "none; the mini world plays on the processor")
        reason = "this torch is built without CUDA" if torch.version.cuda is None else "torch cannot use it"
        return Finding(
            name="GPU",
            status="warn",
            detail=f"driver {driver} is installed, but {reason}",
            remedy=f"make play TORCH=..., with a CUDA build of torch {_TORCH} that the driver supports",
        )
    rows, old = [], []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        rows.append(f"{device.name}, {device.total_memory / 1e9:.0f} GB, compute {device.major}.{device.minor}")
        if (device.major, device.minor) < _OLDEST_CAPABILITY:
            old.append(device.name)
    detail = f"{'; '.join(rows)}; driver {driver or 'unknown'}"
    if not old:
        return ok("GPU", detail)
    return Finding(
        name="GPU",
        status="warn",
        detail=detail,
        remedy=f"{', '.join(old)} is older than compute 8.0, which bfloat16 and the kernels need: hide it with "
        "CUDA_VISIBLE_DEVICES",
    )


def _driver() -> str | None:
    """The NVIDIA driver's version; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else None


def _for_gpus(name: str, package: str, requirement: str) -> Finding:
    import torch

    try:
        return ok(name, f"{importlib.metadata.version(package)}; works on GPUs only")
    except importlib.metadata.PackageNotFoundError:
        if not torch.cuda.is_available():
            return ok(name, "not installed; only a GPU would need it")
    return Finding(
        name=name, status="warn", detail="not installed", remedy=f"pip install -c constraints.txt '{requirement}'"
    )


def check_triton() -> Finding:
    """Triton, in which the GPU kernels are written."""
    return _for_gpus("Triton", "triton", "triton==3.7.1")


def check_xformers() -> Finding:
    """xformers, which diffusers may use; nothing here does."""
    return _for_gpus("xformers", "xformers", "xformers>=0.0.35")


def check_text_encoder() -> Finding:
    """The mini world's text encoder."""
    from relic.text import find_minilm

    try:
        return ok("text encoder", str(find_minilm()))
    except FileNotFoundError as error:
        return Finding(
            name="text encoder", status="fail", detail="not installed", remedy=str(error).rpartition(": ")[2]
        )


def check_weights(given: Path | None) -> Finding:
    """The weights folder, every file's sha256 included."""
    from relic.weights import default_weights_dir, read_manifest

    folder = given or default_weights_dir()
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError) as error:
        return Finding(
            name="weights", status="fail", detail=str(error), remedy="fetch weights/ whole, or name it: --weights"
        )
    return ok("weights", f"{', '.join(manifest.files)} in {folder}, intact")


def check_gallery(given: Path | None) -> Finding:
    """Pictures to start from."""
    from relic.weights import default_weights_dir
    from relic_app.gallery import Gallery

    remedy = "fetch the weights folder whole, gallery too"
    try:
        count = len(Gallery.load(given or default_weights_dir()).pictures)
    except (OSError, ValueError) as error:
        return Finding(name="gallery", status="fail", detail=str(error), remedy=remedy)
    if count:
        return ok("gallery", f"{count} start pictures")
    return Finding(name="gallery", status="fail", detail="no start pictures", remedy=remedy)


_PROCESS_BYTES = 1.2e9
"""What Python, PyTorch, Gradio and the page's server hold beside a world."""


def check_memory() -> Finding:
    """Memory that playing the mini world would find free."""
    import torch

    from relic.machine import available_bytes

    free = available_bytes(torch.device("cpu"))
    detail = f"{free / 1e9:.1f} GB free, {_PROCESS_BYTES / 1e9:.1f} GB needed beside a world"
    if free >= _PROCESS_BYTES:
        return ok("memory", detail)
    return Finding(name="memory", status="fail", detail=detail, remedy="close something else")


def check_disk() -> Finding:
    """Room for recordings."""
    import tempfile

    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free for recordings in {folder}"
    if free > 500e6:
        return ok("disk", detail)
    return Finding(name="disk", status="warn", detail=detail, remedy="free some space, or point TMPDIR elsewhere")


def check_ffmpeg() -> Finding:
    """ffmpeg, which writes videos."""
    remedy = "pip install -c constraints.txt 'imageio[ffmpeg]'"
    try:
        import imageio_ffmpeg

        return ok("ffmpeg", f"{imageio_ffmpeg.get_ffmpeg_version()} for recordings and `relic rollout`")
    except (ImportError, RuntimeError, OSError) as error:
        return Finding(name="ffmpeg", status="warn", detail=f"no recordings: {error}", remedy=remedy)


def check_rendering() -> Finding:
    """Panda3D on Mesa's EGL, furniture and textures: what `relic data render` needs."""
    missing = [name for name in ("panda3d", "embreex", "scipy", "miniworld") if importlib.util.find_spec(name) is None]
    if missing:
        return _no_rendering(f"missing: {', '.join(missing)}", "make setup")
    if not opens_a_buffer(_PROBE_SECONDS):
        return _no_rendering("Panda3D opens no off-screen buffer", f"{_APT} {_GL_PACKAGES}")
    if not any(FURNITURE.glob("*.sh3f")):
        return _no_rendering(f"no furniture in {FURNITURE}", f"{_APT} sweethome3d-furniture")
    return ok("rendering", "Panda3D on EGL, furniture and textures: training data can be rendered")


def opens_a_buffer(patience_s: float) -> bool:
    """Whether Panda3D opens an off-screen buffer within `patience_s` seconds, in a process of its own."""
    command = [sys.executable, "-c", _OPEN_A_BUFFER]
    try:
        return subprocess.run(command, capture_output=True, timeout=patience_s, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _no_rendering(detail: str, remedy: str) -> Finding:
    return Finding(name="rendering", status="warn", detail=f"no training data: {detail}", remedy=remedy)


def check_chromium() -> Finding:
    """A browser that the tests drive."""
    browser = find_chromium()
    if browser is not None:
        return ok("Chromium", f"{browser} for browser tests and `relic bench page`")
    return Finding(name="Chromium", status="warn", detail="none: no browser tests", remedy=f"{_APT} chromium")


def find_chromium() -> str | None:
    """The path of a Chromium: RELIC_CHROMIUM, one on PATH, or the one that Playwright installed."""
    named = os.environ.get("RELIC_CHROMIUM")
    if named:
        return named if Path(named).is_file() else None
    for name in _CHROMIUM_NAMES:
        found = shutil.which(name)
        if found:
            return found
    cache = os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright"
    builds = sorted(Path(cache).glob("chromium-*/chrome-linux*/chrome"))
    return str(builds[-1]) if builds else None
