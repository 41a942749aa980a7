"""What the scaling benchmark serves: paths of any length, merges that differ in a band."""

import pytest

from benchmarks.scale_engine import write_tokens
from benchmarks.scale_prefix import NUM_SYSTEM_TOKENS, build_request, write_system
from benchmarks.scale_recipes import (
    NUM_LAYERS,
    build_band_merges,
    build_path,
    build_paths,
    build_siblings,
    build_union_path,
)
from evoserve.manifest.canonical import model_id
from evoserve.manifest.schema import Manifest


def refs(manifest: Manifest) -> list[tuple[str, int]]:
    return [(step.model, step.layer) for step in manifest.steps(NUM_LAYERS)]


@pytest.mark.parametrize("num_steps", [1, 30, 45, 60, 90])
def test_a_path_has_its_length_over_one_source(num_steps: int) -> None:
    steps = refs(build_path(num_steps))
    assert len(steps) == num_steps
    assert len(set(steps)) == min(num_steps, NUM_LAYERS)


def test_a_path_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="num_steps 0 must be"):
        build_path(0)


def test_the_union_has_every_layer_once_and_all_paths_stay_in_it() -> None:
    union = refs(build_union_path())
    assert len(union) == len(set(union)) == 2 * NUM_LAYERS
    for manifest in build_paths(20):
        assert set(refs(manifest)) < set(union)


def test_siblings_use_the_same_layers_in_other_paths() -> None:
    siblings = build_siblings(10)
    assert len({frozenset(refs(each)) for each in siblings}) == 1
    assert len({tuple(refs(each)) for each in siblings}) == 10


@pytest.mark.parametrize("build", [build_paths, build_siblings, build_band_merges])
def test_no_two_recipes_are_the_same_model(build: object) -> None:
    manifests = build(14)  # type: ignore[operator]
    assert len({model_id(each) for each in manifests}) == 14


def test_a_longer_text_begins_with_the_shorter() -> None:
    assert write_tokens("a", 10) == write_tokens("a", 20)[:10]
    assert write_tokens("a", 10) != write_tokens("b", 10)


def test_a_system_prompt_fills_its_tokens_and_is_fresh() -> None:
    class Words:
        def encode(self, text: str) -> list[int]:
            return [len(word) for word in text.split()]

    first, second = (write_system(Words(), seed) for seed in ("1", "2"))  # type: ignore[arg-type]
    assert len(first.split()) == NUM_SYSTEM_TOKENS
    assert first.split()[:5] != second.split()[:5]


def test_a_request_s_length_is_that_of_its_body() -> None:
    head, _, body = build_request("Be brief.", "Why?").partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}\r\n".encode() in head + b"\r\n"
    assert body.index(b"Be brief.") < body.index(b"Why?")
