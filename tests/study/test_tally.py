from collections.abc import Callable

from evomerge.study import Candidate, Result, Study, StudyView
from evomerge.study.tally import Tally


def test_counts_in_parts_are_those_of_the_whole(study: Study, recorded: Callable[..., Candidate]):
    for objective, violation in ((0.9, 0.5), (0.5, 0.0), (None, 0.0), (0.7, 0.0), (0.7, 0.0), (0.8, 0.2)):
        recorded(study, objective, violation)
    number = study.start([0.5], {}, {}, "")
    study.climb(number, Result(objective=0.99, item_evaluations=7))
    candidates = study.candidates()
    whole = Tally().plus(candidates)
    assert (whole.candidates, whole.done, whole.feasible, whole.item_evaluations) == (7, 6, 3, 7)
    assert (whole.best, whole.nearest) == (candidates[3], candidates[1])
    for cut in range(len(candidates)):
        assert Tally().plus(candidates[:cut]).plus(candidates[cut:]) == whole


def test_what_a_race_stopped_in_time_to_miss_no_gate_is_not_the_nearest(study: Study):
    for violation, stopped in ((0.3, None), (-0.1, "not among the best"), (0.2, "certain to miss")):
        result = Result(objective=0.5, violations={"t": violation}, stopped=stopped)
        study.finish(study.start([0.5], {}, {}, ""), result)
    assert study.tally.best is None
    assert study.tally.nearest.number == 2


def test_a_view_counts_what_ends_out_of_order(study: Study):
    view = StudyView(study.folder.path)
    numbers = [study.start([0.5], {}, {}, f"# {index}") for index in range(3)]
    assert (view.tally.candidates, view.tally.done) == (3, 0)
    study.finish(numbers[2], Result(objective=0.7, item_evaluations=3))
    assert (view.tally.done, view.best.number) == (1, 2)
    study.finish(numbers[0], Result(objective=0.7, item_evaluations=3))
    assert (view.tally.done, view.best.number) == (2, 0)
    assert view.candidate(2).objective == 0.7
    study.finish(numbers[1], Result(reason="x"))
    assert view.tally == Tally().plus(StudyView(study.folder.path).candidates())
    assert view.tally.item_evaluations == 6
    assert view.hours == StudyView(study.folder.path).hours > 0
