"""The manifest, format version 1; `docs/manifest.md` is its specification.

A `Manifest` that exists is valid on its own: all that can be checked without the sources has been.
"""

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from evoserve.errors import ManifestError
from evoserve.manifest.check import check_merges, check_names, check_path, check_scaling
from evoserve.manifest.parts import (
    EvaluationSpec,
    GenerationSpec,
    JsonValue,
    MergeSpec,
    Name,
    RecipeName,
    ScalingSpec,
    SourceSpec,
    StrictModel,
    Text,
    Word,
)
from evoserve.manifest.refs import MAX_PATH_STEPS, LayerRef, expand_path


class Manifest(StrictModel):
    """A recipe with everything needed to rebuild, check and credit it.

    Raises pydantic.ValidationError for wrong structure, ManifestError for wrong meaning.
    """

    format: Literal["evoserve/1"]
    name: RecipeName
    description: Text = ""
    license: Word | None = None
    sources: Annotated[dict[Name, SourceSpec], Field(min_length=1, max_length=64)]
    merges: Annotated[dict[Name, MergeSpec], Field(max_length=64)] = {}
    path: Annotated[tuple[Word, ...], Field(max_length=MAX_PATH_STEPS)] | None = None
    scaling: ScalingSpec = ScalingSpec()
    tokenizer: Name | None = None
    embed: Name | None = None
    head: Name | None = None
    chat_template: Text | None = None
    generation: GenerationSpec = GenerationSpec()
    evaluation: tuple[EvaluationSpec, ...] = ()
    provenance: dict[Word, JsonValue] = {}

    @model_validator(mode="after")
    def _check(self) -> "Manifest":
        check_merges(self.merges, self.sources)
        named = {"tokenizer": self.tokenizer, "embed": self.embed, "head": self.head}
        check_names(named, self.sources, self.merges)
        steps = None
        if self.path is not None:
            known = [*self.sources, *self.merges]
            steps = check_path(self.path, known, self.embed_model, self.head_model)
        elif self.embed_model != self.head_model:
            raise ManifestError("is needed when embed and head differ", where="path")
        check_scaling(self.scaling, steps, [*self.sources, *self.merges])
        return self

    @cached_property
    def default_model(self) -> str:
        """The one model nothing else reads. Raises ManifestError if there are several."""
        used = {model for merge in self.merges.values() for model in merge.reads}
        tops = [name for name in (self.merges or self.sources) if name not in used]
        if len(tops) != 1:
            raise ManifestError(f"is needed to choose among {', '.join(tops)}", where="path")
        return tops[0]

    @property
    def embed_model(self) -> str:
        """The model that gives the input embedding: `embed`, else the path's first."""
        return self.embed or self._end(0)

    @property
    def head_model(self) -> str:
        """The model that gives final norm and LM head: `head`, else the path's last."""
        return self.head or self._end(-1)

    @property
    def tokenizer_model(self) -> str:
        """The model whose tokenizer is used: `tokenizer`, else the embedding's.

        Or the reserved word `union`, if no model has that name: the embedding's tokenizer plus
        the added tokens of the other sources, see evoserve.sources.vocabulary.
        """
        return self.tokenizer or self.embed_model

    def steps(self, num_layers: int) -> list[LayerRef]:
        """The path written out; `num_layers` is the layer count of the default model."""
        if self.path is not None:
            return expand_path(self.path)
        model = self.embed_model
        return [LayerRef(model, layer) for layer in range(num_layers)]

    def base_source(self, model: str) -> str:
        """The source at the root of `model`: itself, or its merge's base (else first model)."""
        while model in self.merges:
            model = self.merges[model].reads[0]
        return model

    def _end(self, index: int) -> str:
        if not self.path:
            return self.default_model
        try:
            return expand_path([self.path[index]])[index].model
        except ValueError as error:
            raise ManifestError(str(error), where=f"path[{index}]") from None
