import time

import pytest

from evomerge.dashboard.pages.jobs import JOBS


@pytest.fixture
def started(browser):
    """started(*words, kind="prompts", candidate=None): a Python module that was started as a job, once it has ended."""
    processes = browser.app.state.processes

    def start(*words: str, kind: str = "prompts", candidate: int | None = None):
        job = processes.start(kind, "night", *words, candidate=candidate)
        deadline = time.monotonic() + 60
        while processes.job(job.id).state == "running" and time.monotonic() < deadline:
            time.sleep(0.05)
        return processes.job(job.id)

    return start


def test_nothing_was_started_yet(opened):
    assert "Nothing has been started from here yet" in opened("/jobs").text


def test_a_job_that_is_done_shows_what_it_printed(opened, started):
    job = started("this")
    article = opened("/jobs").with_id(f"job-{job.id}")
    assert article.text.startswith("Reading the prompts of night done started")
    assert "Namespaces are one honking great idea" in article.with_id(f"output-{job.id}").text


def test_a_job_that_failed_says_why(opened, started, runs_dir):
    job = started("evomerge", "show", str(runs_dir / "<i>noon"))
    article = opened("/jobs").with_id(f"job-{job.id}")
    [error] = [each.text for each in article.all("p") if each.get("class") == "error"]
    assert error.startswith("no such study")
    assert "<i>noon" in error


@pytest.mark.parametrize(("kind", "resumable"), [("resume", True), ("prompts", False)])
def test_a_job_that_was_killed_says_so_and_no_more(opened, started, kind, resumable):
    job = started("timeit", "-n", "1", "-r", "1", "import os; os.kill(os.getpid(), 9)", kind=kind)
    article = opened("/jobs").with_id(f"job-{job.id}")
    assert "Its process was ended from outside." in article.text
    assert ("The study can be resumed." in article.text) is resumable


def test_the_job_that_reads_prompts_leads_back_to_the_candidate(opened, started):
    path = "/studies/night/candidates/3"
    form = next(each for each in opened(path).all("form") if each.get("action") == "/studies/night/prompts")
    assert ("candidate", "3") in {(each.get("name"), each.get("value")) for each in form.all("input")}
    started("this", candidate=3)
    [article] = opened("/jobs").all("article")
    assert article.text.startswith("Reading the prompts of night , for candidate 3")
    assert f"{path}#items" in {each.get("href") for each in article.all("a")}
    assert opened(path).with_id("items")


def test_more_jobs_than_a_page_holds(opened, browser):
    for _ in range(JOBS + 1):
        browser.app.state.processes.start("prompts", "night", "this")
    assert len(list(opened("/jobs").all("article"))) == JOBS
    last = opened("/jobs?page=2")
    assert len(list(last.all("article"))) == 1
    assert len(list(opened("/jobs?page=99").all("article"))) == 1
    assert [each.get("href") for each in last.all("a") if each.get("rel") == "prev"] == ["/jobs?page=1"]
