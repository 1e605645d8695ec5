import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest
from PIL import Image

from relic.actions import Speeds
from relic.engine import WorldEngine
from relic.world import World
from relic_app.controls import Controls
from relic_app.sessions import BusyError, Session, SessionClosedError, SessionManager, WorldHost
from relic_app.worker import Worker

PATIENCE = 30
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def world() -> World:
    return World.tiny(seed=0)


@pytest.fixture
def host(world):
    host = WorldHost(Worker(), lambda _report: world)
    host.wake().result(PATIENCE)
    yield host
    host.worker.close()


@pytest.fixture
def manager(host):
    return SessionManager(host, limit=2)


def controls() -> Controls:
    return Controls(Speeds(), 16)


def play(session: Session, blocks: int, held: list[str] | None = None):
    async def walk():
        steering = controls()
        steering.hold(held or [], seq=5, now=0.0)
        made = [await session.start(PICTURE, "a room", 1)]
        for _ in range(blocks):
            made.append(await session.step(steering))
        return made

    return asyncio.run(walk())


def test_the_world_tells_how_far_it_is(world):
    def load(report):
        report("half way", 0.5)
        return world

    host = WorldHost(Worker(), load)
    told = []
    stop = host.listen(told.append)
    assert host.status.state == "waking"
    with pytest.raises(RuntimeError, match="waking"):
        _ = host.world
    host.wake().result(PATIENCE)
    stop()
    host.worker.close()
    assert [status.message for status in told] == ["half way", "taking the first steps", "the world is awake"]
    assert host.world is world
    assert (host.status.state, host.status.fps, host.status.width, host.status.height) == ("awake", 16, 160, 96)
    assert host.block_s > 0


def test_a_world_that_does_not_load_says_why(caplog):
    def load(_report):
        raise FileNotFoundError("no weights here")

    host = WorldHost(Worker(), load)
    with pytest.raises(FileNotFoundError):
        host.wake().result(PATIENCE)
    host.worker.close()
    assert host.status.state == "failed"
    assert "no weights here" in host.status.message
    assert "no weights here" in caplog.text


def test_a_session_makes_the_engines_frames(world, manager):
    made = play(manager.open(), 2, held=["KeyW"])
    engine = WorldEngine(world)
    np.testing.assert_array_equal(made[0].frames, engine.start(PICTURE, "a room", 1))
    sampled = controls()
    sampled.hold(["KeyW"], seq=5, now=0.0)
    for index, block in enumerate(made[1:], start=1):
        result = engine.step(sampled.sample(4, now=1.0).actions)
        np.testing.assert_array_equal(block.frames, result.frames)
        np.testing.assert_allclose(block.poses.positions, result.poses.positions)
        assert (block.index, block.seq, block.stats.blocks) == (index, 5, index)
    assert made[2].poses.positions[-1][2] == pytest.approx(8 * 0.75 / 16)


def test_starting_again_forgets_the_walk(manager):
    session = manager.open()
    first, second = play(session, 2, ["KeyW"]), play(session, 2, ["KeyW"])
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)


def test_the_limit_is_kept_and_a_closed_session_makes_room(manager):
    sessions = [manager.open(), manager.open()]
    with pytest.raises(BusyError, match="All 2 places in this world are taken"):
        manager.open()
    manager.close(sessions[0])
    manager.close(sessions[0])
    assert manager.active == 1
    manager.open()
    assert manager.active == 2


def test_a_limit_of_one_is_told_in_the_singular(host):
    manager = SessionManager(host, limit=1)
    manager.open()
    with pytest.raises(BusyError, match="The only place in this world is taken"):
        manager.open()
    with pytest.raises(ValueError, match="limit of sessions is 0"):
        SessionManager(host, limit=0)


def test_closing_frees_the_engine_at_once(manager):
    session = manager.open()
    play(session, 2)
    engine = weakref.ref(session._engine)
    gc.collect()
    gc.disable()
    try:
        manager.close(session)
        assert engine() is None
    finally:
        gc.enable()


def test_a_closed_session_refuses_work(manager):
    session = manager.open()
    play(session, 1)
    manager.close(session)
    with pytest.raises(SessionClosedError):
        play(session, 1)


def test_stepping_before_a_start_is_refused(manager):
    with pytest.raises(SessionClosedError, match="no picture"):
        asyncio.run(manager.open().step(controls()))


def test_closing_while_a_block_waits_frees_the_engine_too(host, manager):
    started, release = threading.Event(), threading.Event()

    async def scene():
        session = manager.open()
        await session.start(PICTURE, "", 0)
        engine = weakref.ref(session._engine)
        host.worker.submit("other", lambda: (started.set(), release.wait(PATIENCE)))
        await asyncio.to_thread(started.wait, PATIENCE)
        waiting = asyncio.create_task(session.step(controls()))
        await asyncio.sleep(0)
        manager.close(session)
        with pytest.raises(SessionClosedError):
            await waiting
        release.set()
        assert engine() is None

    asyncio.run(scene())


def test_closing_while_the_picture_is_started_leaves_no_engine(host, manager, monkeypatch):
    begun, release = threading.Event(), threading.Event()
    real_start = WorldEngine.start

    def slow_start(engine, *args):
        begun.set()
        release.wait(PATIENCE)
        return real_start(engine, *args)

    monkeypatch.setattr(WorldEngine, "start", slow_start)

    async def scene():
        session = manager.open()
        starting = asyncio.create_task(session.start(PICTURE, "", 0))
        await asyncio.to_thread(begun.wait, PATIENCE)
        manager.close(session)
        release.set()
        await starting
        assert session._engine is None

    asyncio.run(scene())


def test_two_sessions_take_turns(manager):
    async def scene():
        order = []
        sessions = [manager.open(), manager.open()]

        async def walk(name: str, session: Session):
            await session.start(PICTURE, "", 0)
            for _ in range(6):
                await session.step(controls())
                order.append(name)

        await asyncio.gather(*(walk(name, session) for name, session in zip("ab", sessions, strict=True)))
        return "".join(order)

    order = asyncio.run(scene())
    assert sorted(order) == list("aaaaaabbbbbb")
    assert "aaa" not in order
    assert "bbb" not in order


def test_two_sessions_do_not_disturb_one_another(manager):
    alone = play(manager.open(), 3, ["KeyW"])

    async def both():
        sessions = [next(iter(manager._open)), manager.open()]

        async def walk(session: Session):
            steering = controls()
            steering.hold(["KeyW"], seq=5, now=0.0)
            made = [await session.start(PICTURE, "a room", 1)]
            return made + [await session.step(steering) for _ in range(3)]

        return await asyncio.gather(*(walk(session) for session in sessions))

    for made in asyncio.run(both()):
        for one, other in zip(alone, made, strict=True):
            np.testing.assert_array_equal(one.frames, other.frames)


def test_a_prompt_is_taken_from_the_next_block_on(manager):
    async def scene(change: bool):
        session = manager.open()
        await session.start(PICTURE, "a room", 0)
        if change:
            await session.set_prompt("a forest at night")
        block = await session.step(controls())
        manager.close(session)
        return block.frames

    changed, kept = asyncio.run(scene(change=True)), asyncio.run(scene(change=False))
    assert changed.shape == kept.shape


def test_the_loop_is_never_blocked_by_the_worker(host, manager):
    release = threading.Event()

    async def scene():
        host.worker.submit("other", lambda: release.wait(PATIENCE))
        session = manager.open()
        starting = asyncio.create_task(session.start(PICTURE, "", 0))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not starting.done()
        release.set()
        assert len((await starting).frames) == 1

    asyncio.run(scene())
