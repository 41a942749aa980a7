"""Sakana's DFS format: imported in place, equal to its own formula, faults refused."""

import json
from pathlib import Path
from typing import Any

import model_lab as lab
import pytest
import torch
from safetensors.torch import load_file, save_file

from evoserve.errors import ManifestError, SourceError
from evoserve.manifest.load import load_manifest
from evoserve.model.evomistral import import_evomistral
from evoserve.model.export import export_checkpoint
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

LAYERS = [0, 1, 2, 1, 1, 3, 2, 3]
SCALES = [0.9, 1.05, 0.7, 1.3, 0.33, 1.0, 0.8, 1.1]


def make_evomistral(folder: Path, **extra: torch.Tensor) -> Path:
    """A Mistral checkpoint of 4 layers plus the two tensors of 8 hops, as released."""
    lab.make_checkpoint(folder, seed=3, **lab.FAMILY_CASES["mistral"])
    hops = {
        "model.input_layers": torch.tensor(LAYERS, dtype=torch.int32),
        "model.input_scales": torch.tensor(SCALES, dtype=torch.float32),
        **extra,
    }
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in hops.items() if value.numel()}
    save_file({**tensors, **kept}, folder / "model.safetensors", metadata={"format": "pt"})
    change_config(folder, model_type="evomistral", num_hops=len(LAYERS))
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config.pop("architectures", None)
    file.write_text(json.dumps({**config, **changes}))


def its_own_forward(folder: Path, plain: Path, ids: list[int]) -> torch.Tensor:
    """x_t = residual_(t-1) + W_t * mlp_out_(t-1), the full embedding at hop 0 (paper.md, 2)."""
    model = lab.load_reference(plain)
    tensors = load_file(folder / "model.safetensors")
    layers = [(model, int(index)) for index in tensors["model.input_layers"]]
    return lab.unroll(layers, tensors["model.input_scales"].tolist(), "mlp_output", ids)


def test_an_import_computes_the_formula_of_the_release(tmp_path: Path) -> None:
    folder = make_evomistral(tmp_path / "evo")
    plain = lab.make_checkpoint(tmp_path / "plain", seed=3, **lab.FAMILY_CASES["mistral"])
    manifest = import_evomistral(folder, tmp_path / "evo.json")
    assert load_manifest(tmp_path / "evo.json") == manifest
    assert manifest.name == "evo"
    assert manifest.path == ("evo[0:3]", "evo[1]", "evo[1]", "evo[3]", "evo[2:4]")
    recipe = Recipe(manifest, {"evo": open_checkpoint(folder)})
    model = lab.build(recipe)
    assert (model.num_steps, model.num_layers) == (8, 4)
    assert model.scales == tuple(torch.tensor(SCALES).tolist())
    ids = lab.random_ids(20)
    expected = its_own_forward(folder, plain, ids)
    torch.testing.assert_close(lab.all_logits(model, ids), expected, atol=1e-4, rtol=1e-5)
    export_checkpoint(recipe, tmp_path / "out")
    with torch.no_grad():
        stock = lab.load_reference(tmp_path / "out")(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(stock, expected, atol=1e-4, rtol=1e-4)


def test_the_name_can_be_chosen(tmp_path: Path) -> None:
    assert import_evomistral(make_evomistral(tmp_path / "x"), name="jp-10b").name == "jp-10b"


def test_a_scale_or_name_that_the_format_refuses_is_a_manifest_error(tmp_path: Path) -> None:
    folder = make_evomistral(tmp_path / "evo", **scales([2e4, *SCALES[1:]]))
    with pytest.raises(ManifestError, match="per_hop"):
        import_evomistral(folder)
    with pytest.raises(ManifestError, match="name"):
        import_evomistral(make_evomistral(tmp_path / "e v o"))


def hops(layers: list[int]) -> dict[str, torch.Tensor]:
    return {"model.input_layers": torch.tensor(layers, dtype=torch.int32)}


def scales(values: list[float]) -> dict[str, torch.Tensor]:
    return {"model.input_scales": torch.tensor(values)}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (hops(LAYERS[:-1]), r"input_layers' has shape \[7\], config.json says num_hops 8"),
        (scales([*SCALES, 1.0]), r"input_scales' has shape \[9\]"),
        (hops([*LAYERS[:-1], 4]), r"input_layers\[7\] = 4, but there are layers 0 to 3"),
        (hops([-1, *LAYERS[1:]]), r"input_layers\[0\] = -1"),
        (scales([float("nan"), *SCALES[1:]]), r"input_scales\[0\] = nan is not finite"),
        (scales([*SCALES[:-1], float("inf")]), r"input_scales\[7\] = inf is not finite"),
        ({"model.input_layers": torch.tensor(SCALES)}, "has dtype torch.float32, not int32"),
        ({"model.input_scales": torch.tensor(LAYERS)}, "has dtype torch.int64, not float32"),
        ({"model.input_scales": torch.zeros(0)}, "tensor 'model.input_scales' is missing"),
    ],
)
def test_wrong_hops_are_refused(
    extra: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    folder = make_evomistral(tmp_path / "evo", **extra)
    with pytest.raises(SourceError, match=message):
        import_evomistral(folder, tmp_path / "evo.json")
    assert not (tmp_path / "evo.json").exists()


@pytest.mark.parametrize("num_hops", [None, 0, "8", True])
def test_a_wrong_number_of_hops_in_the_config_is_refused(num_hops: Any, tmp_path: Path) -> None:
    folder = make_evomistral(tmp_path / "evo")
    change_config(folder, num_hops=num_hops)
    with pytest.raises(SourceError, match="num_hops"):
        import_evomistral(folder)


def test_a_plain_mistral_is_not_imported(tmp_path: Path) -> None:
    folder = lab.make_checkpoint(tmp_path / "a", **lab.FAMILY_CASES["mistral"])
    with pytest.raises(SourceError, match="model_type is 'mistral', not 'evomistral'"):
        import_evomistral(folder)
