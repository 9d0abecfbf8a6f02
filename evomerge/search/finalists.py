"""The end of a search: the finalists meet the holdout, and the winner is merged as production would merge it."""

import shutil
from collections.abc import Sequence

from evomerge.errors import ScoringError
from evomerge.search.loop import Search
from evomerge.search.outcome import Job, Outcome
from evomerge.study import Candidate, Finalist
from evomerge.study.export import nothing_feasible
from evomerge.study.items import candidate_items
from fitness.items import Scores


def choose_winner(search: Search) -> Candidate | None:
    """Score the finalists on holdout and check the best of those that clear every gate there.

    The finalists are the feasible candidates with the best objectives on dev, one for each recipe; the winner is the
    first, in that order, that clears every gate on holdout, among them or among those that an earlier session scored
    there. Holdout documents never order candidates, they only refuse them.

    Returns:
        The winner, or None when the user stopped the search first.

    Raises:
        NothingFeasibleError: no candidate clears every gate, on dev or on holdout.
        ScoringError: the winner, merged to disk, does not score what it scored in memory, or cannot be checked.
    """
    feasible = _feasible(search)
    winner = feasible[0] if feasible else None
    if feasible and search.config.suite.holdout.fraction > 0:
        if not _score_holdout(search, feasible[: search.config.finalists]):
            return None
        cleared = {finalist.number for finalist in search.study.finalists() if finalist.feasible}
        winner = next((candidate for candidate in feasible if candidate.number in cleared), None)
        if winner is None:
            search.study.elect(None)
    if winner is None:
        raise nothing_feasible(search.study)
    return winner if _check_export(search, winner) else None


def _feasible(search: Search) -> list[Candidate]:
    """The feasible candidates, best on dev first; of equal recipes the first."""
    feasible = [candidate for candidate in search.study.candidates() if candidate.feasible]
    feasible.sort(key=lambda candidate: (-(candidate.objective or 0.0), candidate.number))
    by_recipe: dict[str, Candidate] = {}
    for candidate in feasible:
        by_recipe.setdefault(candidate.recipe, candidate)
    return list(by_recipe.values())


def _score_holdout(search: Search, finalists: Sequence[Candidate]) -> bool:
    """Score sources, plain merges and finalists on holdout, each once; False when the user stopped the search."""
    study = search.study
    known: dict[str, Finalist] = {each.name: each for each in study.finalists() if each.reason is None}
    for name in search.sources:
        if name in known:
            search.judge.refer(name, "holdout", known[name].scores)
    sources = [Job(name, recipe, "holdout") for name, recipe in search.sources.items() if name not in known]
    numbers = {str(each.number): each.number for each in finalists}
    others = [Job(name, recipe, "holdout") for name, recipe in search.uniform.items()]
    others += [Job(str(each.number), each.recipe, "holdout") for each in finalists]
    others = [job for job in others if job.name not in known]
    if sources or others:
        search.progress.say(
            f"holdout: {len(sources) + len(others)} recipes, candidates {', '.join(numbers)} among them"
        )
    outcomes = search.evaluate_all(sources)
    if outcomes is None:
        return False
    search.refer(sources, outcomes)
    for job in sources:
        study.add_finalist(job.name, None, search.judge(outcomes[job.name], "holdout"), outcomes[job.name].scores)

    def done(job: Job, outcome: Outcome) -> None:
        study.add_finalist(job.name, numbers.get(job.name), search.judge(outcome, "holdout"), outcome.scores)

    return search.evaluate(others, done)


def _check_export(search: Search, winner: Candidate) -> bool:
    """Merge the winner to disk, load it as production would and score it again; False when the user stopped."""
    search.progress.say(f"export: candidate {winner.number} is merged to disk, loaded and scored again")
    folder = search.study.folder.path / ".export-check"
    try:
        outcomes = search.evaluate_all([Job("export", winner.recipe, folder=str(folder))])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if outcomes is None:
        return False
    exported = _checked(search, outcomes["export"])
    expected = search.study.items(candidate_items(winner.number))
    if _items(exported.scores) != expected:
        # other workers than those of the session that scored it may differ in the last bits: compare within this one
        outcomes = search.evaluate_all([Job("live", winner.recipe)])
        if outcomes is None:
            return False
        live = _checked(search, outcomes["live"])
        if _items(exported.scores) != _items(live.scores):
            search.study.elect(None)
            raise ScoringError(
                "the exported recipe does not score what it scores in the search",
                where=f"candidate {winner.number}",
                expected=live.means,
                found=exported.means,
                remedy="do not ship it; please report this",
            )
    search.study.elect(winner.number)
    search.study.note("export checked", {"candidate": winner.number, "scores": exported.means})
    return True


def _checked(search: Search, outcome: Outcome) -> Outcome:
    if outcome.reason is not None:
        raise ScoringError(
            "the export could not be checked",
            where=search.study.folder.path,
            found=outcome.reason,
            remedy=f"mend that, then evomerge resume {search.study.folder.path}",
        )
    return outcome


def _items(scores: Scores) -> dict[str, dict[int, float]]:
    return {task: dict(zip(each.doc_ids, each.values, strict=True)) for task, each in scores.items()}
