"""What the player holds, gathered from every device, and the actions it makes of the next frames.

The page's messages arrive on the server's event loop while the worker thread samples, so the state is guarded
by a lock. A key pressed and released between two samples still moves the camera, for as long as it was held.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relic.actions import ACTION_INDEX, KEY_BINDINGS, NUM_ACTIONS, STATIC, Speeds, action_from_multi_hot

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ControlSample:
    """The controls of one block.

    Attributes:
        actions: (frames, 13) magnitudes a frame.
        seq: number of the newest input message that the actions contain.
    """

    actions: Float64Array
    seq: int


class Controls:
    """The held keys, the analog gains and the speeds of one session."""

    def __init__(self, speeds: Speeds, fps: float) -> None:
        self._lock = threading.Lock()
        self._fps = fps
        self._speeds = speeds
        self._pressed_at: dict[str, float] = {}
        self._tapped_s: dict[str, float] = {}
        self._analog = np.zeros(NUM_ACTIONS)
        self._sampled_at = -math.inf
        self._seq = 0

    def hold(self, codes: Iterable[str], seq: int, now: float) -> None:
        """Take the keys that are down now.

        Args:
            codes: W3C `KeyboardEvent.code`s, all that are held; unknown ones are ignored.
            seq: number of the message.
            now: its time, seconds.
        """
        held = {code for code in codes if code in KEY_BINDINGS}
        with self._lock:
            for code in [code for code in self._pressed_at if code not in held]:
                pressed = self._pressed_at.pop(code)
                if pressed >= self._sampled_at:
                    self._tapped_s[code] = self._tapped_s.get(code, 0.0) + (now - pressed)
            for code in held:
                self._pressed_at.setdefault(code, now)
            self._seq = max(self._seq, seq)

    def lean(self, magnitudes: Sequence[float], seq: int) -> None:
        """Take the analog gains of mouse, gamepad and touch sticks.

        Args:
            magnitudes: 13 gains in [0, 1], the order of `ACTION_NAMES`.
            seq: number of the message.
        """
        with self._lock:
            self._analog = np.asarray(magnitudes, dtype=np.float64)
            self._seq = max(self._seq, seq)

    def set_speeds(self, speeds: Speeds) -> None:
        """Change how fast full gain moves."""
        with self._lock:
            self._speeds = speeds

    def sample(self, frames: int, now: float) -> ControlSample:
        """Return the actions of the next `frames` frames.

        Args:
            frames: frames of the block, >= 1.
            now: the time, seconds, on the clock of `hold`.

        Returns:
            Held keys and analog gains move every frame, gains add up to at most 1 a motion; a key that was
            only tapped moves the first frames, as many as it was held for and at least one.
        """
        with self._lock:
            gains = np.tile(self._analog, (frames, 1))
            for code in self._pressed_at:
                gains[:, ACTION_INDEX[KEY_BINDINGS[code]]] += 1.0
            for code, seconds in self._tapped_s.items():
                moved = min(frames, max(1, math.ceil(seconds * self._fps - 1e-9)))
                gains[:moved, ACTION_INDEX[KEY_BINDINGS[code]]] += 1.0
            self._tapped_s.clear()
            self._sampled_at = now
            seq, speeds = self._seq, self._speeds
        gains = np.minimum(gains, 1.0)
        gains[:, STATIC] = 0.0
        actions = np.stack([action_from_multi_hot(row, speeds, self._fps) for row in gains])
        return ControlSample(actions=actions, seq=seq)
