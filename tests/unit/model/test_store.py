"""The weight store: counted, shared, built once, never leaking."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoserve.model.store import Lease, Weight, WeightStore


def make(keys: Sequence[str]) -> Mapping[str, Weight]:
    return {key: torch.full((4,), float(len(key))) for key in keys}


KEYS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8)


@given(st.lists(st.one_of(KEYS, st.integers(0, 5)), max_size=30))
def test_users_are_the_living_leases(script: list[list[str] | int]) -> None:
    """A list acquires those keys, a number releases that lease (again and again is harmless)."""
    store = WeightStore()
    leases: list[Lease] = []
    for action in script:
        if isinstance(action, list):
            leases.append(store.acquire(action, make))
        elif action < len(leases):
            leases[action].release()
        living = [set(lease.keys) for lease in leases if not lease.is_released]
        expected = {key: sum(key in keys for keys in living) for key in "abcdef"}
        assert store.users() == {key: count for key, count in expected.items() if count}
        assert store.num_bytes == 16 * len(store.users())
    for lease in leases:
        lease.release()
    assert store.users() == {}
    assert store.num_bytes == 0


def test_a_held_key_is_shared_not_built() -> None:
    store = WeightStore()
    first = store.acquire(["a", "b"], make)
    built: list[str] = []
    second = store.acquire(["b", "c"], lambda keys: built.extend(keys) or make(keys))
    assert built == ["c"]
    assert second.get("b") is first.get("b")


def test_a_failed_build_restores_the_store() -> None:
    store = WeightStore()
    lease = store.acquire(["a"], make)

    def fail(keys: Sequence[str]) -> Mapping[str, Weight]:
        raise MemoryError("no")

    with pytest.raises(MemoryError):
        store.acquire(["a", "b"], fail)
    assert store.users() == {"a": 1}
    assert store.acquire(["b"], make).get("b").nbytes == 16
    lease.release()


def test_who_waits_for_a_build_that_fails_builds_it_itself() -> None:
    store = WeightStore()
    started, waiting = threading.Event(), threading.Event()

    def fail(keys: Sequence[str]) -> Mapping[str, Weight]:
        started.set()
        waiting.wait(10)
        raise MemoryError("no")

    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(store.acquire, ["x"], fail)
        assert started.wait(10)
        second = pool.submit(store.acquire, ["x", "y"], make_and(waiting))
        assert isinstance(failing.exception(10), MemoryError)
        assert second.result(10).keys == ("x", "y")
    assert store.users() == {"x": 1, "y": 1}


def make_and(event: threading.Event) -> object:
    """Builds, and tells that it has begun (its first turn builds what nobody else does)."""

    def build(keys: Sequence[str]) -> Mapping[str, Weight]:
        event.set()
        return make(keys)

    return build


@given(st.lists(KEYS, min_size=2, max_size=6))
@settings(max_examples=30, deadline=None)
def test_concurrent_builds_make_each_key_once(wanted: list[list[str]]) -> None:
    store = WeightStore()
    lock = threading.Lock()
    barrier = threading.Barrier(len(wanted))
    built: list[str] = []

    def build(keys: Sequence[str]) -> Mapping[str, Weight]:
        with lock:
            built.extend(keys)
        return make(keys)

    def acquire(keys: list[str]) -> Lease:
        barrier.wait(10)
        return store.acquire(keys, build)

    with ThreadPoolExecutor(len(wanted)) as pool:
        leases = [future.result(20) for future in [pool.submit(acquire, k) for k in wanted]]
    assert sorted(built) == sorted({key for keys in wanted for key in keys})
    for lease in leases:
        lease.release()
    assert store.users() == {}
