import threading

import pytest

from relic_app.worker import Worker

PATIENCE = 10


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


def block(worker: Worker) -> threading.Event:
    """Keep the worker busy until the returned event is set."""
    started, release = threading.Event(), threading.Event()
    worker.submit("blocker", lambda: (started.set(), release.wait(PATIENCE)))
    assert started.wait(PATIENCE)
    return release


def test_jobs_run_in_one_thread_and_return_their_results(worker):
    futures = [worker.submit(lane, threading.get_ident) for lane in ("a", "b", "a")]
    threads = {future.result(PATIENCE) for future in futures}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_lanes_take_turns_and_each_keeps_its_order(worker):
    release, order = block(worker), []
    futures = [worker.submit("a", lambda i=i: order.append(f"a{i}")) for i in range(3)]
    futures += [worker.submit("b", lambda i=i: order.append(f"b{i}")) for i in range(2)]
    futures += [worker.submit("c", lambda: order.append("c0"))]
    release.set()
    for future in futures:
        future.result(PATIENCE)
    assert order == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_a_lane_that_asks_again_at_once_does_not_starve_another(worker):
    release, order = block(worker), []

    def greedy(left: int) -> None:
        order.append("greedy")
        if left:
            worker.submit("greedy", lambda: greedy(left - 1))

    worker.submit("greedy", lambda: greedy(5))
    modest = [worker.submit("modest", lambda: order.append("modest")) for _ in range(3)]
    release.set()
    modest[-1].result(PATIENCE)
    assert order[:6] == ["greedy", "modest"] * 3


def test_an_error_reaches_the_one_who_asked_and_the_worker_goes_on(worker):
    def fail() -> None:
        raise ValueError("bad job")

    with pytest.raises(ValueError, match="bad job"):
        worker.submit("a", fail).result(PATIENCE)
    assert worker.submit("a", lambda: 5).result(PATIENCE) == 5


def test_dropping_a_lane_cancels_what_waits_in_it_only(worker):
    release = block(worker)
    dropped = [worker.submit("a", lambda: 1) for _ in range(2)]
    kept = worker.submit("b", lambda: 2)
    worker.drop("a")
    worker.drop("never seen")
    release.set()
    assert all(future.cancelled() for future in dropped)
    assert kept.result(PATIENCE) == 2
    assert worker.submit("a", lambda: 3).result(PATIENCE) == 3


def test_a_cancelled_job_is_skipped(worker):
    release = block(worker)
    ran = []
    future = worker.submit("a", lambda: ran.append(1))
    assert future.cancel()
    release.set()
    worker.submit("a", lambda: None).result(PATIENCE)
    assert ran == []


def test_closing_cancels_what_waits_and_refuses_more():
    worker = Worker()
    release = block(worker)
    waiting = worker.submit("a", lambda: 1)
    closer = threading.Thread(target=worker.close)
    closer.start()
    while not waiting.cancelled():
        assert closer.is_alive()
    release.set()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit("a", lambda: 1)
