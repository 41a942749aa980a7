"""One suite that every optimizer passes, and what each promises beyond it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from optimizer_cases import (
    CASES,
    SIX,
    Case,
    MixedSpace,
    best,
    box,
    fingerprint,
    mixed_problem,
    run,
    scored,
    sphere,
)

from evoserve.manifest.parts import SourceSpec
from search.genome.lineage import build_lineage_genome
from search.genome.pool import Pool
from search.genome.ps import PsSettings, build_ps_genome
from search.optimizers.build import OPTIMIZERS, build_optimizer
from search.optimizers.cma import Cma, CmaSettings, default_population
from search.optimizers.mixed import Mixed, MixedSettings, utilities
from search.optimizers.protocol import Scored
from search.optimizers.state import pack_state, unpack_state

SEEDS = (0, 1, 2)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def lone(genotype: np.ndarray, value: float) -> Scored:
    return Scored(genotype, np.array([value]), np.array([value, value]))


class TestEveryOptimizer:
    def test_it_improves(self, case: Case) -> None:
        for evaluate, goal in zip((case.sphere, case.rosenbrock), case.goals, strict=True):
            for seed in SEEDS:
                history = run(case.build(seed), evaluate, case.generations)
                assert best(history) > goal
                assert best(history) > best(history[:1])

    def test_it_stays_within_the_bounds(self, case: Case) -> None:
        optimizer = case.build(0)
        for generation in run(optimizer, case.sphere, 20):
            for one in generation:
                assert np.all(one.genotype >= case.space.lower)
                assert np.all(one.genotype <= case.space.upper)
        mean = optimizer.mean()
        assert mean is None or np.all((mean >= case.space.lower) & (mean <= case.space.upper))

    def test_asking_twice_gives_the_same(self, case: Case) -> None:
        optimizer = case.build(0)
        for _ in range(3):
            first = optimizer.ask()
            for genotype in optimizer.ask():
                genotype[:] = 0.0  # what the caller does to his copy is his own affair
            assert fingerprint([[case.sphere(x) for x in optimizer.ask()]]) == fingerprint(
                [[case.sphere(x) for x in first]]
            )
            optimizer.tell([case.sphere(x) for x in first])

    def test_a_wrong_generation_is_refused_and_leaves_no_trace(self, case: Case) -> None:
        optimizer, other = case.build(0), case.build(0)
        told = [case.sphere(x) for x in optimizer.ask()]
        for wrong in (told[:-1], [*told, told[0]], told[::-1], []):
            with pytest.raises(ValueError, match="score"):
                optimizer.tell(wrong)
        assert fingerprint(run(optimizer, case.sphere, 3)) == fingerprint(
            run(other, case.sphere, 3)
        )

    def test_equal_seeds_agree_and_others_do_not(self, case: Case) -> None:
        one, two, three = (fingerprint(run(case.build(s), case.sphere, 4)) for s in (1, 1, 2))
        assert one == two
        assert one != three

    @pytest.mark.parametrize("is_asked", [False, True])
    def test_a_restored_search_goes_on_bit_for_bit(self, case: Case, is_asked: bool) -> None:
        whole = run(case.build(3), case.sphere, 16)
        for generation in (0, 1, 2, 7, 15):
            optimizer = case.build(3)
            before = run(optimizer, case.sphere, generation)
            if is_asked:
                optimizer.ask()
            resumed = case.build(3)
            resumed.ask()
            resumed.restore(optimizer.state())
            after = run(resumed, case.sphere, 16 - generation)
            assert fingerprint([*before, *after]) == fingerprint(whole)

    def test_a_state_taken_in_flight_can_be_told_at_once(self, case: Case) -> None:
        optimizer = case.build(0)
        told = [case.sphere(x) for x in optimizer.ask()]
        resumed = case.build(0)
        resumed.restore(optimizer.state())
        for one in (optimizer, resumed):
            one.tell(told)
        assert fingerprint(run(optimizer, case.sphere, 2)) == fingerprint(
            run(resumed, case.sphere, 2)
        )

    def test_foreign_and_damaged_states_are_refused(self, case: Case) -> None:
        optimizer = case.build(0)
        state = optimizer.state()
        other = Mixed(box(3), 0).state()
        for wrong in (b"", b"x" * 99, state[:-1], state[:-1] + b"!", other, case.build(1).state()):
            with pytest.raises(ValueError, match=r"state"):
                optimizer.restore(wrong)

    def test_failed_evaluations_are_worst_and_never_crash(self, case: Case) -> None:
        optimizer = case.build(0)
        bad = (np.nan, np.inf, -np.inf)
        for _ in range(12):
            told = []
            for index, x in enumerate(optimizer.ask()):
                one = case.sphere(x)
                told.append(lone_like(one, bad[index % 9]) if index % 9 < 3 else one)
            optimizer.tell(told)
        for _ in range(3):
            told = [lone_like(case.sphere(x), np.nan) for x in optimizer.ask()]
            optimizer.tell(told)
        optimizer.state()

    @pytest.mark.parametrize("value", [0.0, np.nan, -np.inf])
    def test_constant_fitness_does_not_crash(self, case: Case, value: float) -> None:
        optimizer = case.build(0)
        for _ in range(25):
            generation = optimizer.ask()
            assert len(generation) > 0
            optimizer.tell([lone(x, value) for x in generation])
        optimizer.is_done()

    def test_numpys_global_generator_is_left_alone(self, case: Case) -> None:
        np.random.seed(7)
        before = np.random.get_state()[1].tolist()
        optimizer = case.build(0)
        run(optimizer, case.sphere, 3)
        optimizer.restore(optimizer.state())
        optimizer.mean()
        assert np.random.get_state()[1].tolist() == before


def lone_like(one: Scored, value: float) -> Scored:
    items = None if one.items is None else np.full_like(one.items, np.nan)
    return Scored(one.genotype, np.array([value]), items)


RESUME = """
import sys
from pathlib import Path
from optimizer_cases import CASES, fingerprint, run
for name, case in CASES.items():
    optimizer = case.build(5)
    optimizer.restore(Path(sys.argv[1], name).read_bytes())
    print(fingerprint(run(optimizer, case.sphere, 6)))
