"""Every point of every genome is a valid recipe; encode inverts decode; activity is honest."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evoserve.errors import ManifestError
from evoserve.manifest.canonical import digest
from evoserve.manifest.load import dump_manifest, parse_manifest
from evoserve.manifest.methods import TRAITS
from evoserve.manifest.parts import MergeSpec, SourceSpec
from evoserve.manifest.refs import expand_path
from evoserve.model.scaling import hop_scales
from search.genome.axes import Range
from search.genome.dfs import DfsSettings, build_dfs_genome
from search.genome.encoded import EncodedGenome
from search.genome.groups import build_groups
from search.genome.joint import build_joint_genome
from search.genome.lineage import build_lineage_genome
from search.genome.pool import Pool
from search.genome.ps import MIN_DENSITY, PsSettings, build_ps_genome

SOURCES = {name: SourceSpec(model=f"mini/{name}") for name in ("base", "ja", "math", "tiny")}
LAYERS = {"base": 4, "ja": 4, "math": 4, "tiny": 1}
POOL = Pool("test", SOURCES, LAYERS)
FIXED = Pool(
    "test",
    SOURCES,
    LAYERS,
    merges={"ps": MergeSpec(method="linear", models=("ja", "math"), weights={"ja": 1, "math": 1})},
)


def ps(method: str, granularity: object = "one", split: bool = False) -> EncodedGenome:
    traits = TRAITS[method]
    models = ("ja", "math") if traits.models[1] != 1 else ("ja",)
    return build_ps_genome(
        POOL,
        PsSettings(
            method=method,
            models=models,
            base="base" if traits.base == "required" else None,
            groups=build_groups(4, granularity, split=split),
        ),
    )


def dfs(models: tuple[str, ...], **kwargs: object) -> EncodedGenome:
    return build_dfs_genome(FIXED, DfsSettings(models, **kwargs))


def joint(models: tuple[str, ...], **kwargs: object) -> EncodedGenome:
    merge = PsSettings("dare_ties", ("ja", "math"), "base", build_groups(4, 2), merge="evolved")
    return build_joint_genome(POOL, merge, DfsSettings(models, **kwargs))


EVOLVABLE = [method for method in TRAITS if TRAITS[method].coefficients]
GENOMES: dict[str, Callable[[], EncodedGenome]] = {
    **{f"ps {method}": lambda method=method: ps(method) for method in EVOLVABLE},
    "ps bands": lambda: ps("dare_ties", 2),
    "ps layers": lambda: ps("ties", "layers"),
    "ps filters": lambda: ps("della", 3, split=True),
    "ps listed": lambda: ps("slerp", ["layers[0:3]", "layers", "embed", "head"]),
    "dfs matrix": lambda: dfs(("ps", "math"), repeats=2),
    "dfs three": lambda: dfs(("ja", "math", "tiny"), repeats=3, scales="matrix"),
    "dfs per hop": lambda: dfs(("ja", "math"), repeats=2, scales="per_hop", target="hidden_state"),
    "dfs network": lambda: dfs(("ja", "math"), repeats=2, scales="network", hidden=3),
    "dfs none": lambda: dfs(("ja", "math"), scales="none"),
    "dfs one model": lambda: dfs(("ja",), repeats=2),
    "dfs one layer": lambda: dfs(("tiny", "ja"), repeats=3, scales="per_hop"),
    "dfs short": lambda: dfs(("ja", "math"), repeats=3, max_hops=6, scales="per_hop"),
    "dfs shorter": lambda: dfs(("tiny", "ja"), repeats=3, max_hops=2),
    "joint A": lambda: joint(("evolved", "ja"), repeats=2),
    "joint B": lambda: joint(("ja", "evolved"), repeats=1, scales="per_hop"),
    "lineage": lambda: build_lineage_genome(POOL, ("base", "ja", "math"), max_merges=6),
}


@pytest.fixture(scope="module", params=GENOMES)
def genome(request: pytest.FixtureRequest) -> EncodedGenome:
    return GENOMES[request.param]()


def vectors(genome: EncodedGenome) -> st.SearchStrategy[np.ndarray]:
    """Inside the bounds, at them, and far outside."""
    inside = st.integers(0, 2**32 - 1).map(
        lambda seed: np.random.default_rng(seed).uniform(genome.lower, genome.upper)
    )
    wild = arrays(
        np.float64,
        genome.size,
        elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e308, -1e308, np.inf, 0.5, 1e-300, 3.0]),
    )
    corner = st.sampled_from([genome.lower, genome.upper, genome.initial, 0 * genome.initial])
    return st.one_of(inside, inside, wild, corner)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_point_is_a_valid_recipe_and_encode_inverts_decode(
    genome: EncodedGenome, data: st.DataObject
) -> None:
    manifest = genome.decode(data.draw(vectors(genome)))
    assert parse_manifest(dump_manifest(manifest)) == manifest
    point = genome.encode(manifest)
    assert np.all(point >= genome.lower)
    assert np.all(point <= genome.upper)
    assert genome.decode(point) == manifest


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_inactive_dimensions_may_all_change_at_once(
    genome: EncodedGenome, data: st.DataObject, seed: int
) -> None:
    vector = np.clip(data.draw(vectors(genome)), genome.lower, genome.upper)
    other = np.random.default_rng(seed).uniform(genome.lower, genome.upper)
    changed = np.where(genome.is_active(vector), vector, other)
    assert digest(genome.decode(changed)) == digest(genome.decode(vector))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_active_dimensions_each_change_the_recipe(data: st.DataObject) -> None:
    genome = GENOMES["dfs matrix"]()
    vector = data.draw(
        st.integers(0, 2**32 - 1).map(
            lambda seed: np.random.default_rng(seed).uniform(genome.lower, genome.upper)
        )
    )
    before = digest(genome.decode(vector))
    same = 0
    for index in np.flatnonzero(genome.is_active(vector)):
        changed = vector.copy()
        changed[index] = -vector[index] if genome.is_binary[index] else vector[index] / 2 + 0.9
        same += digest(genome.decode(changed)) == before
    # A second slot of A's last layer behind the path may count as active though it does nothing.
    assert same <= 1


def test_shapes_and_names(genome: EncodedGenome) -> None:
    parts = (genome.lower, genome.upper, genome.initial, genome.sigma, genome.is_binary)
    assert {part.shape for part in parts} == {(genome.size,)}
    assert len(set(genome.names)) == genome.size
    assert np.all(genome.lower < genome.upper)
    assert np.all((genome.lower <= genome.initial) & (genome.initial <= genome.upper))
    assert np.all(genome.sigma > 0)


def test_nan_and_wrong_length_are_refused(genome: EncodedGenome) -> None:
    vector = genome.initial.copy()
    vector[-1] = np.nan
    with pytest.raises(ValueError, match="is NaN at"):
        genome.decode(vector)
    with pytest.raises(ValueError, match="shape"):
        genome.decode(vector[:-1])


def test_the_papers_dimensions_and_defaults() -> None:
    pool = Pool(
        "p", {k: SOURCES[k] for k in ("base", "ja", "math", "tiny")}, dict.fromkeys(LAYERS, 32)
    )
    one = build_ps_genome(pool, PsSettings("dare_ties", ("ja", "math", "tiny"), "base"))
    assert one.size == 6
    assert set(one.initial) == {0.5}
    assert set(one.lower) == {0.0}
    assert set(one.upper) == {1.0}
    assert np.allclose(one.sigma, 1 / 6)
    flow = build_dfs_genome(pool, DfsSettings(("ja", "math")))
    assert flow.size == 192 + 4096 + 1
    assert int(flow.is_binary.sum()) == 192
    on = flow.initial[:192]
    assert np.allclose(on[:32], 2 * flow.sigma[:32])
    assert not on[32:].any()
    assert set(flow.initial[192:]) == {1.0}


def test_readable_names() -> None:
    assert "weight ja layers[0:2]" in ps("dare_ties", 2).names
    genome = dfs(("ps", "ja"), repeats=2)
    assert "slot 13 ja[1]" in genome.names
    assert "scale ps[3]->ja[3]" in genome.names
    assert "scale embed->ps[0]" in genome.names


def test_the_start_of_dfs_is_the_first_model_unscaled() -> None:
    manifest = dfs(("ja", "math"), repeats=2).decode(
        dfs(("ja", "math"), repeats=2, other_start=-2.0).initial
    )
    assert manifest.path == ("ja[0:4]",)
    assert set(manifest.sources) == {"ja"}
    assert (
        hop_scales(manifest.scaling, expand_path(manifest.path), LAYERS.__getitem__) == (1.0,) * 4
    )


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), hops=st.integers(2, 30))
def test_paths_start_and_end_with_the_first_model_and_are_never_too_long(
    seed: int, hops: int
) -> None:
    genome = dfs(("ja", "math"), repeats=3, scales="network", max_hops=hops)
    rng = np.random.default_rng(seed)
    manifest = genome.decode(rng.uniform(genome.lower, genome.upper))
    path = expand_path(manifest.path or ())
    assert 2 <= len(path) <= hops
    assert str(path[0]) == "ja[0]"
    assert str(path[-1]) == "ja[3]"
    assert all(np.isfinite(hop_scales(manifest.scaling, path, LAYERS.__getitem__)))


def test_a_path_beyond_the_formats_limit_is_cut() -> None:
    pool = Pool("p", {"ja": SOURCES["ja"]}, {"ja": 64})
    genome = build_dfs_genome(pool, DfsSettings(("ja",), repeats=70, scales="none"))
    assert len(expand_path(genome.decode(genome.upper).path or ())) == 4096


def test_density_zero_is_served_at_the_stated_minimum() -> None:
    genome = ps("dare_ties")
    merge = genome.decode(np.zeros(genome.size)).merges["ps"]
    assert merge.densities == {"ja": MIN_DENSITY, "math": MIN_DENSITY}
    assert merge.weights == {"ja": 0.0, "math": 0.0}


def test_ranges_override_per_source_and_numbers_are_held() -> None:
    genome = build_ps_genome(
        POOL,
        PsSettings(
            "dare_ties",
            ("ja", "math"),
            "base",
            ranges={
                "weights": Range(0, 2, 1.0),
                "weights.math": Range(0, 2, 0.3, 0.1),
                "densities": 0.7,
            },
        ),
    )
    assert genome.names == ("weight ja all", "weight math all")
    assert genome.initial.tolist() == [1.0, 0.3]
    assert genome.sigma.tolist() == [pytest.approx(1 / 3), 0.1]
    merge = genome.decode(np.array([9.0, 1.5])).merges["ps"]
    assert merge.weights == {"ja": 2.0, "math": 1.5}
    assert merge.densities == {"ja": 0.7, "math": 0.7}


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"gammas": 0.1}, "no such coefficient"),
        ({"weights.base": 0.1}, "no such coefficient"),
        ({"densities": Range(0, 2)}, "must lie within"),
        ({"densities": 0.0}, "least density"),
        ({"weights": Range(-2e4, 0)}, "must lie within"),
    ],
)
def test_wrong_ranges_are_refused(ranges: dict[str, Range | float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_ps_genome(POOL, PsSettings("dare_ties", ("ja", "math"), "base", ranges=ranges))


@pytest.mark.parametrize(
    "arguments", [(1.0, 1.0), (0.0, np.inf), (0.0, 1.0, 2.0), (0.0, 1.0, 0.5, 0.0)]
)
def test_impossible_ranges_are_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        Range(*arguments)


def test_what_cannot_be_evolved_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to evolve"):
        build_ps_genome(POOL, PsSettings("model_stock", ("ja", "math"), "base"))
    with pytest.raises(ValueError, match="unknown model 'x'"):
        build_ps_genome(POOL, PsSettings("dare_ties", ("ja", "x"), "base"))
    with pytest.raises(ManifestError, match="needs a base"):
        build_ps_genome(POOL, PsSettings("dare_ties", ("ja", "math")))
    with pytest.raises(ValueError, match="is taken"):
        build_ps_genome(FIXED, PsSettings("linear", ("ja", "math")))
    with pytest.raises(ValueError, match="never visits"):
        joint(("ja", "math"))
    with pytest.raises(ValueError, match="max_hops 1"):
        dfs(("ja",), max_hops=1)
    with pytest.raises(ValueError, match="names one twice"):
        dfs(("ja", "ja"))
    with pytest.raises(ValueError, match="at least two"):
        build_lineage_genome(POOL, ("ja",))
    with pytest.raises(ValueError, match="max_merges 65"):
        build_lineage_genome(POOL, ("ja", "math"), max_merges=65)


def test_encode_refuses_what_no_point_decodes_to() -> None:
    genome = ps("dare_ties")
    manifest = genome.decode(genome.initial)
    for other in (ps("ties"), dfs(("ja", "math")), dfs(("ja", "math"), scales="network")):
        with pytest.raises(ValueError):
            other.encode(manifest)
    far = manifest.merges["ps"].model_copy(update={"weights": {"ja": 3.0, "math": 1.0}})
    with pytest.raises(ValueError, match="no point"):
        genome.encode(manifest.model_copy(update={"merges": {"ps": far}}))


def test_groups() -> None:
    assert build_groups(4) == ("all",)
    assert build_groups(4, split=True) == ("all.self_attn", "all.mlp", "all")
    assert build_groups(5, 2) == ("embed", "layers[0:2]", "layers[2:5]", "head")
    assert build_groups(2, "layers") == ("embed", "layers[0]", "layers[1]", "head")
    assert build_groups(2, 1, split=True) == (
        "embed",
        "layers[0:2].self_attn",
        "layers[0:2].mlp",
        "layers[0:2]",
        "head",
    )
    for wrong in (0, 5, "bands", ["layers[x]"]):
        with pytest.raises(ValueError):
            build_groups(4, wrong)


def test_a_merge_that_the_path_does_not_visit_is_left_out() -> None:
    genome = joint(("ja", "evolved"), repeats=1)
    vector = genome.initial.copy()
    vector[genome.is_binary] = -1
    manifest = genome.decode(vector)
    assert manifest.merges == {}
    assert set(manifest.sources) == {"ja"}
    assert not genome.is_active(vector)[: genome.names.index("slot 0 ja[0]")].any()


def test_lineage_of_a_source_and_of_a_child() -> None:
    genome = build_lineage_genome(POOL, ("base", "ja"), max_merges=3)
    assert genome.decode(genome.initial).path == ("base[0:4]",)
    child = np.array([0, 1, 0.25, 0.5, 1, 1, 0, 0, 2, 1, 0.5, 0.75])
    merges = genome.decode(child).merges
    assert list(merges) == ["node0", "node1"]
    assert (merges["node0"].base, merges["node0"].models) == ("base", ("ja",))
    assert (merges["node1"].base, merges["node1"].models) == ("node0", ("ja",))
    assert (merges["node1"].t, merges["node1"].split) == (0.5, 0.75)


def test_search_genomes_and_optimizers_do_not_import_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, search.genome, search.optimizers\n"
        "for package in (search.genome, search.optimizers):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "assert 'search.genome.dfs' in sys.modules\n"
        "print(sorted(m for m in ('torch', 'transformers') if m in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
