"""Imported and exported coefficients on every tensor are those of mergekit's own planner."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mergekit_examples import EXAMPLES
from model_lab import make_checkpoint
from safetensors.torch import load_file

from evoserve.manifest.mergekit_export import export_mergekit
from evoserve.manifest.mergekit_import import import_mergekit
from evoserve.manifest.mergekit_methods import MERGEKIT_METHODS
from evoserve.manifest.refs import LayerRef, find_group, parse_group
from evoserve.manifest.schema import Manifest
from evoserve.manifest.tensor_names import LAYER_TENSORS, full_name
from evoserve.merge.build import evaluate_all
from evoserve.merge.expression import RecipeTensors
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

LAYERS = {"base": 4, "left": 4, "right": 4, "deep": 6}
FILTERS = [
    *("self_attn", "mlp", "*", "layernorm", "q_proj", "layers.1.", "layers.1", "embed_tokens"),
    *("lm_head", "norm", "down_proj.weight", "model", "weight", "no-such", ""),
]
SLOW = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Plan(NamedTuple):
    """What mergekit would do for one output tensor."""

    inputs: dict[str, str]
    base: str | None
    shared: dict[str, Any]
    per_model: dict[str, dict[str, Any]]


Planner = Callable[[str], dict[str, Plan]]


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    """Run mergekit's planner on a YAML text: its own slices, gradients, filters and scopes."""
    from mergekit.architecture import get_architecture_info
    from mergekit.config import MergeConfiguration
    from mergekit.options import MergeOptions
    from mergekit.parameter_resolver import resolve_parameters
    from mergekit.plan import MergePlanner
    from transformers import Qwen2Config

    root = tmp_path_factory.mktemp("zoo")
    for name, count in LAYERS.items():
        config = Qwen2Config(num_hidden_layers=count, architectures=["Qwen2ForCausalLM"])
        config.save_pretrained(root / name)

    def plan(text: str) -> dict[str, Plan]:
        found: dict[str, Plan] = {}

        class Recorder(MergePlanner):
            def plan_tensor(
                self, weight: Any, weights_in: Any, models: Any, cfg_reader: Any
            ) -> None:
                names = dict(zip(models, (w.name for w in weights_in), strict=False))
                shared, per_model = resolve_parameters(
                    self._method.spec,
                    tensor_name=weight.name,
                    inputs=names,
                    sources=cfg_reader.parameter_sources,
                    base_model=cfg_reader.base_model,
                    t=cfg_reader.t,
                )
                base = cfg_reader.base_model
                found[weight.name] = Plan(
                    {_plain(m, root): name for m, name in names.items()},
                    None if base is None else _plain(base, root),
                    shared,
                    {_plain(m, root): values for m, values in per_model.items()},
                )

        config = MergeConfiguration.model_validate(_located(yaml.safe_load(text), root))
        options = MergeOptions()
        architecture = get_architecture_info(config, options)
        out = Qwen2Config(num_hidden_layers=64)
        Recorder(config, architecture, options, out)._plan()
        return found

    return plan


def _plain(model: Any, root: Path) -> str:
    return str(model).replace(f"{root}/", "")


def _located(value: Any, root: Path) -> Any:
    """The document with the names of models turned into folders."""
    if isinstance(value, dict):
        return {key: _located(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_located(item, root) for item in value]
    return f"{root}/{value}" if value in LAYERS and isinstance(value, str) else value


def assert_same(manifest: Manifest, plans: dict[str, Plan]) -> None:
    """Every tensor that mergekit writes has, in the manifest, the same inputs and numbers."""
    steps = manifest.steps(
        LAYERS[manifest.sources[manifest.base_source(manifest.embed_model)].model]
    )
    written = {f"model.layers.{i}." for i in range(len(steps))}
    assert {name.partition("layers.")[2].partition(".")[0] for name in plans} - {""} == {
        name.split(".")[2] for name in written
    }
    for name, plan in plans.items():
        _assert_tensor(manifest, steps, name, plan)


def _assert_tensor(manifest: Manifest, steps: list[LayerRef], name: str, plan: Plan) -> None:
    part, owner, layer, read = _owner(manifest, steps, name)
    assert set(plan.inputs.values()) == {read}
    if owner in manifest.sources:
        assert list(plan.inputs) == [manifest.sources[owner].model]
        assert plan.per_model[manifest.sources[owner].model]["scale"] in (None, 1.0)
        return
    merge = manifest.merges[owner]
    paths = {model: manifest.sources[model].model for model in merge.reads}
    merged = [model for model in plan.inputs if merge.base is None or model != paths[merge.base]]
    assert [paths[model] for model in merge.inputs] == merged
    assert (merge.base and paths[merge.base]) == (
        None if MERGEKIT_METHODS[merge.method].base == "ignored" else plan.base
    )
    group = find_group([parse_group(text) for text in merge.groups], part, layer, read)
    assert group is not None
    declared = MERGEKIT_METHODS[merge.method]
    for model in merge.inputs:
        ours = merge.coefficients(model, group)
        theirs = plan.per_model[paths[model]] if declared.inputs else {}
        for word, parameter in declared.inputs.items():
            expected = theirs[word] if theirs[word] is not None else 1.0
            assert ours[parameter.field] == expected, (name, model, word)
        if declared.has_t:
            assert ours["t"] == plan.shared["t"], name
    options = merge.options.model_dump(by_alias=True)
    for word, option in declared.shared.items():
        value = options[option.option]
        if option.option == "rescale":
            value = value == "l1"
        assert value == plan.shared[word], (name, word)


def _owner(
    manifest: Manifest, steps: list[LayerRef], name: str
) -> tuple[str, str, int | None, str]:
    if name == "model.embed_tokens.weight":
        return "embed", manifest.embed_model, None, name
    if not name.startswith("model.layers."):
        return "head", manifest.head_model, None, name
    number, _, short = name.removeprefix("model.layers.").partition(".")
    assert short in LAYER_TENSORS
    ref = steps[int(number)]
    return "layers", ref.model, ref.layer, full_name(ref.layer, short)


def _import(text: str) -> Manifest:
    return import_mergekit(text, name="imported", num_layers=LAYERS)


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES)
def test_coefficients_of_every_tensor_are_mergekits(text: str, planner: Planner) -> None:
    manifest = _import(text)
    assert_same(manifest, planner(text))


