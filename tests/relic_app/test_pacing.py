import itertools

import pytest

from relic_app.pacing import (
    PacingConfig,
    PacingState,
    after_ack,
    after_block,
    after_pause,
    frame_period,
    seconds_until_block,
)

CONFIG = PacingConfig()
PERIOD = 1 / 16


def state(**changes) -> PacingState:
    return PacingState(**{"block_s": 0.1, "margin_s": 0.03} | changes)


def test_the_first_block_starts_at_once():
    assert seconds_until_block(state(frames_made=1), CONFIG, now=5.0) == 0.0


def test_a_block_starts_as_late_as_is_safe():
    # 4 frames wait; the 5th is needed 5 periods after the last one was painted.
    waiting = state(frames_made=5, frames_shown=1, shown_at=10.0)
    start = 10.0 + 5 * PERIOD - 0.1 - 0.03
    assert seconds_until_block(waiting, CONFIG, now=10.0) == pytest.approx(start - 10.0)
    assert seconds_until_block(waiting, CONFIG, now=start) == pytest.approx(0.0)
    assert seconds_until_block(waiting, CONFIG, now=start + 0.2) == 0.0


def test_a_slow_block_starts_earlier_than_a_fast_one():
    waits = [
        seconds_until_block(state(block_s=block_s, frames_made=5, frames_shown=1, shown_at=0.0), CONFIG, now=0.0)
        for block_s in (0.02, 0.1, 0.2)
    ]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] - waits[2] == pytest.approx(0.18)


def test_never_more_than_one_block_waits_before_the_next_starts():
    assert seconds_until_block(state(frames_made=6, frames_shown=1, shown_at=0.0), CONFIG, now=0.0) is None
    assert seconds_until_block(state(frames_made=5, frames_shown=1, shown_at=0.0), CONFIG, now=0.0) is not None


def test_a_page_that_sleeps_stops_the_world():
    sleeping = state(frames_made=5, frames_shown=3, shown_at=0.0)
    assert seconds_until_block(sleeping, CONFIG, now=0.5) == 0.0
    assert seconds_until_block(sleeping, CONFIG, now=5.0) is None


def test_a_page_that_ran_dry_is_not_taken_for_asleep():
    assert seconds_until_block(state(frames_made=5, frames_shown=5, shown_at=0.0), CONFIG, now=60.0) == 0.0


def test_frames_last_a_sixteenth_of_a_second_or_as_long_as_the_machine_needs():
    assert frame_period(state(block_s=0.2), CONFIG) == PERIOD
    assert frame_period(state(block_s=0.5), CONFIG) == pytest.approx(1.03 * 0.5 / 4)


def test_block_time_is_a_running_mean():
    after = after_block(state(block_s=0.1, frames_made=5), CONFIG, frames=4, seconds=0.2)
    assert after.block_s == pytest.approx(0.12)
    assert after.frames_made == 9
    for _ in range(40):
        after = after_block(after, CONFIG, frames=4, seconds=0.2)
    assert after.block_s == pytest.approx(0.2, abs=1e-3)


def test_an_acknowledgement_moves_the_screen_on():
    after = after_ack(state(frames_made=5), CONFIG, frame=2, now=3.0)
    assert (after.frames_shown, after.shown_at, after.frames_waiting) == (3, 3.0, 2)


def test_an_old_acknowledgement_changes_nothing():
    before = state(frames_made=5, frames_shown=3, shown_at=3.0)
    assert after_ack(before, CONFIG, frame=1, now=4.0) == before


@pytest.mark.parametrize("frame", [5, 99, -1])
def test_a_frame_that_was_never_sent_cannot_be_acknowledged(frame):
    with pytest.raises(ValueError, match=f"frame {frame} "):
        after_ack(state(frames_made=5), CONFIG, frame=frame, now=0.0)


def test_lateness_widens_the_margin_faster_than_spare_time_narrows_it():
    late = after_ack(state(frames_made=5), CONFIG, frame=0, now=0.0, slack_s=-0.075)
    early = after_ack(state(frames_made=5), CONFIG, frame=0, now=0.0, slack_s=0.125)
    assert late.margin_s == pytest.approx(0.03 + 0.4 * 0.1)
    assert early.margin_s == pytest.approx(0.03 - 0.15 * 0.1)


