"""Requests that nobody thought of, made from the API's own description: each is answered as that says."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, Case
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.schemas import BaseSchema

from evomerge.bench.study import write_study
from evomerge.config import search_config
from evomerge.dashboard import Settings
from evomerge.dashboard.app import create_app

HEADERS = {"Authorization": "Bearer token-of-the-tests", "Host": "127.0.0.1:8765"}
EXAMPLES = 15  # of each operation
STUDY = "night"
THERE = {"study": STUDY, "number": 3, "figure": "objective"}  # what a parameter of a path can be, else all is refused

load_all_checks()
CHECKED = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)


@pytest.fixture(scope="module")
def api(tmp_path_factory) -> BaseSchema:
    runs_dir = tmp_path_factory.mktemp("openapi")
    words = [f"study={STUDY}", f"runs_dir={runs_dir}", "models=demo", "suite=demo", "genome=task_arithmetic"]
    write_study(search_config([*words, "budget.candidates=12"]), 12)
    (runs_dir / "broken").mkdir()
    app = create_app(Settings(runs_dir=runs_dir, token="token-of-the-tests"))
    return schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=HEADERS)


@pytest.mark.parametrize("known", [True, False], ids=["of what there is", "of anything"])
def test_every_request_has_a_described_answer(api, known):
    operations = [each.ok() for each in api.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:
        places = [each.name for each in operation.path_parameters if each.name in THERE]
        if places or not known:
            ask(operation, {name: THERE[name] for name in places} if known else {})


def ask(operation: APIOperation, known: dict[str, object]) -> None:
    """Make requests of an operation, with these values in its path, and hold the answers against the description."""

    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.generate],
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case: Case) -> None:
        case.path_parameters.update(known)
        case.call_and_validate(headers=HEADERS, checks=CHECKED)

    check()
