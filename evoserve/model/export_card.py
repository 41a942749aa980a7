"""README.md of an exported checkpoint: what it is made of, how, and under which licence."""

import json
from collections.abc import Sequence

from evoserve.manifest.canonical import digest
from evoserve.manifest.load import dump_manifest
from evoserve.manifest.parts import EvaluationSpec, SourceSpec
from evoserve.manifest.schema import Manifest


def model_card(manifest: Manifest, family: str, num_layers: int, warnings: Sequence[str]) -> str:
    """Markdown with the front matter that model hubs read."""
    sections = [
        _front_matter(manifest),
        f"# {manifest.name}",
        manifest.description,
        f"A stock `{family}` checkpoint of {num_layers} layers, written by EvoServe from the "
        f"recipe below (`{digest(manifest)}`). It needs no custom code: layer t is step t of the "
        "recipe's path, and the path's scales are folded into the weights.",
        "## Sources",
        "\n".join(_source(name, source) for name, source in manifest.sources.items()),
        _licence(manifest),
        _scores(manifest.evaluation),
        "\n".join(f"Note: {warning}." for warning in warnings),
        "## Recipe",
        f"```json\n{dump_manifest(manifest)}```",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(manifest: Manifest) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if manifest.license:
        lines.append(f"license: {json.dumps(manifest.license.lower(), ensure_ascii=False)}")
    lines.append("base_model:")
    lines += [f"- {json.dumps(source.model)}" for source in manifest.sources.values()]
    lines += ["tags:", "- merge", "- evoserve", "---"]
    return "\n".join(lines)


def _source(name: str, source: SourceSpec) -> str:
    parts = [f"`{source.model}`"]
    if source.revision:
        parts.append(f"revision `{source.revision}`")
    if source.digest:
        parts.append(f"`{source.digest}`")
    if source.adapter:
        parts.append(f"with LoRA adapter `{source.adapter.model}`")
    return f"- **{name}**: {', '.join(parts)}"


def _licence(manifest: Manifest) -> str:
    given = f"{manifest.license}." if manifest.license else "The recipe names none."
    return f"## License\n\n{given} The licenses of all sources apply to this checkpoint too."


def _scores(evaluation: Sequence[EvaluationSpec]) -> str:
    if not evaluation:
        return ""
    rows = [
        "## Evaluation of the recipe",
        "",
        "| task | metric | score | items |",
        "|---|---|---|---|",
    ]
    rows += [
        f"| {each.task} | {each.metric} | {each.score:g} | {each.num_items} |"
        for each in evaluation
    ]
    return "\n".join(rows)
