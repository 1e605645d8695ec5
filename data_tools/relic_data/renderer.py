"""Off-screen pictures of a lit scene with Panda3D on Mesa's EGL (no display, no GPU): colour and depth.

Pictures are drawn at twice the size and averaged 2x2. Poses are world-to-camera in OpenCV axes (x right,
y down, z forward), the room's world has z up.
"""

from __future__ import annotations

import importlib
import importlib.util
import os

os.environ.setdefault("LP_NUM_THREADS", "0")

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from panda3d import core

from relic.failures import WorkFailedError
from relic_data.assets import U8
from relic_data.mesh import F64, WHITE, Piece
from relic_data.scene import Scene

HEIGHT, WIDTH, FOV = 96, 160, 60.0
NEAR, FAR = 0.05, 250.0
SKY_DEPTH = 100.0
SAMPLES = 2
OUTSIDE = frozenset({"panorama", "outside"})
OUTSIDE_GAIN = 1.9

VERTEX = """#version 330
uniform mat4 p3d_ModelViewProjectionMatrix;
in vec4 p3d_Vertex; in vec2 p3d_MultiTexCoord0; in vec3 light;
out vec2 uv; out vec3 shade;
void main() { gl_Position = p3d_ModelViewProjectionMatrix * p3d_Vertex; uv = p3d_MultiTexCoord0; shade = light; }
"""
FRAGMENT = """#version 330
uniform sampler2D p3d_Texture0; uniform vec3 exposure;
in vec2 uv; in vec3 shade; out vec4 colour;
void main() {
  vec3 t = texture(p3d_Texture0, uv).rgb;
  vec3 c = t * t * shade * exposure;
  c = c * (1.0 + c * 0.16) / (1.0 + c * 0.75);
  colour = vec4(sqrt(c), 1.0);
}
"""

_OPENCV_TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_OPENGL_TO_PANDA = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


class RenderError(WorkFailedError):
    """Panda3D cannot open an off-screen buffer; the message says what to install."""


def _load_triton_first() -> None:
    """Import Triton, where it is installed, before Mesa: loaded after Mesa's LLVM, its own LLVM crashes the process."""
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")


