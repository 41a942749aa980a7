"""Import of Sakana's released DFS format, `evomistral` (EvoLLM-JP-v1-10B), as a manifest.

Such a folder is a Mistral checkpoint of the distinct layers plus `model.input_layers`, the layer of
each hop, and `model.input_scales`, its scale; target mlp_output is what its own code computes. It
stays where it is: the manifest names it as its one source.
"""

from pathlib import Path

import torch

from evoserve.errors import SourceError
from evoserve.manifest.load import build_manifest, save_manifest
from evoserve.manifest.refs import LayerRef, format_path
from evoserve.manifest.schema import Manifest
from evoserve.sources.checkpoint import Checkpoint, open_checkpoint

MODEL_TYPE = "evomistral"
INPUT_LAYERS = "model.input_layers"
INPUT_SCALES = "model.input_scales"
_SOURCE = "evo"


def import_evomistral(
    folder: Path, out: Path | None = None, *, name: str | None = None
) -> Manifest:
    """The manifest of an evomistral checkpoint, saved to `out` if given.

    name: of the recipe; by default the folder's. Raises SourceError for a folder of another kind
    and for hops that are missing, wrong in number, out of range or not finite, ManifestError for
    a name or scale that the format does not take.
    """
    checkpoint = open_checkpoint(folder)
    if checkpoint.config.get("model_type") != MODEL_TYPE:
        raise SourceError(
            f"{folder}: model_type is '{checkpoint.config.get('model_type')}', not '{MODEL_TYPE}'"
        )
    num_hops = checkpoint.config.get("num_hops")
    if not isinstance(num_hops, int) or isinstance(num_hops, bool) or num_hops < 1:
        raise SourceError(f"{folder}: config.json: num_hops = {num_hops!r} must be positive")
    layers = _read_hops(checkpoint, INPUT_LAYERS, num_hops)
    scales = _read_hops(checkpoint, INPUT_SCALES, num_hops)
    _check_values(folder, checkpoint, layers, scales)
    path = [LayerRef(_SOURCE, int(layer)) for layer in layers.tolist()]
    manifest = build_manifest(
        {
            "format": "evoserve/1",
            "name": name or folder.resolve().name,
            "description": f"Imported from an {MODEL_TYPE} checkpoint of {num_hops} hops.",
            "sources": {_SOURCE: {"model": str(folder.resolve())}},
            "path": format_path(path),
            "scaling": {"target": "mlp_output", "per_hop": scales.double().tolist()},
        }
    )
    if out is not None:
        save_manifest(manifest, out)
    return manifest


def _read_hops(checkpoint: Checkpoint, name: str, num_hops: int) -> torch.Tensor:
    if name not in checkpoint.tensors.names():
        raise SourceError(f"{checkpoint.folder}: tensor '{name}' is missing")
    values = checkpoint.tensors.read(name)
    if tuple(values.shape) != (num_hops,):
        raise SourceError(
            f"{checkpoint.folder}: tensor '{name}' has shape {list(values.shape)}, "
            f"config.json says num_hops {num_hops}"
        )
    return values


def _check_values(
    folder: Path, checkpoint: Checkpoint, layers: torch.Tensor, scales: torch.Tensor
) -> None:
    if layers.dtype not in (torch.int32, torch.int64):
        raise SourceError(f"{folder}: tensor '{INPUT_LAYERS}' has dtype {layers.dtype}, not int32")
    if not scales.dtype.is_floating_point:
        raise SourceError(
            f"{folder}: tensor '{INPUT_SCALES}' has dtype {scales.dtype}, not float32"
        )
    count = checkpoint.architecture.num_layers
    for hop, layer in enumerate(layers.tolist()):
        if not 0 <= layer < count:
            raise SourceError(
                f"{folder}: {INPUT_LAYERS}[{hop}] = {layer}, but there are layers 0 to {count - 1}"
            )
    for hop, scale in enumerate(scales.tolist()):
        if not torch.isfinite(scales[hop]):
            raise SourceError(f"{folder}: {INPUT_SCALES}[{hop}] = {scale} is not finite")
