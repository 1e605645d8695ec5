"""The messages of the page to the server, JSON text; `relic_app.replies` holds the way back.

The page greets first (`hello`) with its protocol version. `static/protocol.js` holds the page's half; a test
compares the two.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from relic.actions import NUM_ACTIONS

PROTOCOL_VERSION: Final = 1
MAX_TEXT: Final = 16_384
MAX_PROMPT: Final = 500
MAX_SEED: Final = 2**31 - 1
MAX_KEYS: Final = 32
MAX_MOVE: Final = 4.0
MAX_TURN: Final = 180.0
_MAX_COUNT: Final = 2**32 - 1
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ProtocolError(ValueError):
    """A message that breaks the protocol; the text says which field and what is right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """The page's greeting.

    Attributes:
        version: the page's `PROTOCOL_VERSION`.
    """

    version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Begin a world from a picture.

    Attributes:
        source: where the picture is, the gallery or the uploads.
        picture: its id there.
        prompt: what the world is, at most `MAX_PROMPT` characters.
        seed: 0 to `MAX_SEED`.
    """

    source: Literal["gallery", "upload"]
    picture: str
    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """All keys that are held now.

    Attributes:
        codes: W3C `KeyboardEvent.code`s.
        seq: number of this input, counting up over keys and analog.
    """

    codes: tuple[str, ...]
    seq: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Analog:
    """Gains of mouse, gamepad and touch sticks.

    Attributes:
        magnitudes: 13 gains in [0, 1], the order of `ACTION_NAMES`.
        seq: number of this input, counting up over keys and analog.
    """

    magnitudes: tuple[float, ...]
    seq: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SetSpeeds:
    """Speeds at full gain.

    Attributes:
        move: metres a second, 0 to `MAX_MOVE`.
        turn: degrees a second, 0 to `MAX_TURN`.
    """

    move: float
    turn: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SetPrompt:
    """A new prompt for the running world.

    Attributes:
        text: at most `MAX_PROMPT` characters.
    """

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """Hold the world still, or let it go on.

    Attributes:
        on: True to hold.
    """

    on: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Restart:
    """Begin the same picture, prompt and seed again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Start or stop recording.

    Attributes:
        on: True to start.
    """

    on: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Ack:
    """A frame has been painted.

    Attributes:
        run: the run it belongs to.
        frame: its index in the run.
        slack_ms: for a block's first frame, how long it lay ready before its turn (negative: too late).
    """

    run: int
    frame: int
    slack_ms: float | None = None


ClientMessage: TypeAlias = Hello | Start | Keys | Analog | SetSpeeds | SetPrompt | Pause | Restart | Record | Ack


class _Fields:
    """The fields of one message, taken one by one; what is left over is an error."""

    def __init__(self, kind: str, content: Mapping[str, Any]) -> None:
        self._kind = kind
        self._content = {name: value for name, value in content.items() if name != "type"}

    def error(self, name: str, value: object, expected: str) -> ProtocolError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return ProtocolError(f"{self._kind}.{name} is {shown}: give {expected}")

    def _take(self, name: str) -> Any:
        if name not in self._content:
            raise ProtocolError(f"{self._kind} has no {name!r}")
        return self._content.pop(name)

    def has(self, name: str) -> bool:
        return name in self._content

    def integer(self, name: str, highest: int = _MAX_COUNT) -> int:
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= highest:
            raise self.error(name, value, f"a whole number from 0 to {highest}")
        return value

    def number(self, name: str, lowest: float, highest: float) -> float:
        return self._number(name, self._take(name), lowest, highest)

    def _number(self, name: str, value: Any, lowest: float, highest: float) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or not lowest <= value <= highest
        ):
            raise self.error(name, value, f"a number from {lowest:g} to {highest:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._take(name)
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def text(self, name: str, longest: int) -> str:
        value = self._take(name)
        if not isinstance(value, str) or len(value) > longest:
            raise self.error(name, value, f"a text of at most {longest} characters")
        return " ".join(value.split())

    def identifier(self, name: str) -> str:
        value = self._take(name)
        if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
            raise self.error(name, value, "an id of letters, digits, - and _")
        return value

    def codes(self, name: str) -> tuple[str, ...]:
        value = self._take(name)
        if not isinstance(value, list) or len(value) > MAX_KEYS:
            raise self.error(name, value, f"a list of at most {MAX_KEYS} key codes")
        for code in value:
            if not isinstance(code, str) or len(code) > 32:
                raise self.error(name, code, "W3C key codes such as 'KeyW'")
        return tuple(value)

    def gains(self, name: str) -> tuple[float, ...]:
        value = self._take(name)
        if not isinstance(value, list) or len(value) != NUM_ACTIONS:
            raise self.error(name, value, f"a list of {NUM_ACTIONS} numbers")
        return tuple(self._number(f"{name}[{i}]", gain, 0.0, 1.0) for i, gain in enumerate(value))

    def finish(self) -> None:
        if self._content:
            raise ProtocolError(f"{self._kind} has unknown fields: {', '.join(sorted(self._content))}")


def _start(fields: _Fields) -> Start:
    given = [source for source in ("picture", "upload") if fields.has(source)]
    if len(given) != 1:
        raise ProtocolError("start needs either 'picture' (of the gallery) or 'upload', not both")
    return Start(
        source="gallery" if given == ["picture"] else "upload",
        picture=fields.identifier(given[0]),
        prompt=fields.text("prompt", MAX_PROMPT),
        seed=fields.integer("seed", MAX_SEED),
    )


_PARSERS: Final[Mapping[str, Callable[[_Fields], ClientMessage]]] = {
    "hello": lambda fields: Hello(version=fields.integer("version")),
    "start": _start,
    "keys": lambda fields: Keys(codes=fields.codes("codes"), seq=fields.integer("seq")),
    "analog": lambda fields: Analog(magnitudes=fields.gains("magnitudes"), seq=fields.integer("seq")),
    "speeds": lambda fields: SetSpeeds(
        move=fields.number("move", 0.0, MAX_MOVE), turn=fields.number("turn", 0.0, MAX_TURN)
    ),
    "prompt": lambda fields: SetPrompt(text=fields.text("text", MAX_PROMPT)),
    "pause": lambda fields: Pause(on=fields.flag("on")),
    "restart": lambda _fields: Restart(),
    "record": lambda fields: Record(on=fields.flag("on")),
    "ack": lambda fields: Ack(
        run=fields.integer("run"),
        frame=fields.integer("frame"),
        slack_ms=fields.number("slack_ms", -60_000.0, 60_000.0) if fields.has("slack_ms") else None,
    ),
}


def parse_client_message(text: str) -> ClientMessage:
    """Read one message of the page.

    Raises:
        ProtocolError: no JSON object, an unknown type, or a missing, unknown or wrong field.
    """
    if len(text) > MAX_TEXT:
        raise ProtocolError(f"a message of {len(text)} characters is too long: at most {MAX_TEXT}")
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise ProtocolError(f"{text[:40]!r} is no JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("type"), str):
        raise ProtocolError("a message is a JSON object with a 'type'")
    parser = _PARSERS.get(content["type"])
    if parser is None:
        raise ProtocolError(f"unknown message type {content['type'][:40]!r}: one of {', '.join(_PARSERS)}")
    fields = _Fields(content["type"], content)
    message = parser(fields)
    fields.finish()
    return message


def check_version(hello: Hello) -> None:
    """Refuse a page of another version.

    Raises:
        ProtocolError: the versions differ.
    """
    if hello.version != PROTOCOL_VERSION:
        raise ProtocolError(f"the page speaks protocol {hello.version}, the server {PROTOCOL_VERSION}: reload the page")