def _settings(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    value = numbers | st.lists(numbers, min_size=1, max_size=5)
    conditional = st.fixed_dictionaries(
        {"value": value}, optional={"filter": st.sampled_from([*FILTERS, None])}
    )
    return value | conditional | st.lists(conditional, min_size=1, max_size=4)


UNIT = st.floats(0.0625, 1, width=16)
WEIGHT = st.floats(-2, 2, width=16)
WORDS = {
    "weight": WEIGHT,
    "density": UNIT,
    "gamma": UNIT,
    "epsilon": UNIT,
    "scale": WEIGHT,
    "t": UNIT,
}


def _parameters(method: str, *, is_shared: bool) -> st.SearchStrategy[dict[str, Any]]:
    declared = MERGEKIT_METHODS[method]
    words = [*declared.inputs, *(["t"] if is_shared and declared.has_t else [])]
    return st.fixed_dictionaries({}, optional={word: _settings(WORDS[word]) for word in words})


@st.composite
def configs(draw: st.DrawFn) -> str:
    """A YAML of any method with parameters at every scope; the widest gives what must be given."""
    method = draw(st.sampled_from(sorted(MERGEKIT_METHODS)))
    declared = MERGEKIT_METHODS[method]
    rest = {word: draw(WORDS[word]) for word in declared.inputs}
    if declared.has_t:
        rest["t"] = draw(UNIT)
    models = ["base", "left", "right"]
    if method in ("slerp", "passthrough"):
        models = models[: 2 if method == "slerp" else 1]
    document: dict[str, Any] = {"merge_method": method, "parameters": rest}
    if declared.base != "ignored":
        document["base_model"] = "base"
    if draw(st.booleans()):
        document["models"] = [
            {"model": m, "parameters": draw(_parameters(method, is_shared=False))} for m in models
        ]
        return yaml.safe_dump(document)
    document["slices"] = []
    for _ in range(draw(st.integers(1, 3))):
        if method == "passthrough":
            models = [draw(st.sampled_from(["base", "left", "right"]))]
        start = draw(st.integers(0, 3))
        span = [start, draw(st.integers(start + 1, 4))]
        sources = [
            {
                "model": m,
                "layer_range": [*span],
                "parameters": draw(_parameters(method, is_shared=False)),
            }
            for m in draw(st.permutations(models))
        ]
        scope = draw(_parameters(method, is_shared=True))
        document["slices"].append({"sources": sources, "parameters": scope})
    return yaml.safe_dump(document)


@SLOW
@given(text=configs())
def test_any_configuration_imports_to_mergekits_coefficients(text: str, planner: Planner) -> None:
    assert_same(_import(text), planner(text))


@SLOW
@given(text=configs())
def test_what_is_imported_exports_to_the_same_coefficients(text: str, planner: Planner) -> None:
    manifest = _import(text)
    exported = export_mergekit(manifest)
    assert_same(manifest, planner(exported))
    assert_same(_import(exported), planner(text))


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES)
def test_examples_survive_export(text: str, planner: Planner) -> None:
    exported = export_mergekit(_import(text))
    assert_same(_import(text), planner(exported))
    assert_same(_import(exported), planner(text))


WHOLE = {
    "linear": EXAMPLES["linear"],
    "ties": EXAMPLES["filters, first match wins"].replace("value: 0.3}", "value: 0.35}"),
    "slerp": EXAMPLES["slerp"].replace("bfloat16", "float32"),
    "slices": EXAMPLES["gradients restart in every slice"].replace("dare_ties", "ties"),
    "block expansion": EXAMPLES["block expansion"],
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small float32 Llamas: a base and two fine-tunes that are not close to it."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        name: make_checkpoint(root / name, seed=seed, model_type="llama", num_hidden_layers=4)
        for seed, name in enumerate(("base", "left", "right"))
    }


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE)
def test_a_yaml_merges_here_to_what_mergekit_writes(
    text: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    theirs = _run_mergekit(text, next(iter(checkpoints.values())).parent, tmp_path)
    manifest = _import(text)
    opened = {
        name: open_checkpoint(checkpoints[source.model])
        for name, source in manifest.sources.items()
    }
    tensors = RecipeTensors(Recipe(manifest, opened))
    steps = manifest.steps(4)
    for name, expected in theirs.items():
        _, owner, _, read = _owner(manifest, steps, name)
        ours = torch.empty(expected.shape)
        evaluate_all([(tensors.expression(owner, read), ours)], 1)
        error = float((ours - expected).abs().max())
        assert error <= 1e-6 * float(expected.abs().max()), (name, error)


def _run_mergekit(text: str, root: Path, out: Path) -> dict[str, torch.Tensor]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = MergeConfiguration.model_validate(_located(yaml.safe_load(text), root))
    run_merge(config, str(out), options=MergeOptions(copy_tokenizer=False, quiet=True))
    files = sorted(out.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}
