"""The free assets that rooms are built from: Sweet Home 3D furniture, MiniWorld textures and portraits.

Nothing is copied into this repository: the furniture is the Debian package ``sweethome3d-furniture`` (CC0 and
CC-BY 3.0, credited in each clip), textures and portraits are read from the ``miniworld`` wheel.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from relic.failures import WorkFailedError
from relic_data.wavefront import Part, read_obj

U8 = npt.NDArray[np.uint8]
FURNITURE_DIR = Path("/usr/share/sweethome3d/furniture")
CATALOGUE = "PluginFurnitureCatalog.properties"
TEXTURE_SIZE = 256
MODEL_TEXTURE_SIZE = 128


class AssetError(WorkFailedError):
    """An asset package is missing or unreadable; the message names the command that installs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FurnitureItem:
    """One entry of the catalogue. Sizes are metres; ``rotation`` is the catalogue's 3x3 model rotation."""

    key: str
    name: str
    category: str
    creator: str
    licence: str
    size: tuple[float, float, float]
    elevation: float
    top: float | None
    rotation: tuple[float, ...]
    archive: Path
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A furniture model in metres, Z up, standing on z = 0, centred in x and y, its back towards +y."""

    item: FurnitureItem
    parts: Sequence[Part]
    triangles: int
    textured: bool


def furniture_archives(folder: Path = FURNITURE_DIR) -> list[Path]:
    """Furniture libraries (``*.sh3f``) in ``folder``, sorted by name.

    Raises:
        AssetError: there are none; the message says how to install them.
    """
    found = sorted(folder.glob("*.sh3f"))
    if not found:
        raise AssetError(
            f"no furniture libraries (*.sh3f) in {folder}: install them with `apt-get install sweethome3d-furniture`"
        )
    return found


def miniworld_dir() -> Path:
    """Folder of the ``miniworld`` package, found without importing it.

    Raises:
        AssetError: it is not installed.
    """
    spec = importlib.util.find_spec("miniworld")
    if spec is None or spec.origin is None:
        raise AssetError("textures missing: install them with `pip install --no-deps miniworld==2.1.0`")
    return Path(spec.origin).parent


def _number(text: str | None, default: float = 0.0) -> float:
    try:
        return float(text) if text else default
    except ValueError:
        return default


def _items(archive: Path) -> list[FurnitureItem]:
    with zipfile.ZipFile(archive) as z:
        text = z.read(CATALOGUE).decode("latin-1")
    licence = "CC0" if "CC-0" in archive.name else "CC-BY 3.0"
    rows: dict[int, dict[str, str]] = {}
    for line in text.splitlines():
        match = re.match(r"(\w+)#(\d+)=(.*)", line.strip())
        if match:
            rows.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
    items = []
    for row in rows.values():
        top = _number(row.get("dropOnTopElevation"), float("nan"))
        rotation = tuple(float(v) for v in row.get("modelRotation", "1 0 0 0 1 0 0 0 1").split())
        items.append(
            FurnitureItem(
                key=f"{archive.stem}/{row['id'].split('#')[-1]}",
                name=row["name"],
                category=row["category"],
                creator=row.get("creator", "unknown"),
                licence=licence,
                size=(_number(row["width"]) / 100, _number(row["depth"]) / 100, _number(row["height"]) / 100),
                elevation=_number(row.get("elevation")) / 100,
                top=None if not np.isfinite(top) or top < 0 else top / 100,
                rotation=rotation,
                archive=archive,
                model=row["model"].lstrip("/"),
            )
        )
    return items


@functools.cache
def catalogue() -> dict[str, FurnitureItem]:
    """Every furniture item by key ``LIBRARY/id``; raises AssetError where no library is installed."""
    return {item.key: item for archive in furniture_archives() for item in _items(archive)}


@functools.cache
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _archive_text(archive: Path, name: str) -> str | None:
    try:
        return _archive(archive).read(name).decode("latin-1")
    except KeyError:
        return None


@functools.cache
def load_model(key: str) -> Model:
    """Parse, orient and scale one catalogue model (cached for the life of the process).

    Raises:
        ValueError: no such key, or the model cannot be read.
    """
    item = catalogue().get(key)
    if item is None:
        raise ValueError(f"no furniture {key!r} in the catalogue; see relic_data.assets.catalogue()")
    text = _archive_text(item.archive, item.model)
    if text is None:
        raise ValueError(f"furniture {key!r}: {item.model} is missing in {item.archive.name}")
    folder = item.model.rsplit("/", 1)[0] + "/" if "/" in item.model else ""
    parts = read_obj(text, folder, lambda name: _archive_text(item.archive, name))
    parts = [p for p in parts if p.material.opacity >= 0.35 and len(p.triangles)]
    if not parts:
        raise ValueError(f"furniture {key!r}: nothing opaque to draw")
    return _oriented(item, parts)


def _oriented(item: FurnitureItem, parts: Sequence[Part]) -> Model:
    turn = np.asarray(item.rotation, np.float64).reshape(3, 3)
    points = [p.positions.astype(np.float64) @ turn.T for p in parts]
    low = np.min([p.min(0) for p in points], axis=0)
    high = np.max([p.max(0) for p in points], axis=0)
    width, depth, height = item.size
    scale = np.array([width, height, depth]) / np.maximum(high - low, 1e-6)
    middle = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    done = []
    for part, p in zip(parts, points, strict=True):
        q = (p - middle) * scale
        n = (part.normals.astype(np.float64) @ turn.T) / scale
        n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
        done.append(
            Part(
                positions=np.stack([q[:, 0], -q[:, 2], q[:, 1]], 1).astype(np.float32),
                normals=np.stack([n[:, 0], -n[:, 2], n[:, 1]], 1).astype(np.float32),
                uvs=part.uvs,
                triangles=part.triangles,
                material=part.material,
            )
        )
    return Model(
        item=item,
        parts=tuple(done),
        triangles=sum(len(p.triangles) for p in done),
        textured=any(p.material.texture for p in done),
    )


@functools.cache
def model_texture(archive: Path, name: str) -> U8 | None:
    """Texture (128, 128, 3) uint8 of a furniture model, or None where it is missing or unreadable."""
    try:
        data = _archive(archive).read(name)
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except (KeyError, OSError):
        return None
    return resized(np.asarray(image, np.uint8), MODEL_TEXTURE_SIZE, MODEL_TEXTURE_SIZE)


def resized(image: U8, height: int, width: int) -> U8:
    """``image`` (h, w, 3) uint8 averaged down to (height, width, 3)."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@functools.cache
