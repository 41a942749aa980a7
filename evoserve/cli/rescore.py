"""`evoserve verify --search`: tasks asked again, and compared with what the recipe says."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from evoserve.cli.output import console
from evoserve.errors import ConfigError
from evoserve.manifest.parts import EvaluationSpec
from evoserve.sources.recipe import Recipe


def rescore(recipe: Recipe, search: Path) -> bool:
    """Do all scores in the manifest come out again? Prints a line for each of them.

    search: the TOML file of a search whose tasks are asked; they are matched by digest, so a score
    of a task that the file does not have, or has changed, counts as different. Raises ConfigError
    and TaskError for the file, and what the evaluator raises.
    """
    try:
        from search.config import load_config
        from search.evaluate import Evaluator
        from search.executors.protocol import Job
        from search.opened import OpenSources
        from search.setup import build_settings, build_tasks
    except ModuleNotFoundError as error:
        if error.name not in ("cma", "pymoo"):
            raise
        raise ConfigError(
            f"--search needs {error.name}, which is not installed: pip install 'evoserve[search]'"
        ) from None
    entries = recipe.manifest.evaluation
    if not entries:
        _say(recipe, "holds no scores to compare with", good=False)
        return False
    config, folder = load_config(search), search.absolute().parent
    # Nothing is searched here, so a counted test split is no harm.
    tasks = {task.digest: task for task in build_tasks(config, folder, force=True).all}
    sources = OpenSources(recipe.manifest.sources, recipe.checkpoints)
    is_same = True
    with Evaluator(sources, build_settings(config, folder)) as evaluator:
        # All at once: the recipe is built for all of its tasks together.
        named = [name for name in tasks if any(one.task_digest == name for one in entries)]
        jobs = [Job(recipe.manifest, tasks[name]) for name in named]
        found = {named[index]: again for index, again in evaluator.evaluate(jobs)}
        for entry in entries:
            problem = _find_problem(entry, tasks, search)
            if problem is None:
                again = found[entry.task_digest or ""]
                problem = _compare(entry, again.scores.tolist(), again.outputs)
            is_same &= problem is None
            count = f"all {entry.num_items} items" if entry.items else f"score {entry.score:.4g}"
            _say(recipe, f"{entry.task}: {problem or f'same, {count}'}", good=problem is None)
    return is_same


def _find_problem(entry: EvaluationSpec, tasks: Collection[str], search: Path) -> str | None:
    if entry.task_digest is None:
        return "the manifest names no task_digest, so the task cannot be found"
    if entry.task_digest not in tasks:
        return f"no task of {search} has the digest {entry.task_digest}"
    return None


def _compare(entry: EvaluationSpec, scores: Sequence[float], outputs: str) -> str | None:
    """What differs between an entry and a new evaluation, None if nothing does."""
    mean = math.fsum(scores) / len(scores)
    if entry.num_items != len(scores) or len(entry.items or scores) != len(scores):
        return f"the manifest has {entry.num_items} items, the task {len(scores)}"
    if entry.items is not None:
        differing = sum(old != new for old, new in zip(entry.items, scores, strict=True))
        if differing:
            return f"{differing} of {len(scores)} items differ"
    if not math.isclose(entry.score, mean, rel_tol=1e-9, abs_tol=1e-12):
        return f"score {entry.score:.6g} in the manifest, {mean:.6g} now"
    if entry.outputs_digest is not None and entry.outputs_digest != outputs:
        return f"outputs differ: {outputs}, the manifest says {entry.outputs_digest}"
    return None


def _say(recipe: Recipe, text: str, *, good: bool) -> None:
    label = "ok" if good else "differs"
    console.print(
        f"{label} {recipe.model_id}: {text}",
        markup=False,
        soft_wrap=True,
        style=None if good else "red",
    )
