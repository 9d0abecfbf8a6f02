from evomerge.search.judge import Judge
from evomerge.search.ladder import Ladder
from evomerge.search.outcome import Outcome
from evomerge.study import Environment, Study
from fitness.items import Scores, TaskScores
from fitness.racing import Course, Race
from fitness.suite import SuiteConfig

METRICS = {"hard": "acc", "graded": "points"}


def scored(ids, **values) -> Scores:
    """The first of each task's values for even documents, the second for odd ones."""
    each = {task: tuple(values[task][number % 2] for number in ids) for task in values}
    return {
        task: TaskScores(task, METRICS[task], tuple(ids), found, sum(found) / len(found), True)
        for task, found in each.items()
    }


def test_a_task_whose_gate_cannot_be_judged_yet_is_no_failure(tmp_path):
    """On the first rung all documents of a metric of unknown range have the same value."""
    tasks = [
        {"name": "hard", "metric": "acc", "gate": {"at_least": 0.9}},
        {"name": "graded", "metric": "points", "gate": {"at_least": 2.0, "confidence": 0.95}},
    ]
    suite = SuiteConfig(tasks=tasks, racing={"rungs": [0.2, 1.0]})
    order, every = tuple(range(100)), dict.fromkeys(METRICS, True)
    base = scored(order, hard=(1.0, 1.0), graded=(2.0, 5.0))
    judge = Judge(suite)
    judge.refer("base", "dev", base)
    course = Course(dict.fromkeys(METRICS, order), every, every)
    with Study.create(
        tmp_path / "night",
        {"study": "night", "seed": 0},
        Environment(python="3.11", platform="Linux", packages={}, models=()),
    ) as study:
        ladder = Ladder(suite, study, judge, Race(suite, course, base))
        candidate = study.candidate(study.start([0.5], {}, {}, ""))
        job = ladder.job(candidate)
        for right, stopped in ((1.0, None), (0.0, "certain to miss the gate of hard")):
            outcome = Outcome(scored(job.items["hard"], hard=(right, right), graded=(3.0, 3.0)))
            result, _ = ladder.result(candidate, job, outcome)
            assert (result.reason, result.stopped) == (None, stopped)
            assert result.gates == {"hard": stopped is None, "graded": True}
            assert result.objective_interval is None