def texture(name: str) -> U8:
    """MiniWorld texture by file stem (such as ``wood_1``) as (256, 256, 3) uint8.

    Raises:
        AssetError: the miniworld package lacks it or is missing.
    """
    path = miniworld_dir() / "textures" / f"{name}.png"
    if not path.is_file():
        raise AssetError(f"texture {name!r} not found in the miniworld package; reinstall miniworld==2.1.0")
    return resized(np.asarray(Image.open(path).convert("RGB"), np.uint8), TEXTURE_SIZE, TEXTURE_SIZE)


@functools.cache
def portrait_names() -> tuple[str, ...]:
    """Names of the painted portraits, sorted; raises AssetError where miniworld is missing."""
    return tuple(sorted(p.stem for p in (miniworld_dir() / "textures" / "portraits").glob("*.png")))


@functools.cache
def portrait(name: str) -> tuple[U8, float]:
    """Portrait as (128, 128, 3) uint8 and its true aspect (width / height)."""
    path = miniworld_dir() / "textures" / "portraits" / f"{name}.png"
    image = np.asarray(Image.open(path).convert("RGB"), np.uint8)
    return resized(image, 128, 128), image.shape[1] / image.shape[0]


def credit(item: FurnitureItem) -> str:
    """One line of credit for a furniture item."""
    library = item.key.split("/")[0]
    return f"{item.name} ({item.key.split('/')[1]}) by {item.creator}, Sweet Home 3D library {library}, {item.licence}"
