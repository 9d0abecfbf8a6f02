"""The end of a search: the finalists meet the holdout, and the winner is merged as production would merge it."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean

from evomerge.errors import ScoringError
from evomerge.search.loop import Search
from evomerge.search.outcome import Job, Outcome, Split
from evomerge.study import Candidate, Finalist
from evomerge.study.cache import SCORES
from evomerge.study.export import nothing_feasible
from evomerge.study.items import baseline_items, candidate_items, holdout_items
from evomerge.study.results import Difference
from fitness.estimates import objective_difference, score_difference
from fitness.items import Scores, TaskScores
from fitness.suite import BASE

_ROUNDING = 0.05  # of a score: on other hardware a few long answers take another turn where two tokens tie


def choose_winner(search: Search) -> Candidate | None:
    """Score the finalists on holdout and check the best of those that clear every gate there.

    The finalists are the feasible candidates whose objectives on dev have the highest lower limits, one for each
    recipe; the winner is the first, in that order, that clears every gate on holdout, among them or among those that an
    earlier session scored there. Holdout documents never order candidates, they only refuse them.

    Returns:
        The winner, or None when the user stopped the search first.

    Raises:
        NothingFeasibleError: no candidate clears every gate, on dev or on holdout.
        ScoringError: the winner, merged to disk, does not score what it scored in memory, now or when the search
            recorded it, or cannot be checked.
    """
    feasible = _feasible(search)
    winner = feasible[0] if feasible else None
    if feasible and search.config.suite.holdout.fraction > 0:
        if not _score_holdout(search, feasible[: search.config.finalists]):
            return None
        _compare_on_holdout(search)
        cleared = {finalist.number for finalist in search.study.finalists() if finalist.feasible}
        winner = next((candidate for candidate in feasible if candidate.number in cleared), None)
        if winner is None:
            search.study.elect(None)
    elif winner is not None:
        _compare_on_dev(search, winner)
    if winner is None:
        raise nothing_feasible(search.study)
    return winner if _check_export(search, winner) else None


def _feasible(search: Search) -> list[Candidate]:
    """The feasible candidates, best on dev first; of equal recipes the first."""
    feasible = [candidate for candidate in search.study.candidates() if candidate.feasible]
    feasible.sort(key=lambda candidate: candidate.floor, reverse=True)  # the earlier among equals stays first
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
            search.judge.refer(name, "holdout", study.scores(holdout_items(name), known[name]))
    sources = [Job(name, recipe, "holdout") for name, recipe in search.sources.items() if name not in known]
    numbers = {str(each.number): each.number for each in finalists}
    others = [Job(name, recipe, "holdout") for name, recipe in search.uniform.items()]
    others += [Job(str(each.number), each.recipe, "holdout") for each in finalists]
    others = [job for job in others if job.name not in known]
    if sources or others:
        search.progress.phase("finalists", len(sources) + len(others))
        count, due = len(sources) + len(others), [job.name for job in others if job.name in numbers]
        among = f", candidate{'s' * (len(due) > 1)} {', '.join(due)} among them" if due else ""
        search.progress.say(f"holdout: {count} recipe{'s' * (count > 1)}{among}")
    outcomes = search.evaluate_all(sources)
    if outcomes is None:
        return False
    search.refer(sources, outcomes)
    for job in sources:
        study.add_finalist(job.name, None, search.judge(outcomes[job.name], "holdout"), outcomes[job.name].scores)

    def done(job: Job, outcome: Outcome) -> None:
        study.add_finalist(job.name, numbers.get(job.name), search.judge(outcome, "holdout"), outcome.scores)

    return search.evaluate(others, done)


def _compare_on_holdout(search: Search) -> None:
    scored = [each for each in search.study.finalists() if each.objective is not None]
    scores = {each.name: search.study.scores(holdout_items(each.name), each) for each in scored}
    numbers = {each.number: scores[each.name] for each in scored if each.number is not None}
    _compare(search, "holdout", numbers, {name: scores[name] for name in _rivals(search) if name in scores})


def _compare_on_dev(search: Search, winner: Candidate) -> None:
    """Without holdout: what the search has chosen by is all there is, so these differences flatter."""
    study, rivals = search.study, _rivals(search)
    baselines = {
        each.name: study.scores(baseline_items(each.name), each) for each in study.baselines() if each.name in rivals
    }
    _compare(search, "dev", {winner.number: study.scores(candidate_items(winner.number), winner)}, baselines)


def _rivals(search: Search) -> list[str]:
    """The best parent, by its objective on dev, and the uniform merge, as far as they could be scored."""
    scored = {each.name: each for each in search.study.baselines() if each.objective is not None}
    parents = [scored[name] for name in search.sources if name != BASE and name in scored]
    best = max(parents, key=lambda each: each.objective or 0.0, default=None)  # none if no gate of theirs can be judged
    return [*([] if best is None else [best.name]), *(["uniform"] if "uniform" in scored else [])]


def _compare(search: Search, split: Split, candidates: Mapping[int, Scores], rivals: Mapping[str, Scores]) -> None:
    """Record how far each candidate is ahead of each rival over the same documents, with intervals."""
    ranges = search.judge.ranges
    differences = [
        Difference(
            candidate=number,
            rival=rival,
            split=split,
            objective=objective_difference(scores, others, search.config.suite, ranges=ranges),
            tasks={
                name: difference
                for name, task in scores.items()
                if (difference := score_difference(task, others[name], within=ranges.get(name))) is not None
                and math.isfinite(difference.low)
            },
        )
        for number, scores in candidates.items()
        for rival, others in rivals.items()
    ]
    search.study.note("differences", [asdict(difference) for difference in differences])


def _check_export(search: Search, winner: Candidate) -> bool:
    """Merge the winner to disk, load it as production would and score it again; False when the user stopped."""
    search.progress.phase("export", 1)
    search.progress.say(f"export: candidate {winner.number} is merged to disk, loaded and scored again")
    folder = search.study.folder.path / ".export-check"
    try:
        outcomes = search.evaluate_all([Job("export", winner.recipe, folder=str(folder), fresh=True)])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if outcomes is None:
        return False
    exported = _checked(search, outcomes["export"])
    recorded = search.study.scores(candidate_items(winner.number), winner)
    if _items(exported.scores) != _items(recorded):
        # other workers than those of the session that scored it may differ in the last bits: compare within this one
        search.progress.phase("export", 1)
        outcomes = search.evaluate_all([Job("live", winner.recipe, fresh=True)])
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
        _compare_with_record(search, winner, recorded, live)
    search.study.elect(winner.number)
    search.study.note("export checked", {"candidate": winner.number, "scores": exported.means})
    return True


def _compare_with_record(search: Search, winner: Candidate, recorded: Scores, live: Outcome) -> None:
    """Other hardware may round otherwise; more is a record of other weights, tasks or code. Raises ScoringError."""
    judged = search.judge(live, "dev")
    if not judged.feasible or not all(_is_rounding(scores, live.scores[task]) for task, scores in recorded.items()):
        search.study.elect(None)
        missed = f", which misses the gate of {', '.join(judged.missed)}" if judged.missed else ""
        raise ScoringError(
            "the winner does not score what the search recorded",
            where=f"candidate {winner.number}",
            expected=dict(winner.scores),
            found=f"{live.means}{missed}",
            remedy=f"remove {search.config.runs_dir / SCORES} and start a new study",
        )
    told = [f"{task} {scores.score:.6g} -> {live.means[task]:.6g}" for task, scores in recorded.items()]
    search.progress.say(f"export: candidate {winner.number} differs from its record by rounding: {', '.join(told)}")


def _is_rounding(recorded: TaskScores, live: TaskScores) -> bool:
    """Whether two scores of a task are no further apart than one document, or than a small share of the score."""
    values = (*recorded.values, *live.values)
    # for other scores than means, a document's value is in another unit
    means = all(math.isclose(fmean(each.values), each.score) for each in (recorded, live))
    document = (max(values) - min(values)) / len(live.values) if means else 0.0
    room = max(document, _ROUNDING * abs(recorded.score))
    return abs(live.score - recorded.score) <= room or math.isclose(abs(live.score - recorded.score), room)


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
