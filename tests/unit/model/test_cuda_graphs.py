"""Padded decodes over fixed buffers equal plain ones; only the capture itself is not tested."""

import model_lab as lab
import pytest
import torch

from evoserve.model.attention import TorchAttention
from evoserve.model.cuda_graphs import (
    LARGEST_BATCH,
    EagerRecorder,
    GraphedForward,
    Replay,
    find_bucket,
    is_replayable,
)
from evoserve.model.kv_cache import SlotCache
from evoserve.model.path_model import PathModel

FAMILIES = ("llama", "mistral-window", "qwen2-window", "qwen3")


class CountingRecorder(EagerRecorder):
    """Counts what was recorded and what was replayed."""

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = 0

    def record(self, run: Replay) -> Replay:
        self.num_recorded += 1

        def replay() -> torch.Tensor:
            self.num_replayed += 1
            return run()

        return replay


def graphed(model: PathModel, recorder: CountingRecorder) -> PathModel:
    """The same weights, run by `GraphedForward`."""
    return PathModel(
        model._parts, GraphedForward(model._parts, TorchAttention(), recorder), model.lease
    )


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PathModel:
    folder = lab.make_checkpoint(
        tmp_path_factory.mktemp("graphs") / request.param, **lab.FAMILY_CASES[request.param]
    )
    return lab.build(
        lab.open_recipe({"a": folder}, path=["a[0:4]", "a[2:4]"], scaling={"default": 0.9})
    )


def test_replayed_decodes_equal_plain_ones(model: PathModel) -> None:
    """The tape's cache starts as NaN, so that a slot nobody wrote would show in the logits."""
    recorder = CountingRecorder()
    tapes = [lab.Tape(each, 5) for each in (model, graphed(model, recorder))]
    prompts = [(seq, lab.random_ids(3 + 17 * seq, seed=seq)) for seq in range(5)]
    plain, padded = (tape.feed(prompts) for tape in tapes)
    assert all(torch.equal(a, b) for a, b in zip(plain, padded, strict=True))
    assert recorder.num_recorded == 0
    for step, members in enumerate([(0, 1, 2), (0, 1, 2, 3, 4), (4,), (2, 0), (0, 1, 2, 3, 4)]):
        chunks = [(seq, lab.random_ids(1, seed=10 * step + seq)) for seq in members]
        plain, padded = (tape.feed(chunks) for tape in tapes)
        for wanted, found in zip(plain, padded, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert recorder.num_replayed == 5
    assert recorder.num_recorded == 4  # (4, 64), (8, 128), (1, 128), (2, 64), the second again


def test_a_row_does_not_depend_on_what_fills_its_bucket(model: PathModel) -> None:
    recorder = CountingRecorder()
    runner = graphed(model, recorder)
    results = []
    for others in ((1, 2), (2, 1)):
        tape = lab.Tape(runner, 3)
        tape.feed([(seq, lab.random_ids(9, seed=seq)) for seq in range(3)])
        results.append(tape.feed([(0, [5]), *((seq, [seq + 7]) for seq in others)])[0])
    assert torch.equal(results[0], results[1])


def test_returned_logits_outlive_the_next_replay(model: PathModel) -> None:
    tape = lab.Tape(graphed(model, CountingRecorder()), 1)
    tape.feed([(0, lab.random_ids(4))])
    first = tape.feed([(0, [3])])[0]
    kept = first.clone()
    tape.feed([(0, [4])])
    assert torch.equal(first, kept)


def test_another_cache_is_recorded_anew(model: PathModel) -> None:
    recorder = CountingRecorder()
    runner = graphed(model, recorder)
    logits = []
    for _ in range(2):
        tape = lab.Tape(runner, 1)
        tape.feed([(0, lab.random_ids(4))])
        logits.append(tape.feed([(0, [3])])[0])
    assert recorder.num_recorded == 2
    assert torch.equal(logits[0], logits[1])


def test_padding_writes_to_the_block_that_nobody_owns(model: PathModel) -> None:
    runner = graphed(model, CountingRecorder())
    tape = lab.Tape(runner, 3)
    assert isinstance(tape.cache, SlotCache)
    assert tape.cache.num_blocks == tape.tables.numel() + 1
    tape.feed([(seq, lab.random_ids(4, seed=seq)) for seq in range(3)])
    before = tape.cache.data.clone()
    tape.feed([(seq, [1]) for seq in range(3)])
    changed = (tape.cache.data.nan_to_num() != before.nan_to_num()).flatten(2).any(-1)
    slots = changed.any(0).nonzero().flatten().tolist()
    owned = {int(tape.tables[seq, 1]) * lab.BLOCK_SIZE for seq in range(3)}
    assert set(slots) <= owned | {tape.tables.numel() * lab.BLOCK_SIZE}


@pytest.mark.parametrize(
    ("lens", "bucket"),
    [([1], (1, 64)), ([64, 3], (2, 64)), ([65, 3, 9], (4, 128)), ([4096] * 33, (64, 4096))],
)
def test_buckets_are_the_next_powers_of_two(lens: list[int], bucket: tuple[int, int]) -> None:
    assert find_bucket(lens) == bucket


def test_prefills_mixed_batches_and_crowds_run_eagerly() -> None:
    assert not is_replayable(lab.single_batch([1, 2, 3], [2]))
    assert not is_replayable(lab.single_batch([1], []))
    assert is_replayable(lab.single_batch([1], [0]))
    assert LARGEST_BATCH >= 64
