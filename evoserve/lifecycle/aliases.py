"""Names that lead to recipes by weight; each change is a version that can be gone back to."""

import re
from collections.abc import Sequence

from evoserve.errors import ConflictError, RequestError, UnknownRecipe
from evoserve.lifecycle.events import EventLog
from evoserve.lifecycle.split import Target
from evoserve.lifecycle.store import Action, AliasChange, StateStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/\-]{0,127}")


class AliasBook:
    """The present state of every alias; a change is one assignment, seen whole or not at all."""

    def __init__(self, store: StateStore, events: EventLog) -> None:
        self._store = store
        self._events = events
        self._present = {change.alias: change for change in store.aliases()}

    def find(self, name: str) -> AliasChange | None:
        """The alias as it is now, None if there is none."""
        return self._present.get(name)

    def get(self, name: str) -> AliasChange:
        """The alias as it is now. Raises UnknownRecipe."""
        change = self.find(name)
        if change is None:
            raise UnknownRecipe(name, "alias")
        return change

    def all(self) -> list[AliasChange]:
        """Every alias, by name."""
        return [self._present[name] for name in sorted(self._present)]

    def leading_to(self, model_id: str) -> list[str]:
        """The names that have a recipe among their targets."""
        return [
            change.alias
            for change in self.all()
            if model_id in [target.model_id for target in change.targets]
        ]

    def history(self, name: str) -> list[AliasChange]:
        """All versions, the oldest first. Raises UnknownRecipe for a name never used."""
        changes = self._store.history(name)
        if not changes:
            raise UnknownRecipe(name, "alias")
        return changes

    def version_before(self, name: str, version: int | None) -> AliasChange:
        """The version to go back to; None: the one before the last change.

        Raises UnknownRecipe, and ConflictError if there is no such version, or nothing in it.
        """
        changes = self.history(name)
        wanted = changes[-1].version - 1 if version is None else version
        found = next((change for change in changes if change.version == wanted), None)
        if found is None or not found.targets:
            have = ", ".join(str(change.version) for change in changes if change.targets)
            raise ConflictError(
                f"alias '{name}' has no version {wanted} to go back to; there are {have}"
            )
        return found

    def change(self, name: str, action: Action, targets: Sequence[Target]) -> AliasChange:
        """Store the new state, then let it be seen; from here on requests go by it."""
        change = self._store.change_alias(name, action, targets)
        if targets:
            self._present[name] = change
        else:
            self._present.pop(name, None)
        shown = [{"recipe": each.model_id, "weight": each.weight} for each in targets]
        self._events.publish("alias", name, action=action, version=change.version, targets=shown)
        return change


def check_alias_name(name: str) -> None:
    """Raises RequestError for a name that could not stand in a request or a path.

    Clients fold `a/../b` to `b` in a path: with such a name they would reach another alias.
    """
    if not _NAME.fullmatch(name) or {"", ".", ".."}.intersection(name.split("/")):
        raise RequestError(
            f"Invalid alias '{name:.140}': 1 to 128 of A-Z a-z 0-9 . _ / -, the first one a letter "
            "or digit, no part between slashes empty, '.' or '..'.",
            param="alias",
            code="invalid_value",
        )
