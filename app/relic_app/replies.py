"""The messages of the server to the page: JSON text, and pictures as binary messages.

Their kinds: `ready`, `world`, `started`, `busy`, `error`, `stats`, `recording`, and frames.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import ClassVar, Final, TypeAlias

from relic_app.protocol import PROTOCOL_VERSION, ProtocolError


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The answer to `hello`.

    Attributes:
        version: the server's `PROTOCOL_VERSION`.
        limit: sessions at most.
    """

    kind: ClassVar[str] = "ready"
    version: int
    limit: int


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """How far the world is loaded.

    Attributes:
        state: `waking`, `awake` or `failed`.
        message: what is being done, or what went wrong.
        fraction: progress in [0, 1].
        fps: frames a second; 0 until awake.
        width: picture width, pixels; 0 until awake.
        height: picture height, pixels; 0 until awake.
    """

    kind: ClassVar[str] = "world"
    state: str
    message: str
    fraction: float
    fps: float
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A run has begun; its frames follow.

    Attributes:
        run: number of the run, counting up in a connection.
        prompt: its prompt.
        seed: its seed.
    """

    kind: ClassVar[str] = "started"
    run: int
    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy:
    """All places are taken.

    Attributes:
        limit: how many there are.
        message: for the player.
    """

    kind: ClassVar[str] = "busy"
    limit: int
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Error:
    """Something went wrong.

    Attributes:
        code: `protocol`, `picture`, `prompt`, `engine` or `recording`.
        message: for the player.
    """

    kind: ClassVar[str] = "error"
    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """What the session costs and remembers, after each block.

    Attributes:
        memory_tokens: tokens in memory.
        memory_bytes: their size.
        seconds_remembered: seconds of history that memory covers.
        blocks: blocks made.
        block_ms: mean time of a block, waiting included.
        margin_ms: the pacing's learned margin.
    """

    kind: ClassVar[str] = "stats"
    memory_tokens: int
    memory_bytes: int
    seconds_remembered: float
    blocks: int
    block_ms: float
    margin_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """State of the recorder.

    Attributes:
        state: `on`, `saving` or `saved`.
        seconds: length so far.
        video: path of the saved MP4, relative to the page; empty before.
        poses: path of the saved poses, relative to the page; empty before.
    """

    kind: ClassVar[str] = "recording"
    state: str
    seconds: float
    video: str = ""
    poses: str = ""


ServerMessage: TypeAlias = Ready | World | Started | Busy | Error | Stats | Recording


def encode(message: ServerMessage) -> str:
    """Return a server message as JSON text."""
    return json.dumps({"type": message.kind, **asdict(message)}, allow_nan=False)


FRAME_MAGIC: Final = b"RF"
FIRST_OF_BLOCK: Final = 1
_FRAME_HEADER: Final = struct.Struct("<2sBBIIIII3f3f")
FRAME_HEADER_BYTES: Final = _FRAME_HEADER.size


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameHeader:
    """What goes before each JPEG.

    Attributes:
        first_of_block: whether the frame is its block's first.
        run: the run it belongs to.
        frame: its index in the run; 0 is the start picture.
        block: index of its block.
        seq: newest input that its block contains.
        period_us: how long it stays on screen, microseconds.
        position: camera centre in the world, metres (x right, y down, z forward at the start).
        forward: unit vector of the view in the world.
    """

    first_of_block: bool
    run: int
    frame: int
    block: int
    seq: int
    period_us: int
    position: tuple[float, float, float]
    forward: tuple[float, float, float]


def encode_frame(header: FrameHeader, jpeg: bytes) -> bytes:
    """Return one binary message: 48 bytes of header, little endian, then the JPEG."""
    return (
        _FRAME_HEADER.pack(
            FRAME_MAGIC,
            PROTOCOL_VERSION,
            FIRST_OF_BLOCK if header.first_of_block else 0,
            header.run,
            header.frame,
            header.block,
            header.seq,
            header.period_us,
            *header.position,
            *header.forward,
        )
        + jpeg
    )


def decode_frame(data: bytes) -> tuple[FrameHeader, bytes]:
    """Read one binary message back into its header and JPEG (the page's half, for tools and tests).

    Raises:
        ProtocolError: too short, or not a frame of this version.
    """
    if len(data) < FRAME_HEADER_BYTES:
        raise ProtocolError(f"a frame of {len(data)} bytes is shorter than its header ({FRAME_HEADER_BYTES})")
    magic, version, flags, run, frame, block, seq, period_us, *floats = _FRAME_HEADER.unpack_from(data)
    if magic != FRAME_MAGIC or version != PROTOCOL_VERSION:
        raise ProtocolError(f"{data[:3]!r} does not begin a frame of protocol {PROTOCOL_VERSION}")
    header = FrameHeader(
        first_of_block=bool(flags & FIRST_OF_BLOCK),
        run=run,
        frame=frame,
        block=block,
        seq=seq,
        period_us=period_us,
        position=(floats[0], floats[1], floats[2]),
        forward=(floats[3], floats[4], floats[5]),
    )
    return header, data[FRAME_HEADER_BYTES:]