def test_the_margin_stays_in_its_range():
    hopeless = after_ack(state(frames_made=5), CONFIG, frame=0, now=0.0, slack_s=-60.0)
    idle = after_ack(state(frames_made=5), CONFIG, frame=0, now=0.0, slack_s=60.0)
    assert (hopeless.margin_s, idle.margin_s) == (CONFIG.max_margin_s, 0.0)


def test_after_a_pause_the_clock_starts_again():
    paused = state(frames_made=5, frames_shown=3, shown_at=0.0)
    assert seconds_until_block(after_pause(paused, 100.0), CONFIG, now=100.0) is not None
    assert after_pause(state(), 100.0).shown_at is None


@pytest.mark.parametrize("changes", [{"fps": 0}, {"frames_per_block": 0}, {"smoothing": 0.0}, {"smoothing": 1.5}])
def test_impossible_rules_are_refused(changes):
    name, value = next(iter(changes.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        PacingConfig(**changes)


class Simulation:
    """A machine, a network and a page on one made-up clock."""

    def __init__(self, block_s: float, delay_s: float = 0.002) -> None:
        self.block_s, self.delay_s = block_s, delay_s
        self.state = PacingState(block_s=0.25, frames_made=1)
        self.painted: list[float] = []
        self.slacks: list[float] = []
        self.starts: list[float] = []
        self.waiting_at_start: list[int] = []

    def run(self, blocks: int) -> None:
        now, due = 0.0, 0.0
        queue: list[tuple[float, bool]] = [(0.0, True)]
        while len(self.starts) < blocks:
            # The page paints what is ready and due by `now`, acknowledging each frame a delay later.
            while queue:
                ready, first = queue[0]
                painted = max(ready, due)
                if painted + self.delay_s > now:
                    break
                queue.pop(0)
                late = painted - due
                slack = due - ready if first and self.painted else None
                due = (painted if late > PERIOD else due) + frame_period(self.state, CONFIG)
                if slack is not None:
                    self.slacks.append(slack)
                self.state = after_ack(
                    self.state, CONFIG, frame=len(self.painted), now=painted + self.delay_s, slack_s=slack
                )
                self.painted.append(painted)
            wait = seconds_until_block(self.state, CONFIG, now)
            if wait == 0.0:
                self.starts.append(now)
                self.waiting_at_start.append(self.state.frames_waiting)
                now += self.block_s
                self.state = after_block(self.state, CONFIG, frames=4, seconds=self.block_s)
                queue += [(now + self.delay_s, index == 0) for index in range(4)]
            else:
                now += 0.001

    def gaps(self, last: int) -> list[float]:
        times = self.painted[-last:]
        return [b - a for a, b in itertools.pairwise(times)]


@pytest.mark.parametrize("block_s", [0.03, 0.12, 0.2])
def test_a_fast_machine_shows_even_frames_and_reads_keys_late(block_s):
    simulation = Simulation(block_s)
    simulation.run(60)
    assert max(simulation.gaps(100)) == pytest.approx(PERIOD, abs=1e-6)
    assert max(simulation.waiting_at_start) <= CONFIG.frames_per_block
    # What is made now is seen after the block's time and little more.
    slack = sum(simulation.slacks[-20:]) / 20
    assert slack == pytest.approx(CONFIG.target_slack_s, abs=0.02)


def test_a_slow_machine_still_shows_even_frames():
    simulation = Simulation(0.4)
    simulation.run(60)
    gaps = simulation.gaps(100)
    assert max(gaps) < 1.1 * 1.03 * 0.4 / 4
    assert min(gaps) > 0.9 * 0.4 / 4


def test_a_slow_network_is_learned():
    simulation = Simulation(0.08, delay_s=0.05)
    simulation.run(80)
    assert max(simulation.gaps(100)) == pytest.approx(PERIOD, abs=1e-6)
