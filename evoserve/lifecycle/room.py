"""The memory budget: what is missing for a recipe, and which ones may go for it."""

from collections.abc import Collection

from evoserve.engine.protocol import Engine
from evoserve.errors import ConflictError
from evoserve.lifecycle.book import Entry, RecipeBook, RecipeState
from evoserve.lifecycle.footprint import Footprint, union_bytes


class Room:
    """What recipes hold of a budget in bytes (None: no limit); unloads nothing by itself."""

    def __init__(self, budget: int | None, engine: Engine, book: RecipeBook) -> None:
        self._budget = budget
        self._engine = engine
        self._book = book

    def check(self, entry: Entry, footprint: Footprint, keep: Collection[str]) -> None:
        """Raises ConflictError if it cannot fit beside pinned recipes and those in `keep`."""
        kept = [
            each
            for each in self._book
            if each.is_loaded and each is not entry and each.footprint is not None
            if each.stored.is_pinned or each.model_id in keep
        ]
        held = [each.footprint for each in kept if each.footprint is not None]
        needed = union_bytes([footprint, *held])
        if self._budget is not None and needed > self._budget:
            beside = f" beside {', '.join(each.model_id for each in kept)}" if kept else ""
            raise ConflictError(
                f"recipe '{entry.model_id}' does not fit: {footprint.weight_bytes} bytes of "
                f"weights and {footprint.kv_cache_bytes} of KV cache{beside} make {needed}, "
                f"memory_bytes is {self._budget}; raise it, lower kv_cache_bytes or max_num_seqs, "
                "or unpin and unload recipes"
            )

    def missing(self, entry: Entry, footprint: Footprint) -> int:
        """Bytes by which the budget would be exceeded."""
        if self._budget is None:
            return 0
        draining = [each.info for each in self._book if each.state is RecipeState.DRAINING]
        infos = [*self._engine.models(), *(info for info in draining if info is not None)]
        held = self._engine.stats().weight_bytes + sum(info.kv_cache_bytes for info in infos)
        new = sum(part.weight_bytes for part in footprint.new_parts(self.held(entry)))
        return held + new + footprint.kv_cache_bytes - self._budget

    def held(self, entry: Entry) -> list[Footprint]:
        """Of all loaded recipes but this one."""
        return [
            each.footprint
            for each in self._book
            if each.is_loaded and each is not entry and each.footprint is not None
        ]

    def victim(self, footprint: Footprint, keep: Collection[str]) -> Entry | None:
        """The idle, unpinned recipe used the longest ago; None if unloading all is not enough."""
        idle = [
            each
            for each in self._book
            if each.state is RecipeState.READY and not each.stored.is_pinned
            if each.model_id not in keep and self.is_idle(each)
        ]
        staying = [
            each.footprint
            for each in self._book
            if each.is_loaded and each not in idle and each.footprint is not None
        ]
        if self._budget is not None and union_bytes([footprint, *staying]) > self._budget:
            return None
        return min(idle, key=lambda each: each.last_used, default=None)

    def is_idle(self, entry: Entry) -> bool:
        """Does no request use the recipe, or is about to?"""
        stats = self._engine.stats().models
        own = [one for one in stats if one.model_id == entry.model_id]
        return not entry.num_held and not any(one.num_running or one.num_waiting for one in own)