class Renderer:
    """One off-screen buffer; `load` a scene, then `render` as many poses as needed."""

    def __init__(self, height: int = HEIGHT, width: int = WIDTH, fov: float = FOV) -> None:
        self.height, self.width = height, width
        _load_triton_first()
        core.loadPrcFileData(
            "",
            "load-display p3headlessgl\nwindow-type none\naudio-library-name null\nsync-video 0\n"
            "gl-version 3 3\nnotify-level-display error\nnotify-level error\ntextures-power-2 none\n",
        )
        pipe = core.GraphicsPipeSelection.getGlobalPtr().makeModulePipe("p3headlessgl")
        if pipe is None:
            raise RenderError("no off-screen OpenGL: apt-get install libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri")
        self._engine = core.GraphicsEngine()
        flags = core.FrameBufferProperties()
        flags.setRgbaBits(8, 8, 8, 8)
        flags.setDepthBits(24)
        size = core.WindowProperties.size(width * SAMPLES, height * SAMPLES)
        buffer = self._engine.makeOutput(pipe, "rooms", 0, flags, size, core.GraphicsPipe.BFRefuseWindow)
        if buffer is None:
            raise RenderError("no off-screen buffer: apt-get install libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri")
        self._rgb, self._depth = core.Texture(), core.Texture()
        buffer.addRenderTexture(self._rgb, core.GraphicsOutput.RTMCopyRam, core.GraphicsOutput.RTPColor)
        buffer.addRenderTexture(self._depth, core.GraphicsOutput.RTMCopyRam, core.GraphicsOutput.RTPDepth)
        buffer.setClearColor((0, 0, 0, 1))
        self._buffer = buffer
        lens = core.PerspectiveLens()
        horizontal = 2 * np.degrees(np.arctan(np.tan(np.radians(fov / 2)) * width / height))
        lens.setFov(float(horizontal), fov)
        lens.setNearFar(NEAR, FAR)
        self._root = core.NodePath("root")
        self._camera = self._root.attachNewNode(core.Camera("camera", lens))
        buffer.makeDisplayRegion().setCamera(self._camera)
        self._shader = core.Shader.make(core.Shader.SL_GLSL, VERTEX, FRAGMENT)
        self._scene_node: Any = None

    def close(self) -> None:
        """Free the buffer."""
        self._engine.removeAllWindows()

    def load(self, scene: Scene, light: Sequence[npt.NDArray[np.float32]]) -> None:
        """Replace the scene by ``scene`` lit by `relic_data.bake.bake`'s ``light``."""
        if self._scene_node is not None:
            self._scene_node.removeNode()
        self._scene_node = self._root.attachNewNode("scene")
        groups: dict[str, list[tuple[Piece, npt.NDArray[np.float32]]]] = {}
        for piece, lit in zip(scene.pieces, light, strict=True):
            groups.setdefault(piece.texture, []).append((piece, lit))
        # furniture first, the walls behind it next, the sky last: less is drawn twice; and a fixed order
        # makes the bytes independent of where Panda's states lie in memory
        order = sorted(groups, key=lambda n: (n in OUTSIDE, n.startswith("surface")))
        for place, name in enumerate(order):
            members = groups[name]
            node = self._scene_node.attachNewNode(_geometry(members))
            node.setTexture(_texture(scene.textures.get(name), repeat=name != "panorama" and name != WHITE))
            node.setBin("fixed", place)
            if name in OUTSIDE:
                node.setShaderInput("exposure", core.LVecBase3f(*(OUTSIDE_GAIN * b for b in scene.balance)), 1)
        self._scene_node.setTwoSided(True)
        self._scene_node.setShader(self._shader)
        self.exposure(1.0, scene.balance)

    def exposure(self, gain: float, balance: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        """Set the linear gain and the white balance."""
        self._scene_node.setShaderInput("exposure", core.LVecBase3f(*(float(gain * b) for b in balance)))

    def render(self, rotation_w2c: F64, position: F64) -> tuple[U8, npt.NDArray[np.float32]]:
        """Picture (H, W, 3) uint8 and z-depth (H, W) float32 in metres (100 for the sky) from a pose."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation_w2c.T, position
        panda = (matrix @ _OPENCV_TO_OPENGL @ _OPENGL_TO_PANDA).T
        self._camera.setMat(core.LMatrix4f(*panda.ravel().tolist()))
        self._engine.renderFrame()
        h, w = self.height * SAMPLES, self.width * SAMPLES
        data = np.frombuffer(self._rgb.getRamImage(), np.uint8).reshape(h, w, -1)
        picture = cv2.resize(data[::-1, :, :3], (self.width, self.height), interpolation=cv2.INTER_AREA)
        raw = np.frombuffer(self._depth.getRamImage(), np.float32).reshape(h, w)[::-1]
        return np.ascontiguousarray(picture[:, :, ::-1]), _depth(raw)


def _depth(raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Metres from the depth buffer at twice the size: the mean of the four samples, on an edge the nearest."""
    z = np.float32(2 * NEAR * FAR) / (np.float32(FAR + NEAR) - (2 * raw - 1) * np.float32(FAR - NEAR))
    a, b, c, d = z[::2, ::2], z[::2, 1::2], z[1::2, ::2], z[1::2, 1::2]
    near = np.minimum(np.minimum(a, b), np.minimum(c, d))
    far = np.maximum(np.maximum(a, b), np.maximum(c, d))
    # means of inverse depth: exact on planes
    mean = 4 / (1 / a + 1 / b + 1 / c + 1 / d)
    return np.asarray(np.minimum(np.where(far > near * 1.06, near, mean), SKY_DEPTH), np.float32)


def _geometry(members: Sequence[tuple[Piece, npt.NDArray[np.float32]]]) -> Any:
    rows, triangles, start = [], [], 0
    for piece, lit in members:
        tint = piece.tint * piece.tint
        shade = tint * (lit if piece.emission < 1 else 0.0) + tint * piece.emission
        rows.append(np.concatenate([piece.positions, piece.uvs, shade], 1))
        triangles.append(piece.triangles + start)
        start += len(piece.positions)
    table = np.ascontiguousarray(np.concatenate(rows), np.float32)
    index = np.ascontiguousarray(np.concatenate(triangles), np.uint32)
    layout = core.GeomVertexArrayFormat()
    layout.addColumn(core.InternalName.getVertex(), 3, core.Geom.NTFloat32, core.Geom.CPoint)
    layout.addColumn(core.InternalName.getTexcoord(), 2, core.Geom.NTFloat32, core.Geom.CTexcoord)
    layout.addColumn(core.InternalName.make("light"), 3, core.Geom.NTFloat32, core.Geom.COther)
    kind = core.GeomVertexFormat()
    kind.addArray(layout)
    data = core.GeomVertexData("piece", core.GeomVertexFormat.registerFormat(kind), core.Geom.UHStatic)
    data.uncleanSetNumRows(len(table))
    memoryview(data.modifyArray(0)).cast("B")[:] = table.tobytes()
    primitive = core.GeomTriangles(core.Geom.UHStatic)
    primitive.setIndexType(core.Geom.NTUint32)
    indices = primitive.modifyVertices()
    indices.uncleanSetNumRows(index.size)
    memoryview(indices).cast("B")[:] = index.tobytes()
    geom = core.Geom(data)
    geom.addPrimitive(primitive)
    node = core.GeomNode("piece")
    node.addGeom(geom)
    return node


def _texture(image: U8 | None, *, repeat: bool) -> Any:
    data = np.full((4, 4, 3), 255, np.uint8) if image is None else image
    texture = core.Texture()
    texture.setup2dTexture(data.shape[1], data.shape[0], core.Texture.TUnsignedByte, core.Texture.FRgb)
    texture.setRamImage(np.ascontiguousarray(data[::-1, :, ::-1]).tobytes())
    wrap = core.SamplerState.WMRepeat if repeat else core.SamplerState.WMClamp
    texture.setWrapU(core.SamplerState.WMRepeat)
    texture.setWrapV(wrap)
    texture.setMinfilter(core.SamplerState.FTLinearMipmapLinear)
    texture.setMagfilter(core.SamplerState.FTLinear)
    return texture