"""


def test_a_fresh_process_goes_on_bit_for_bit(tmp_path: Path) -> None:
    expected = []
    for name, case in CASES.items():
        optimizer = case.build(5)
        run(optimizer, case.sphere, 5)
        optimizer.ask()
        (tmp_path / name).write_bytes(optimizer.state())
        expected.append(fingerprint(run(optimizer, case.sphere, 6)))
    done = subprocess.run(
        [sys.executable, "-c", RESUME, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    assert done.stdout.split() == expected


class TestCma:
    def test_the_papers_population(self) -> None:
        assert default_population(6) == 9
        assert len(Cma(SIX, 0).ask()) == 9

    def test_several_objectives_are_refused(self) -> None:
        optimizer = Cma(SIX, 0)
        told = [scored(x, 1.0, 2.0) for x in optimizer.ask()]
        with pytest.raises(ValueError, match="one objective, got 2"):
            optimizer.tell(told)

    def test_it_stops_when_converged_and_restarts_double_the_population(self) -> None:
        space = box(2)
        plain = Cma(space, 0)
        history = run(plain, sphere, 400)
        assert plain.is_done()
        assert len(history) < 400
        again = Cma(space, 0, CmaSettings(restarts=1))
        sizes = {len(generation) for generation in run(again, sphere, 800)}
        assert sizes == {6, 12}
        assert again.is_done()

    def test_plateaus_are_tolerated_but_not_for_ever(self) -> None:
        optimizer = Cma(SIX, 0)
        num_told = 0
        while not optimizer.is_done() and num_told < 60:
            optimizer.tell([scored(x, 0.0) for x in optimizer.ask()])
            num_told += 1
        assert 40 <= num_told < 60

    def test_large_spaces_are_separable_and_resume_exactly(self) -> None:
        space = box(4288)
        settings = CmaSettings(population=128)
        whole, half = Cma(space, 0, settings), Cma(space, 0, settings)
        history = run(whole, sphere, 3)
        run(half, sphere, 2)
        state = half.state()
        assert len(state) < 2 * 2**20
        rest = Cma(space, 0, settings)
        rest.restore(state)
        assert fingerprint(run(rest, sphere, 1)) == fingerprint(history[2:])
        assert best(history[2:]) > best(history[:1])

    def test_the_mean_approaches_the_optimum(self) -> None:
        optimizer = Cma(SIX, 0)
        run(optimizer, sphere, 100)
        assert np.allclose(optimizer.mean(), 0.3, atol=1e-3)


class TestMixed:
    @pytest.mark.parametrize("count", [12, 40])
    def test_it_beats_thresholded_cma_where_scales_depend_on_bits(self, count: int) -> None:
        space = MixedSpace(count)
        errors: dict[str, list[float]] = {"cma": [], "mixed": []}
        for seed in range(5):
            problem = mixed_problem(count, seed)
            for name, optimizer in (
                ("cma", Cma(space, seed, CmaSettings(population=20))),
                ("mixed", Mixed(space, seed, MixedSettings(population=20))),
            ):
                errors[name].append(-best(run(optimizer, problem, 60)))
        assert np.median(errors["mixed"]) < np.median(errors["cma"]) / 2

    def test_what_is_inactive_everywhere_does_not_move(self) -> None:
        space = MixedSpace(4)
        optimizer = Mixed(space, 0)
        start = optimizer.mean().copy()
        for _ in range(30):
            generation = optimizer.ask()
            # Bit 0 off pays, so scale 0 soon counts nowhere.
            optimizer.tell([scored(x, -float(x[0] > 0)) for x in generation])
        settled = optimizer.mean()
        assert settled[0] == space.lower[0]
        for _ in range(5):
            generation = optimizer.ask()
            told = [scored(x, -float(x[0] > 0)) for x in generation]
            before = optimizer.mean()[4]
            is_used = any(x[0] > 0 for x in generation)
            optimizer.tell(told)
            assert is_used or optimizer.mean()[4] == before
        assert np.all(np.isfinite(settled))
        assert start.shape == settled.shape

    def test_utilities_sum_to_zero_and_ties_share(self) -> None:
        weights = utilities(np.array([3.0, 1.0, 3.0, 2.0]))
        assert weights.sum() == pytest.approx(0)
        assert weights[0] == weights[2] > weights[3] >= weights[1]
        assert not utilities(np.ones(5)).any()


def test_optimizers_by_name() -> None:
    sources = {name: SourceSpec(model=f"mini/{name}") for name in ("base", "ja", "math")}
    pool = Pool("t", sources, dict.fromkeys(sources, 4))
    genome = build_ps_genome(pool, PsSettings("dare_ties", ("ja", "math"), "base"))
    lineage = build_lineage_genome(pool, ("ja", "math"))
    for name in OPTIMIZERS:
        chosen, wrong = (lineage, genome) if name == "m2n2" else (genome, lineage)
        assert len(build_optimizer(name, chosen, 0).ask()) > 0
        with pytest.raises(ValueError, match="lineage"):
            build_optimizer(name, wrong, 0)
    assert len(build_optimizer("cma", genome, 0, {"population": 5}).ask()) == 5
    with pytest.raises(ValueError, match="takes population"):
        build_optimizer("cma", genome, 0, {"popsize": 5})
    with pytest.raises(ValueError, match="use one of cma"):
        build_optimizer("adam", genome, 0)


def test_a_state_loads_no_foreign_classes() -> None:
    class Evil:
        def __reduce__(self):
            return (os.getcwd, ())

    with pytest.raises(ValueError, match="may not hold"):
        unpack_state("k", "s", pack_state("k", "s", Evil()))
    assert unpack_state("k", "s", pack_state("k", "s", (1, [np.ones(2)])))[0] == 1
