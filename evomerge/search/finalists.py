"""The end of a search: the finalists meet the holdout, and the winner is merged as production would merge it."""

import shutil
from collections.abc import Sequence

from evomerge.errors import NothingFeasibleError, ScoringError
from evomerge.search.loop import Search, standing
from evomerge.search.outcome import Job
from evomerge.study import Candidate
from evomerge.study.items import candidate_items


def choose_winner(search: Search) -> Candidate | None:
    """Score the finalists on holdout and check the best of those that clear every gate there.

    The finalists are the feasible candidates with the best objectives on dev; the winner is the first of them, in that
    order, that clears every gate on holdout. Holdout documents never order candidates, they only refuse them.

    Returns:
        The winner, or None when the user stopped the search first.

    Raises:
        NothingFeasibleError: no candidate clears every gate, on dev or on holdout.
        ScoringError: the winner, merged to disk, does not score what it scored in memory.
    """
    finalists = _finalists(search)
    if search.config.suite.holdout.fraction > 0:
        if not _score_holdout(search, finalists):
            return None
        recorded = {finalist.number: finalist for finalist in search.study.finalists()}
        cleared = [candidate for candidate in finalists if recorded[candidate.number].feasible]
        if not cleared:
            search.study.elect(None)
            raise NothingFeasibleError(
                "no finalist clears every gate on holdout",
                where=f"study {search.study.name}",
                found=", ".join(_missed(recorded[each.number].gates, f"candidate {each.number}") for each in finalists),
                remedy="raise budget.candidates and resume, or widen the genome",
            )
        winner = cleared[0]
    else:
        winner = finalists[0]
    return winner if _check_export(search, winner) else None


def _finalists(search: Search) -> list[Candidate]:
    candidates = search.study.candidates()
    feasible = [candidate for candidate in candidates if candidate.feasible]
    if not feasible:
        scored = [candidate for candidate in candidates if candidate.objective is not None]
        nearest = min(scored, key=lambda candidate: standing(candidate).violation, default=None)
        raise NothingFeasibleError(
            "no candidate clears every gate",
            where=f"study {search.study.name}",
            expected="one that clears all",
            found="every candidate failed" if nearest is None else _missed(nearest.gates, f"nearest: {nearest.number}"),
            remedy="raise budget.candidates and resume, widen the genome, or lower a gate in a new study",
        )
    feasible.sort(key=lambda candidate: (-(candidate.objective or 0.0), candidate.number))
    return feasible[: search.config.finalists]


def _missed(gates: dict[str, bool], whose: str) -> str:
    return f"{whose} misses {', '.join(task for task, cleared in gates.items() if not cleared)}"


def _score_holdout(search: Search, finalists: Sequence[Candidate]) -> bool:
    """Score sources, plain merges and finalists on holdout, each once; False when the user stopped the search."""
    study = search.study
    known = {finalist.name: finalist for finalist in study.finalists()}
    for name in search.sources:
        if name in known:
            search.judge.refer(name, "holdout", known[name].scores)
    groups = [
        [Job(name, recipe, "holdout") for name, recipe in search.sources.items()],
        [Job(name, recipe, "holdout") for name, recipe in search.uniform.items()]
        + [Job(str(each.number), each.recipe, "holdout", number=each.number) for each in finalists],
    ]
    for jobs in groups:
        missing = [job for job in jobs if job.name not in known]
        outcomes = search.evaluate_all(missing)
        if outcomes is None:
            return False
        if jobs is groups[0]:
            search.refer(missing, outcomes)
        for job in missing:
            outcome = outcomes[job.name]
            study.add_finalist(job.name, job.number, search.result(job, outcome), outcome.scores)
    return True


def _check_export(search: Search, winner: Candidate) -> bool:
    """Merge the winner to disk, load it as production would and score it again; False when the user stopped."""
    folder = search.study.folder.path / ".export-check"
    shutil.rmtree(folder, ignore_errors=True)  # of a session that was killed
    try:
        outcomes = search.evaluate_all([Job("export", winner.recipe, folder=str(folder))])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if outcomes is None:
        return False
    outcome = outcomes["export"]
    found = {task: dict(zip(scores.doc_ids, scores.values, strict=True)) for task, scores in outcome.scores.items()}
    if found != search.study.items(candidate_items(winner.number)):
        raise ScoringError(
            "the exported recipe does not score what it scored in the search",
            where=f"candidate {winner.number}",
            expected=dict(winner.scores),
            found=outcome.reason or outcome.means,
            remedy="do not ship it; please report this",
        )
    search.study.elect(winner.number)
    search.study.note("export checked", {"candidate": winner.number, "scores": outcome.means})
    return True
