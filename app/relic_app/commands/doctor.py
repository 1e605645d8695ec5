"""`relic doctor`: check that this machine can play, and tell what to do where it cannot."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PACKAGES = ("torch", "transformers", "gradio", "fastapi", "uvicorn", "websockets", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was checked.
        ok: whether it is as it should be.
        detail: what was found.
        remedy: what to do when not ok.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic doctor`."""
    parser.add_argument("--weights", type=Path, help="weights folder (default: $RELIC_WEIGHTS or weights/)")


def run(options: argparse.Namespace) -> int:
    """Run every check and print it; the status is 1 when one failed."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _packages,
        _processor,
        _accelerator,
        _ffmpeg,
        _text_encoder,
        lambda: _weights(options.weights),
        lambda: _gallery(options.weights),
        _disk,
    )
    failed = 0
    for check in checks:
        finding = check()
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.detail}", flush=True)
        if not finding.ok:
            failed += 1
            print(f"      -> {finding.remedy}", flush=True)
    print("everything is fine: `relic play`" if not failed else f"{failed} to mend")
    return 1 if failed else 0


def _python() -> Finding:
    version = platform.python_version()
    return Finding(
        name="Python",
        ok=sys.version_info >= (3, 11),
        detail=f"{version} on {platform.system()} {platform.machine()}",
        remedy="install Python 3.11 or newer",
    )


def _packages() -> Finding:
    found, missing = [], []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    return Finding(
        name="packages",
        ok=not missing,
        detail=f"missing: {', '.join(missing)}" if missing else ", ".join(found),
        remedy=f"pip install {' '.join(missing)}",
    )


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding(
        name="processor",
        ok=cores >= 2,
        detail=f"{cores} core{'s' if cores != 1 else ''}",
        remedy="one core is shared by world and browser: expect less than 16 frames a second",
    )


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding(name="accelerator", ok=True, detail=torch.cuda.get_device_name(0))
    return Finding(name="accelerator", ok=True, detail="none; the mini world plays on the CPU")


def _ffmpeg() -> Finding:
    import imageio_ffmpeg

    try:
        detail = f"{imageio_ffmpeg.get_ffmpeg_version()} for recordings"
    except (RuntimeError, OSError) as error:
        return Finding(name="ffmpeg", ok=False, detail=str(error), remedy="pip install 'imageio[ffmpeg]'")
    return Finding(name="ffmpeg", ok=True, detail=detail)


def _text_encoder() -> Finding:
    from relic.text import find_minilm

    try:
        detail = str(find_minilm())
    except FileNotFoundError as error:
        return Finding(name="text encoder", ok=False, detail="not installed", remedy=str(error))
    return Finding(name="text encoder", ok=True, detail=detail)


def _weights(given: Path | None) -> Finding:
    from relic.weights import default_weights_dir, read_manifest

    folder = given or default_weights_dir()
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError) as error:
        return Finding(
            name="weights", ok=False, detail=str(error), remedy="fetch weights/ whole, or name it: --weights"
        )
    return Finding(name="weights", ok=True, detail=f"{', '.join(manifest.files)} in {folder}, intact")


def _gallery(given: Path | None) -> Finding:
    from relic.weights import default_weights_dir
    from relic_app.gallery import Gallery

    try:
        count = len(Gallery.load(given or default_weights_dir()).pictures)
    except (OSError, ValueError) as error:
        return Finding(
            name="gallery", ok=False, detail=str(error), remedy="fetch the weights folder whole, gallery too"
        )
    return Finding(
        name="gallery",
        ok=count > 0,
        detail=f"{count} start pictures",
        remedy="the gallery is empty: fetch the weights folder whole",
    )


def _disk() -> Finding:
    import tempfile

    free = shutil.disk_usage(tempfile.gettempdir()).free
    return Finding(
        name="disk",
        ok=free > 500 * 2**20,
        detail=f"{free / 2**30:.1f} GB free for recordings in {tempfile.gettempdir()}",
        remedy="free some space, or point TMPDIR elsewhere",
    )
