"""Makes weights from their blueprints over threads, with few drafts in memory at a time."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from evoserve.model.blueprint import Blueprint, Part, PartValue, evaluate_jobs
from evoserve.model.heap import trim_heap
from evoserve.model.store import Weight

_LARGE = 1 << 22
"""Elements from which on all threads share a part; smaller ones make batches of about this size."""

Made = dict[tuple[str, str], PartValue]


def produce_weights(blueprints: Sequence[Blueprint], num_threads: int) -> dict[str, Weight]:
    """The weight of each blueprint by key; the bits do not depend on num_threads.

    Large parts are drafted, evaluated and packed one by one, the largest first, when little else
    is held; then the others in batches, one batch per thread. So beyond finished parts no more
    is held than the draft of one large part, or of one batch per thread. Raises SourceError for
    a tensor with NaN or infinity, or from reading, and then holds nothing.
    """
    items = [_Item(blueprint.key, part) for blueprint in blueprints for part in blueprint.parts]
    ordered = sorted(items, key=lambda item: -item.part.num_elements)
    num_large = sum(item.part.num_elements >= _LARGE for item in items)
    made: Made = {}
    try:
        for item in ordered[:num_large]:
            made |= _produce([item], num_threads)
            trim_heap()
        _produce_batches(list(_batches(ordered[num_large:])), num_threads, made)
        trim_heap()
        return {blueprint.key: blueprint.assemble(_of(blueprint, made)) for blueprint in blueprints}
    except BaseException:
        made.clear()  # the traceback keeps this frame, and must not keep the weights
        raise


@dataclass(frozen=True, eq=False)
class _Item:
    key: str
    part: Part


def _produce_batches(batches: Sequence[list[_Item]], num_threads: int, made: Made) -> None:
    """Into `made`; the first batch in order that fails decides the error."""
    if num_threads <= 1:
        for batch in batches:
            made |= _produce(batch, 1)
        return
    futures: list[Future[Made]] = []
    with ThreadPoolExecutor(num_threads, thread_name_prefix="build") as pool:
        try:
            futures += [pool.submit(_produce, batch, 1) for batch in batches]
            for future in futures:
                made |= future.result()
        finally:
            while futures:
                futures.pop().cancel()  # no name keeps a result once this is over


def _produce(items: Sequence[_Item], num_threads: int) -> Made:
    drafts = [item.part.draft() for item in items]
    evaluate_jobs([job for draft in drafts for job in draft.jobs], num_threads)
    made: Made = {}
    for item, draft in zip(items, drafts, strict=True):
        made[item.key, item.part.name] = draft.finish(num_threads)
    return made


def _batches(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    filled = 0
    for item in items:
        if batch and filled + item.part.num_elements > _LARGE:
            yield batch
            batch, filled = [], 0
        batch.append(item)
        filled += item.part.num_elements
    if batch:
        yield batch


def _of(blueprint: Blueprint, made: Made) -> Mapping[str, PartValue]:
    return {part.name: made[blueprint.key, part.name] for part in blueprint.parts}
