"""Compiles this package's C++ for the processor at hand, once, and loads it.

The library lies in the user's cache folder under a name made of all that decides it: sources, compiler, options and the
processor's features. It shares the threads of torch's own OpenMP runtime where torch brings one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from relic_kernels.dispatch import require

_PACKAGE = Path(__file__).resolve().parents[1]
_OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-ffp-contract=fast", "-fPIC")
_SECONDS = 300
_COMPILERS_AT_ONCE = 4


class NativeUnavailableError(ValueError):
    """The C++ operators cannot be had here; the message says why, and the way out."""


def why_not(dtype: torch.dtype) -> str | None:
    """Why the C++ operators cannot run here in a number format, and the way out; None where they can.

    The first call of a machine compiles them, which takes some seconds.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return f"they compute in float32 and bfloat16, not in {dtype}"
    try:
        found = library()
    except NativeUnavailableError as error:
        return str(error)
    if dtype == torch.bfloat16 and not found.relic_has_bfloat16():
        return "this processor has no AVX-512 instructions for bfloat16: use float32"
    return None


def why_not_bytes() -> str | None:
    """Why layers cannot multiply 8-bit integers here, and the way out; None where they can."""
    why = why_not(torch.float32)
    if why is None and not library().relic_has_bytes():
        return "this processor has no instructions for products of bytes (AVX-512 VNNI, AVX-VNNI): use float32"
    return why


def check_bytes(what: str, *widths: int) -> None:
    """Raise a `ValueError` where layers of such widths cannot multiply 8-bit integers."""
    why = why_not_bytes()
    require(why is None, f"the C++ {what} cannot run in bytes: {why}")
    for width in widths:
        require(width % 4 == 0, f"a width of {width}: layers of bytes take multiples of 4")


def has_tiles() -> bool:
    """Whether the C++ operators multiply bfloat16 matrices by the processor's tile instructions (AMX)."""
    return why_not(torch.bfloat16) is None and bool(library().relic_has_tiles())


def library() -> ctypes.CDLL:
    """The compiled operators.

    Raises:
        NativeUnavailableError: without a compiler, when it fails, or where `RELIC_NATIVE=0` turns them off.
    """
    if os.environ.get("RELIC_NATIVE") == "0":
        raise NativeUnavailableError("RELIC_NATIVE=0 turns them off")
    found = _library()
    if isinstance(found, str):
        raise NativeUnavailableError(found)
    return found


def function(name: str, dtype: torch.dtype) -> ctypes._NamedFuncPointer:
    """An operator of the library in a number format.

    Raises:
        ValueError: where it cannot run; it says why.
    """
    why = why_not(dtype)
    require(why is None, f"the C++ {name.rpartition('_')[2]} cannot run here: {why}")
    return getattr(library(), f"relic_{name}_{'bfloat16' if dtype == torch.bfloat16 else 'float32'}")


@cache
def _library() -> ctypes.CDLL | str:
    """The library, or why there is none: a failure is not tried again."""
    compiler = _compiler()
    if compiler is None:
        return "no C++ compiler was found: install g++, or name one in CXX"
    faults = []
    for parallel in (_openmp(compiler), ()):
        try:
            return ctypes.CDLL(str(_built([compiler, *_OPTIONS, *_for_this_processor()], parallel)))
        except (OSError, subprocess.SubprocessError) as error:
            faults.append(_said(error))
    return f"{compiler} could not compile them ({faults[0]}): install g++, or name another compiler in CXX"


def _compiler() -> str | None:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def _sources() -> list[Path]:
    return sorted(_PACKAGE.rglob("*.cpp"))


def _for_this_processor() -> tuple[str, ...]:
    return ("-mcpu=native",) if platform.machine().lower() in ("arm64", "aarch64") else ("-march=native",)


def _openmp(compiler: str) -> tuple[str, ...]:
    """Options for threads, the compiler's first, then the linker's; none where torch's threads cannot be shared.

    Torch's own runtime is named before the compiler's, so that there is one team of threads, not two. Clang's code
    needs another runtime, whose functions have the same names.
    """
    if "clang" in _version(compiler):
        return ()
    own = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return ("-fopenmp", "-Wl,--as-needed", *map(str, own))


def _version(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], check=False, capture_output=True, text=True, timeout=_SECONDS)
    return done.stdout


def _built(command: list[str], parallel: tuple[str, ...]) -> Path:
    """The library that a compiler's command makes with options for threads, made if it is not there yet.

    Raises:
        OSError: when nothing can be written.
        subprocess.SubprocessError: when the compiler fails.
    """
    folder = _cache_folder()
    target = folder / f"native-{_key([*command, *parallel])}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as temporary, ThreadPoolExecutor(_COMPILERS_AT_ONCE) as pool:
        objects = [Path(temporary) / f"{source.stem}.o" for source in _sources()]
        sources = zip(_sources(), objects, strict=True)
        list(pool.map(lambda pair: _run(*command, *parallel[:1], "-c", pair[0], "-o", pair[1]), sources))
        made = Path(temporary) / "native.so"
        _run(*command, "-shared", *objects, *parallel, "-o", made)
        os.replace(made, target)
    return target


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, timeout=_SECONDS)


def _cache_folder() -> Path:
    """A folder of the user's own that can be written to."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        (home / "relic").mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="relic-"))
    return home / "relic"


def _key(command: list[str]) -> str:
    digest = hashlib.sha256("\0".join(command).encode())
    digest.update(_version(command[0]).encode())
    digest.update(_processor())
    for path in sorted([*_sources(), *_PACKAGE.rglob("*.h")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _processor() -> bytes:
    """What tells one processor's features from another's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().encode()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})).encode()


def _said(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[-1] if lines else type(error).__name__)
