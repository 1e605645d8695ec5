"""When to make the next block: as late as is safe, so that keys are read late yet frames never run out.

Pure functions of (state, now). Times are seconds of any monotonic clock; nothing here reads one. The screen
is known through acknowledgements: the page tells which frame it has just painted and how long that frame had
been waiting, so a slow network or a busy browser widens the margin by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class PacingConfig:
    """The rules of pacing.

    Attributes:
        fps: frames a second when the machine is fast enough, > 0.
        frames_per_block: frames made together, >= 1.
        smoothing: weight of the newest block in the running mean of block time, in (0, 1].
        target_slack_s: seconds a block's first frame should wait in the page before it is painted.
        widening: share of a missing slack that is added to the margin.
        narrowing: share of a spare slack that is taken from it.
        max_margin_s: the margin never grows beyond this.
        stall_s: a page with frames to paint that is silent for longer is taken as asleep.
        headroom: frames are shown this factor slower than the machine could make them when it is too slow.

    Raises:
        ValueError: a value outside its range.
    """

    fps: float = 16.0
    frames_per_block: int = 4
    smoothing: float = 0.2
    target_slack_s: float = 0.025
    widening: float = 0.4
    narrowing: float = 0.15
    max_margin_s: float = 1.0
    stall_s: float = 0.75
    headroom: float = 1.03

    def __post_init__(self) -> None:
        if not self.fps > 0:
            raise ValueError(f"fps is {self.fps!r}: give a positive number")
        if self.frames_per_block < 1:
            raise ValueError(f"frames_per_block is {self.frames_per_block!r}: give at least 1")
        if not 0 < self.smoothing <= 1:
            raise ValueError(f"smoothing is {self.smoothing!r}: give a number in (0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class PacingState:
    """What is known of one session's machine and screen.

    Attributes:
        block_s: running mean of the seconds from asking for a block to having it.
        margin_s: learned safety margin.
        frames_made: frames sent since the session's start.
        frames_shown: frames painted, as far as acknowledged.
        shown_at: when the newest acknowledgement came; None before the first.
    """

    block_s: float
    margin_s: float = 0.03
    frames_made: int = 0
    frames_shown: int = 0
    shown_at: float | None = None

    @property
    def frames_waiting(self) -> int:
        """Frames made and not yet painted."""
        return self.frames_made - self.frames_shown


def frame_period(state: PacingState, config: PacingConfig) -> float:
    """Return the seconds each frame stays on screen: 1 / fps, longer where the machine cannot keep up."""
    return max(1 / config.fps, config.headroom * state.block_s / config.frames_per_block)


def seconds_until_block(state: PacingState, config: PacingConfig, now: float) -> float | None:
    """Decide when to start making the next block.

    Args:
        state: the session's state.
        config: the rules.
        now: the time, on the clock of `state.shown_at`.

    Returns:
        0.0 to start at once, a positive number of seconds to wait before asking again, or None to wait for an
        acknowledgement: more than one block is waiting to be painted, or the page sleeps.
    """
    if state.frames_waiting > config.frames_per_block:
        return None
    if state.shown_at is None:
        return 0.0
    if state.frames_waiting > 0 and now - state.shown_at > config.stall_s + frame_period(state, config):
        return None
    needed_at = state.shown_at + (state.frames_waiting + 1) * frame_period(state, config)
    return max(0.0, needed_at - state.block_s - state.margin_s - now)


def after_block(state: PacingState, config: PacingConfig, *, frames: int, seconds: float) -> PacingState:
    """Return the state after a block was made and sent.

    Args:
        state: the state before.
        config: the rules.
        frames: frames of the block.
        seconds: from asking for the block to sending it.
    """
    return replace(
        state,
        frames_made=state.frames_made + frames,
        block_s=state.block_s + config.smoothing * (seconds - state.block_s),
    )


def after_ack(
    state: PacingState, config: PacingConfig, *, frame: int, now: float, slack_s: float | None = None
) -> PacingState:
    """Return the state after the page painted a frame.

    Args:
        state: the state before.
        config: the rules.
        frame: index of the painted frame; 0 is the session's first.
        now: when the acknowledgement came.
        slack_s: for a block's first frame, how long it lay ready before its turn; negative when it came too
            late. Lateness widens the margin at once, spare time narrows it slowly.

    Raises:
        ValueError: a frame that was never sent.
    """
    if not 0 <= frame < state.frames_made:
        raise ValueError(f"frame {frame} is acknowledged, but only {state.frames_made} were sent")
    if frame < state.frames_shown:
        return state
    margin = state.margin_s
    if slack_s is not None:
        short = config.target_slack_s - slack_s
        margin += (config.widening if short > 0 else config.narrowing) * short
    return replace(
        state,
        frames_shown=frame + 1,
        shown_at=now,
        margin_s=min(max(margin, 0.0), config.max_margin_s),
    )


def after_pause(state: PacingState, now: float) -> PacingState:
    """Return the state of a page that was paused and goes on: its newest frame counts as painted now."""
    return state if state.shown_at is None else replace(state, shown_at=now)
