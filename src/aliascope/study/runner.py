"""The study from first to last: one set of settings, five phases, one summary."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aliascope.errors import AliascopeError, RunError
from aliascope.figures import save
from aliascope.records import Progress
from aliascope.results.files import lock, sealed, unsealed, write_file
from aliascope.runtime import chosen_device, environment
from aliascope.study import (
    phase1_feature_extraction,
    phase2_synthetic,
    phase3_natural_images,
    phase4_correlation,
    phase5_intervention,
)
from aliascope.study.settings import settings_of
from aliascope.study.study import Study, settings_in
from aliascope.study.summary import Summary, record_of

PHASES: dict[int, Any] = {
    1: phase1_feature_extraction,
    2: phase2_synthetic,
    3: phase3_natural_images,
    4: phase4_correlation,
    5: phase5_intervention,
}


def run_study(
    preset: str = "embedded",
    *,
    out: str | Path = "results",
    phases: Sequence[int] = tuple(PHASES),
    figures_only: bool = False,
    progress: Progress | None = None,
    **overrides: Any,
) -> Summary:
    """Measure a pair of models and write the study's tables, figures and summary.

    A phase that cannot be had (of a model that is no classifier, say) is left out and named; the
    others go on. In a directory with the same study, what is there is not measured again.

    Args:
        preset: "embedded", "paper" or "matched".
        out: the results directory.
        phases: numbers, 1 to 5; each measures what it needs.
        figures_only: draw again from what the directory holds; its own settings hold.
        progress: called with a title; its context yields what takes (done, total).
        overrides: fields of `aliascope.study.StudySettings`; None leaves the preset's own.

    Raises:
        AliascopeError: no such preset, phase, model or images, or the directory holds another
            study.
    """
    if unknown := set(phases) - set(PHASES):
        raise RunError(f"unknown phase {min(unknown)}: choose from 1 to {len(PHASES)}")
    path = Path(out)
    settings = settings_in(path) if figures_only else settings_of(preset, **overrides)
    with ExitStack() as held:
        held.callback(lock(path, "study.json").release)
        study = Study(settings, path, progress)
        if not figures_only:
            study.begin()
        return _phases(study, sorted(set(phases)), figures_only=figures_only)


def _phases(study: Study, numbers: Sequence[int], *, figures_only: bool) -> Summary:
    """Run phases, each for itself, and sum up."""
    states, seconds = _before(study.path)
    failed = {}
    for number in numbers:
        start, state = time.perf_counter(), "complete"
        try:
            _run(study, number, figures_only=figures_only)
        except AliascopeError as error:
            state = failed[str(number)] = str(error)
        states[str(number)] = state
        seconds[str(number)] = round(time.perf_counter() - start, 1)
    info = environment(chosen_device(study.settings.device))
    record = record_of(study, dict(sorted(states.items())), dict(sorted(seconds.items())), info)
    summary = Summary(study.path, record, failed)
    if not figures_only:
        write_file(study.path / "summary.json", sealed(summary.to_dict()))
    return summary


def _before(path: Path) -> tuple[dict[str, str], dict[str, float]]:
    """State and seconds of the phases that earlier calls ran."""
    file = path / "summary.json"
    try:
        record = unsealed(file.read_bytes(), older=True)
        return record["phases"], record["seconds"]
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise RunError(
            f"{file} cannot be read ({error}): delete it and run all phases of the study again"
        ) from error


def _run(study: Study, number: int, *, figures_only: bool) -> None:
    phase = PHASES[number]
    if not figures_only:
        phase.compute(study)
    with study.progress(f"drawing phase {number}") as progress:
        for done, (name, figure) in enumerate(study.declared(phase.draw(study))):
            save(figure, study.path / "figures", name)
            progress(done + 1, 3)
