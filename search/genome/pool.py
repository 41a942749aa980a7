"""The models that a search draws on, and the frame that all its recipes share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from evoserve.manifest.parts import GenerationSpec, MergeSpec, ScalingSpec, SourceSpec
from evoserve.manifest.refs import expand_path
from evoserve.manifest.schema import Manifest


@dataclass(frozen=True)
class Pool:
    """Sources, their layer counts, and what every recipe made of them says alike.

    num_layers: per source; a merge has as many as its base (or first model).
    merges: made before the search, to be used like sources (PS first, then DFS).
    tokenizer, chat_template, generation, license, description: copied into every manifest.
    """

    name: str
    sources: Mapping[str, SourceSpec]
    num_layers: Mapping[str, int]
    merges: Mapping[str, MergeSpec] = field(default_factory=dict)
    tokenizer: str | None = None
    chat_template: str | None = None
    generation: GenerationSpec = field(default_factory=GenerationSpec)
    license: str | None = None
    description: str = ""

    def __post_init__(self) -> None:
        for source in self.sources:
            if self.num_layers.get(source, 0) < 1:
                raise ValueError(f"num_layers of source '{source}' is missing or below 1")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all sources and merges."""
        return (*self.sources, *self.merges)

    def layers_of(self, model: str) -> int:
        """Layer count of a source or merge. Raises ValueError for an unknown name."""
        seen = model
        for _ in range(len(self.merges) + 1):
            if seen in self.num_layers and seen in self.sources:
                return self.num_layers[seen]
            if seen not in self.merges:
                break
            seen = self.merges[seen].reads[0]
        raise ValueError(f"unknown model '{model}'; known: {', '.join(self.models)}")

    def check_known(self, models: Iterable[str]) -> None:
        """Raises ValueError for a name that is neither source nor merge."""
        for model in models:
            self.layers_of(model)

    def manifest(
        self,
        merges: Mapping[str, MergeSpec],
        path: Sequence[str] | None = None,
        scaling: ScalingSpec | None = None,
    ) -> Manifest:
        """The recipe of `merges` (beside the pool's own) and a path, without what it never uses.

        Without a path it is the last of `merges`, whole.
        """
        known = {**self.merges, **merges}
        tops = _tops(path, scaling, list(merges), self.tokenizer)
        used = _reachable(tops, known)
        return Manifest(
            format="evoserve/1",
            name=self.name,
            description=self.description,
            license=self.license,
            sources={name: spec for name, spec in self.sources.items() if name in used},
            merges={name: spec for name, spec in known.items() if name in used},
            path=None if path is None else tuple(path),
            scaling=scaling or ScalingSpec(),
            tokenizer=self.tokenizer,
            chat_template=self.chat_template,
            generation=self.generation,
        )


def _tops(
    path: Sequence[str] | None,
    scaling: ScalingSpec | None,
    merges: Sequence[str],
    tokenizer: str | None,
) -> list[str]:
    tops = [merges[-1]] if path is None else [ref.model for ref in expand_path(path)]
    if scaling is not None and scaling.network is not None:
        tops.extend(scaling.network.pool)
    if tokenizer is not None:
        tops.append(tokenizer)
    return tops


def _reachable(tops: Sequence[str], merges: Mapping[str, MergeSpec]) -> set[str]:
    used: set[str] = set()
    waiting = list(tops)
    while waiting:
        name = waiting.pop()
        if name not in used:
            used.add(name)
            waiting.extend(merges[name].reads if name in merges else ())
    return used
