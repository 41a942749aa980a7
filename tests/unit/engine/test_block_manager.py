"""The pool: used and free blocks partition it, owners are counted, cached prefixes are exact."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evoserve.engine.block_manager import BlockManager, BlockTable

SIZE = 3
NUM_BLOCKS = 9
TOKENS = st.integers(0, 1)


class PoolMachine(RuleBasedStateMachine):
    """Sequences over two tokens, so that prefixes are often shared, in a pool often too small.

    `contents` is the KV: what each block was computed to hold, whoever reads it later.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockManager(NUM_BLOCKS, SIZE)
        self.live: list[tuple[BlockTable, list[int], int]] = []
        self.contents: dict[tuple[int, int], tuple[int, ...]] = {}

    @rule(tokens=st.lists(TOKENS, min_size=1, max_size=20), reserve=st.integers(0, 3))
    def allocate(self, tokens: list[int], reserve: int) -> None:
        free = self.blocks.num_free
        table = self.blocks.allocate(tokens, reserve=reserve)
        if table is None:
            assert self.blocks.num_free == free
            assert self.blocks.num_needed(len(tokens)) + reserve > free
            return
        assert free - self.blocks.num_free <= len(table.block_ids)
        assert self.blocks.num_free >= reserve
        num_cached = table.num_registered * SIZE
        assert num_cached < len(tokens)
        for position in range(num_cached):
            held = self.contents[table.block_ids[position // SIZE], position % SIZE]
            assert held == tuple(tokens[: position + 1]), "another prompt's KV was served"
        self.live.append((table, list(tokens), num_cached))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), number=st.integers(1, 5))
    def compute(self, data: st.DataObject, number: int) -> None:
        index = data.draw(st.integers(0, len(self.live) - 1))
        table, tokens, computed = self.live[index]
        stop = min(len(tokens), computed + number)
        for position in range(computed, stop):
            block = table.block_ids[position // SIZE]
            assert self.blocks.num_owners(block) == 1, "a shared block was written"
            self.contents[block, position % SIZE] = tuple(tokens[: position + 1])
        self.blocks.register(table, tokens, stop)
        self.live[index] = (table, tokens, stop)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), token=TOKENS)
    def grow(self, data: st.DataObject, token: int) -> None:
        index = data.draw(st.integers(0, len(self.live) - 1))
        table, tokens, _ = self.live[index]
        before = list(table.block_ids)
        needs_block = len(tokens) % SIZE == 0
        possible = not needs_block or self.blocks.num_free > 0
        assert self.blocks.grow(table, len(tokens) + 1) == possible
        if possible:
            tokens.append(token)
            assert len(table.block_ids) == len(before) + needs_block
        else:
            assert table.block_ids == before

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table, _, _ = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        self.blocks.release(table)
        assert table == BlockTable()

    @invariant()
    def pool_is_partitioned(self) -> None:
        held = [block for table, _, _ in self.live for block in table.block_ids]
        for block in range(NUM_BLOCKS):
            assert self.blocks.num_owners(block) == held.count(block)
        assert self.blocks.num_free == NUM_BLOCKS - len(set(held))
        assert self.blocks.num_cached <= NUM_BLOCKS

    def teardown(self) -> None:
        for table, _, _ in self.live:
            self.blocks.release(table)
        assert self.blocks.num_free == NUM_BLOCKS
        fresh = self.blocks.allocate([9] * (NUM_BLOCKS * SIZE))
        assert fresh is not None
        assert sorted(fresh.block_ids) == list(range(NUM_BLOCKS))
        assert self.blocks.num_cached == 0


PoolMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase


def _cache(blocks: BlockManager, tokens: list[int]) -> None:
    table = blocks.allocate(tokens)
    assert table is not None
    blocks.register(table, tokens, len(tokens))
    blocks.release(table)


def test_prefix_is_found_up_to_the_last_full_block_but_one_token() -> None:
    blocks = BlockManager(8, 4)
    _cache(blocks, list(range(12)))
    for length, found in ((13, 3), (12, 2), (9, 2), (8, 1), (4, 0), (1, 0)):
        table = blocks.allocate(list(range(length)))
        assert table is not None
        assert table.num_registered == found
        blocks.release(table)


def test_least_recently_released_block_goes_first_and_the_tail_before_the_head() -> None:
    blocks = BlockManager(4, 1)
    _cache(blocks, [1, 2])
    _cache(blocks, [3, 4])
    blocks.release(blocks.allocate([9]) or BlockTable())
    table = blocks.allocate([1, 7])
    assert table is not None
    assert table.num_registered == 1, "the head of the oldest prefix outlives its tail"


def test_without_caching_nothing_is_found() -> None:
    blocks = BlockManager(8, 4, caching=False)
    _cache(blocks, list(range(12)))
    table = blocks.allocate(list(range(13)))
    assert table is not None
    assert table.num_registered == 0
    assert blocks.num_cached == 0


def test_bypassing_the_cache_gives_fresh_blocks() -> None:
    blocks = BlockManager(8, 4)
    first = blocks.allocate(list(range(9)))
    assert first is not None
    blocks.register(first, list(range(9)), 9)
    second = blocks.allocate(list(range(9)), use_cache=False)
    assert second is not None
    assert not set(first.block_ids) & set(second.block_ids)
