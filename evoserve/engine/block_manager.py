"""Who owns which KV block: a fixed pool, reference counts and an exact prefix cache. No torch."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

_ROOT = 0


@dataclass(slots=True)
class BlockTable:
    """The blocks of one sequence in order of position.

    num_registered: how many leading blocks the prefix cache has seen; tail: the cache node that
    stands for the contents of all of them.
    """

    block_ids: list[int] = field(default_factory=list)
    num_registered: int = 0
    tail: int = _ROOT


class BlockManager:
    """A pool of `num_blocks` blocks of `block_size` tokens each, shared by one recipe's sequences.

    A full block whose KV is computed is found again by the token ids up to its end. Its key is
    (node of the block before it, its own token ids): the chain stands for the whole prefix and is
    compared, not only hashed, so that no collision can serve another prompt's KV. Nodes are
    never numbered twice. A block without owners stays cached until its room is needed; the least
    recently released goes first, and a block always before the one it continues.
    """

    def __init__(self, num_blocks: int, block_size: int, *, caching: bool = True) -> None:
        """All blocks are free and none is cached."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._caching = caching
        self._owners = [0] * num_blocks
        self._keys: list[tuple[int, tuple[int, ...]] | None] = [None] * num_blocks
        self._nodes = [_ROOT] * num_blocks
        self._next_node = count(_ROOT + 1)
        self._cached: dict[tuple[int, tuple[int, ...]], int] = {}
        self._unused = list(range(num_blocks - 1, -1, -1))
        self._evictable: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Blocks without owners, cached or not."""
        return len(self._unused) + len(self._evictable)

    @property
    def num_cached(self) -> int:
        """Blocks the prefix cache holds, in use or not."""
        return len(self._cached)

    def num_owners(self, block_id: int) -> int:
        """How many tables hold the block."""
        return self._owners[block_id]

    def num_needed(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` tokens fill."""
        return -(-num_tokens // self.block_size)

    def allocate(
        self, token_ids: Sequence[int], *, reserve: int = 0, use_cache: bool = True
    ) -> BlockTable | None:
        """A table for all of `token_ids` that leaves `reserve` blocks free, else None.

        Its `num_registered` leading blocks come from the prefix cache; at least one token is
        always left to compute, because its logits are wanted.
        """
        found = self._match(token_ids) if use_cache else []
        num_new = self.num_needed(len(token_ids)) - len(found)
        num_revived = sum(self._owners[block] == 0 for block in found)
        if num_new + num_revived + reserve > self.num_free:
            return None
        for block in found:
            self._share(block)
        tail = self._nodes[found[-1]] if found else _ROOT
        fresh = [self._take() for _ in range(num_new)]
        return BlockTable([*found, *fresh], len(found), tail)

    def grow(self, table: BlockTable, num_tokens: int) -> bool:
        """Extend `table` to hold `num_tokens` tokens; False, and nothing done, if blocks lack."""
        num_new = self.num_needed(num_tokens) - len(table.block_ids)
        if num_new > self.num_free:
            return False
        table.block_ids.extend(self._take() for _ in range(num_new))
        return True

    def register(self, table: BlockTable, token_ids: Sequence[int], num_computed: int) -> None:
        """Let the blocks that the first `num_computed` tokens fill be found by later sequences."""
        if not self._caching:
            return
        size = self.block_size
        for index in range(table.num_registered, num_computed // size):
            key = (table.tail, tuple(token_ids[index * size : (index + 1) * size]))
            block = table.block_ids[index]
            if key not in self._cached:
                self._cached[key] = block
                self._keys[block] = key
                self._nodes[block] = next(self._next_node)
            table.tail = self._nodes[self._cached[key]]
            table.num_registered = index + 1

    def release(self, table: BlockTable) -> None:
        """Give all blocks of `table` back and empty it; the last is evicted first."""
        for block in reversed(table.block_ids):
            self._owners[block] -= 1
            if self._owners[block] == 0:
                if self._keys[block] is None:
                    self._unused.append(block)
                else:
                    self._evictable[block] = None
        table.block_ids.clear()
        table.num_registered = 0
        table.tail = _ROOT

    def _match(self, token_ids: Sequence[int]) -> list[int]:
        found: list[int] = []
        node, size = _ROOT, self.block_size
        for start in range(0, (len(token_ids) - 1) // size * size, size):
            block = self._cached.get((node, tuple(token_ids[start : start + size])))
            if block is None:
                break
            found.append(block)
            node = self._nodes[block]
        return found

    def _share(self, block: int) -> None:
        if self._owners[block] == 0:
            del self._evictable[block]
        self._owners[block] += 1

    def _take(self) -> int:
        if self._unused:
            block = self._unused.pop()
        else:
            block, _ = self._evictable.popitem(last=False)
            key = self._keys[block]
            if key is not None:
                del self._cached[key]
            self._keys[block] = None
        self._owners[block] = 1
        return block
