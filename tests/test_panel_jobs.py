"""Work off the main thread: where answers arrive, which are dropped, what runs only once."""

import ctypes
import threading
import time

import pytest
from MammoReviewLib.jobs import Job, Jobs
from panel_parts import HandTimer, wait


@pytest.fixture
def jobs():
    jobs = Jobs(HandTimer())
    yield jobs
    jobs.close()


def test_work_runs_elsewhere_and_its_answer_arrives_here(jobs):
    seen = []

    def work(job: Job) -> threading.Thread:
        return threading.current_thread()

    jobs.start(work, lambda thread: seen.append((thread, threading.current_thread())), seen.append)
    wait(jobs, lambda: seen)
    ((there, here),) = seen
    assert here is threading.main_thread() is not there


def test_a_failure_arrives_as_one(jobs):
    failed = []
    jobs.start(lambda job: 1 / 0, lambda _: pytest.fail("no answer was due"), failed.append)
    wait(jobs, lambda: failed)
    assert isinstance(failed[0], ZeroDivisionError) and not jobs.running


def test_late_answers_for_another_case_are_dropped_and_their_work_is_told(jobs):
    answers, go, told = [], threading.Event(), []
    jobs.open_case("one")

    def work(job: Job) -> str:
        job.on_cancel(lambda: told.append(job.case))
        go.wait(10)
        return "late"

    jobs.start(work, answers.append, answers.append, name="reading", case="one")
    jobs.start(work, answers.append, answers.append, key="other")
    while threading.active_count() < 3:
        time.sleep(0.01)
    time.sleep(0.05)
    jobs.open_case("two")
    assert told == ["one"] and not jobs.running
    go.set()
    wait(jobs, lambda: answers)
    jobs.pump()
    time.sleep(0.05)
    jobs.pump()
    assert answers == ["late"], "only that of no case arrives"


def test_what_is_under_way_is_not_begun_twice(jobs):
    go, done = threading.Event(), []
    first = jobs.start(lambda job: go.wait(10), done.append, done.append, name="a", key="k")
    assert jobs.start(lambda job: 2, done.append, done.append, key="k") is None
    assert jobs.running == ["a"] and jobs.is_running("k")
    first.cancel()
    assert not jobs.is_running("k"), "a cancelled one stands in nobody's way"
    assert jobs.start(lambda job: 2, done.append, done.append, key="k") is not None
    go.set()
    wait(jobs, lambda: done)
    assert done == [2]


def test_cancelling_leaves_background_and_lasting_work_alone(jobs):
    go, done = threading.Event(), []

    def work(job: Job) -> str:
        go.wait(10)
        return job.key

    for key, name, lasting in (("a", "A", False), ("b", "", False), ("c", "C", True)):
        jobs.start(work, done.append, done.append, name=name, key=key, lasting=lasting)
    jobs.cancel()
    assert jobs.running == ["C"]
    go.set()
    wait(jobs, lambda: len(done) == 2)
    assert sorted(done) == ["b", "c"]


def test_later_and_called_off(jobs):
    calls = []
    jobs.later(0.01, lambda: calls.append("a"))
    jobs.later(0.02, lambda: calls.append("b"))()
    wait(jobs, lambda: calls)
    time.sleep(0.03)
    jobs.pump()
    assert calls == ["a"]


def test_work_goes_on_though_the_event_loop_holds_pythons_lock(jobs):
    # As Slicer's loop does: PythonQt gives the lock away only while Python code runs.
    event_loop, answers, turns = ctypes.PyDLL(None), [], 0

    def work(job: Job) -> bool:
        for _piece in range(200):
            time.sleep(0)  # gives the lock away, as reading from a socket does
        return True

    jobs.start(work, answers.append, answers.append)
    while not answers and turns < 200:
        event_loop.usleep(5000)
        jobs.pump()
        turns += 1
    assert answers == [True] and turns < 20
