"""Reader of Wavefront OBJ models (triangles grouped by material), without any dependency but numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Diffuse colour (gamma space, 0 to 1), opacity (0 to 1) and the path of an optional texture."""

    colour: tuple[float, float, float] = (0.75, 0.75, 0.75)
    opacity: float = 1.0
    texture: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Triangles of one material.

    ``positions`` (n, 3), ``normals`` (n, 3) of unit length, ``uvs`` (n, 2), ``triangles`` (m, 3) indices.
    """

    positions: F32
    normals: F32
    uvs: F32
    triangles: I32
    material: Material


def read_mtl(text: str, folder: str) -> dict[str, Material]:
    """Materials of an MTL file by name; texture paths are made relative to ``folder``."""
    found: dict[str, Material] = {}
    name, colour, opacity, texture = "", (0.75, 0.75, 0.75), 1.0, None

    def close() -> None:
        if name:
            tint = (1.0, 1.0, 1.0) if texture and sum(colour) < 0.3 else colour
            found[name] = Material(colour=tint, opacity=opacity, texture=texture)

    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "newmtl":
            close()
            name, colour, opacity, texture = line.split(None, 1)[1].strip(), (0.75, 0.75, 0.75), 1.0, None
        elif words[0] == "Kd" and len(words) >= 4:
            colour = (float(words[1]), float(words[2]), float(words[3]))
        elif words[0] == "d" and len(words) >= 2:
            opacity = float(words[-1])
        elif words[0] == "Tr" and len(words) >= 2:
            opacity = 1.0 - float(words[-1])
        elif words[0] == "map_Kd":
            texture = folder + line.split(None, 1)[1].strip().replace("\\", "/")
    close()
    return found


@dataclass(slots=True)
class _Lines:
    """The lines of an OBJ file by what they say; the faces of each material as (line, counts before it)."""

    positions: list[str]
    uvs: list[str]
    normals: list[str]
    faces: dict[str, list[tuple[str, int, int, int]]]
    library: str = ""


def _sorted_lines(text: str) -> _Lines:
    found = _Lines([], [], [], {})
    faces = found.faces.setdefault("", [])
    for line in text.splitlines():
        tag, _, rest = line.strip().partition(" ")
        if tag == "v":
            found.positions.append(rest)
        elif tag == "vt":
            found.uvs.append(rest)
        elif tag == "vn":
            found.normals.append(rest)
        elif tag == "f":
            faces.append((rest, len(found.positions), len(found.uvs), len(found.normals)))
        elif tag == "usemtl":
            faces = found.faces.setdefault(rest.strip(), [])
        elif tag == "mtllib":
            found.library = rest.strip()
    return found


def _table(lines: list[str], columns: int) -> F32:
    """The first ``columns`` numbers of each line, (n, columns); a missing one is zero."""
    if not lines:
        return np.zeros((0, columns), np.float32)
    flat = np.fromstring(" ".join(lines), np.float64, sep=" ")
    if len(flat) == columns * len(lines):
        return flat.reshape(-1, columns).astype(np.float32)
    rows = [[float(w) for w in line.split()[:columns]] for line in lines]
    return np.asarray([row + [0.0] * (columns - len(row)) for row in rows], np.float32)


def _corners(faces: list[tuple[str, int, int, int]]) -> npt.NDArray[np.int64]:
    """Corners (3 t, 3) of the triangles of polygons: indices of position, texture and normal, -1 for none."""
    counts = np.asarray([len(line.split()) for line, *_ in faces])
    joined = " ".join(line for line, *_ in faces)
    total, slashes = int(counts.sum()), joined.count("/")
    if "-" not in joined and slashes in (0, total, 2 * total):
        # every corner is written alike: one pass over all the numbers
        whole = joined.replace("//", "/0/") if "//" in joined else joined
        flat = np.fromstring(whole.replace("/", " "), np.int64, sep=" ")
    else:
        whole, flat = "", np.zeros(0, np.int64)
    if len(flat) and len(flat) % total == 0 and len(flat) // total <= 3:
        table = np.zeros((total, 3), np.int64)
        table[:, : len(flat) // total] = flat.reshape(total, -1)
        table -= 1
    else:
        table = np.asarray([_corner(w, *before) for line, *before in faces for w in line.split()], np.int64)
    # a fan of each polygon: corner 0 with every next pair
    fans = counts - 2
    start = np.repeat(np.cumsum(counts) - counts, fans)
    k = 1 + np.arange(int(fans.sum())) - np.repeat(np.cumsum(fans) - fans, fans)
    return table[np.stack([start, start + k, start + k + 1], 1).ravel()]


def _corner(word: str, n_pos: int, n_uv: int, n_normal: int) -> tuple[int, int, int]:
    bits = word.split("/")
    p = int(bits[0])
    t = int(bits[1]) if len(bits) > 1 and bits[1] else 0
    n = int(bits[2]) if len(bits) > 2 and bits[2] else 0
    return (p - 1 if p > 0 else n_pos + p, t - 1 if t >= 0 else n_uv + t, n - 1 if n >= 0 else n_normal + n)


def read_obj(text: str, folder: str, open_text: Callable[[str], str | None]) -> list[Part]:
    """Parse an OBJ file.

    Args:
        text: the file's content.
        folder: prefix of the paths of its material library and textures.
        open_text: returns the text of a path, or None where there is no such file.

    Returns:
        One part per material; missing normals become face normals, missing texture coordinates zero.

    Raises:
        ValueError: a face names a vertex that does not exist, or a number cannot be read.
    """
    lines = _sorted_lines(text)
    mtl = open_text(folder + lines.library) if lines.library else None
    materials = read_mtl(mtl, folder) if mtl else {}
    pos, tex, nor = _table(lines.positions, 3), _table(lines.uvs, 2), _table(lines.normals, 3)
    parts = []
    for name, faces in lines.faces.items():
        solid = [face for face in faces if len(face[0].split()) >= 3]
        if not solid:
            continue
        corners = _corners(solid)
        if corners[:, 0].max() >= len(pos) or corners[:, 0].min() < 0:
            raise ValueError(f"face of material {name!r} names a vertex outside 1..{len(pos)}")
        parts.append(_part(corners, pos, tex, nor, materials.get(name, Material())))
    return parts


def _part(corners: npt.NDArray[np.int64], pos: F32, tex: F32, nor: F32, material: Material) -> Part:
    p = pos[corners[:, 0]].reshape(-1, 3, 3)
    face = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    length = np.linalg.norm(face, axis=1, keepdims=True)
    solid = length[:, 0] > 1e-12
    unit = face / np.maximum(length, 1e-12)
    n = np.repeat(unit, 3, axis=0)
    has = (corners[:, 2] >= 0) & (corners[:, 2] < len(nor))
    if has.any():
        given = nor[corners[has, 2]]
        size = np.linalg.norm(given, axis=1, keepdims=True)
        n[has] = np.where(size > 1e-6, given / np.maximum(size, 1e-6), n[has])
    uv = np.zeros((len(corners), 2), np.float32)
    has = (corners[:, 1] >= 0) & (corners[:, 1] < len(tex))
    uv[has] = tex[corners[has, 1]]
    keep = np.repeat(solid, 3)
    rows = np.concatenate([p.reshape(-1, 3), n, uv], axis=1).astype(np.float32)[keep]
    if not len(rows):
        rows = np.zeros((0, 8), np.float32)
    keys = np.ascontiguousarray(np.round(rows, 5)).view([("", np.float32)] * 8).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rows = rows[first]
    return Part(
        positions=np.ascontiguousarray(rows[:, :3]),
        normals=np.ascontiguousarray(rows[:, 3:6]),
        uvs=np.ascontiguousarray(rows[:, 6:]),
        triangles=inverse.reshape(-1, 3).astype(np.int32),
        material=material,
    )
