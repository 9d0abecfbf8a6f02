"""The command line. Each command imports what it needs when it runs, so that help and completion stay instant."""

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from evomerge.bench.command import add_candidate, add_dashboard, add_merge
from evomerge.errors import OneLineError, UsageError, exit_code
from evomerge.terminal import (
    ProgressFile,
    add_compile,
    add_config_dir,
    add_device,
    add_json,
    add_runs_dir,
    add_study,
    progress_bar,
    show,
    terminable,
    together,
)

if TYPE_CHECKING:
    from evomerge.config import SearchConfig
    from evomerge.search import Ending

INTERRUPTED = 130
LOOK = 0.2  # seconds between looks at a search that is awaited

EXIT_CODES = """exit codes: 0 done; 1 a bug; 2 wrong usage or config; 3 nothing feasible; 4 incompatible or damaged
models; 5 the study is in use or cannot be read; 130 interrupted, resumable; 143 a merge was ended by SIGTERM"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes the overrides up to the first flag only; those behind it are overrides all the same
    if rest and not (hasattr(options, "overrides") and all("=" in word and word[0] != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    try:
        code: int = options.run(options)
    except OneLineError as error:
        print(f"evomerge: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("evomerge: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return code


class _OneLineParser(argparse.ArgumentParser):
    """Tells wrong usage in one line, as every other error is told."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"evomerge: {' '.join(message.split())}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog="evomerge",
        description="Search for the recipe that merges fine-tuned language models and breaks no skill.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"evomerge {version('evomerge')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    search = commands.add_parser(
        "search",
        help="launch a search",
        description="Launch a search. Ctrl-C finishes the candidates that are running and keeps everything.",
        epilog="example: evomerge search --config-dir configs models=mine suite=mine study=night",
    )
    search.add_argument("overrides", nargs="*", metavar="key=value", help="choose options and override values")
    add_config_dir(search)
    search.add_argument("--print-config", action="store_true", help="print the composed config and stop")
    search.add_argument("--dry-run", action="store_true", help="check everything, tell what it would do, and stop")
    search.add_argument("--json", action="store_true", help="with --dry-run: machine-readable output")
    search.set_defaults(run=_search)

    resume = commands.add_parser(
        "resume",
        help="go on with a study",
        description="Go on with a study that was paused, stopped or interrupted, or finished with a smaller budget.",
    )
    add_study(resume)
    resume.add_argument("overrides", nargs="*", metavar="key=value", help="only budget.*, workers.* and notify.*")
    resume.set_defaults(run=_resume)

    for wish, told, described in (
        ("pause", "ask a running search to pause", "Finish the candidates that are running and keep the rest."),
        ("stop", "ask a running search to end", "Finish the candidates that are running, then choose the winner."),
    ):
        end = commands.add_parser(wish, help=told, description=f"{described} Returns at once; resume goes on with it.")
        add_study(end)
        end.add_argument("--wait", action="store_true", help="return when the search has ended")
        end.set_defaults(run=_ask, wish=wish)

    budget = commands.add_parser(
        "budget",
        help="give a running search another budget",
        description="Give a running search another budget. It goes on with that at once, as a resume would.",
        epilog="example: evomerge budget night budget.candidates=2000 budget.hours=12",
    )
    add_study(budget)
    budget.add_argument("overrides", nargs="+", metavar="key=value", help="budget.candidates, budget.hours or both")
    budget.set_defaults(run=_budget)

    studies = commands.add_parser("studies", help="list the studies")
    add_runs_dir(studies)
    add_json(studies)
    studies.set_defaults(run=_studies)

    show = commands.add_parser("show", help="show a study or one of its candidates")
    add_study(show)
    show.add_argument("--candidate", type=int, metavar="N", help="one candidate in full")
    add_json(show)
    show.set_defaults(run=_show)

    export = commands.add_parser(
        "export", help="write the best recipe as plain YAML", description="Exit code 3 if no candidate is feasible."
    )
    add_study(export)
    which = export.add_mutually_exclusive_group()
    which.add_argument("--candidate", type=int, metavar="N", help="this candidate instead of the best")
    which.add_argument(
        "--pareto", action="store_true", help="every feasible candidate that no other beats on all tasks"
    )
    export.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write there (with --pareto: a folder) and not to stdout"
    )
    export.set_defaults(run=_export)

    report = commands.add_parser("report", help="write a study as one HTML file with plots")
    add_study(report)
    report.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write there (default: report.html in the study's folder)"
    )
    report.set_defaults(run=_report)

    dashboard = commands.add_parser(
        "dashboard",
        help="show, start and steer searches in a browser",
        description="Serve the dashboard until Ctrl-C. Searches that it starts go on without it.",
    )
    dashboard.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    dashboard.add_argument("--port", type=int, default=8765, help="default: 8765; 0 takes a free one")
    add_runs_dir(dashboard)
    add_config_dir(dashboard)
    dashboard.add_argument(
        "--allow", type=Path, nargs="+", action="extend", metavar="DIR", help="folders that the page may name files in"
    )
    dashboard.add_argument(
        "--token", help="what a browser must show once (default: $EVOMERGE_TOKEN, or a random one that is printed)"
    )
    dashboard.add_argument("--open", action="store_true", help="open the page in a browser")
    dashboard.set_defaults(run=_dashboard)

    merge = commands.add_parser("merge", help="merge a recipe into a checkpoint")
    merge.add_argument("recipe", type=Path, metavar="RECIPE", help="a YAML recipe, mergekit's language")
    merge.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    add_device(merge)
    merge.add_argument("--max-shard-size", default="5GB", metavar="S", help="of one safetensors file (default: 5GB)")
    merge.add_argument("--progress", type=Path, metavar="FILE", help="keep how far it is in this file, as JSON")
    merge.add_argument("--intermediate", type=Path, metavar="DIR", help="also write each named stage, to DIR/NAME")
    add_compile(merge, "auto")
    merge.set_defaults(run=_merge)

    check = commands.add_parser("check", help="tell whether a recipe can be merged, and what to watch")
    check.add_argument("recipe", type=Path, metavar="RECIPE")
    add_json(check)
    check.set_defaults(run=_check)

    score = commands.add_parser("score", help="score a model or a recipe on a suite")
    score.add_argument("target", metavar="MODEL_OR_RECIPE", help="a checkpoint folder, a hub id or a recipe file")
    score.add_argument("overrides", nargs="*", metavar="key=value", help="suite=NAME and other overrides")
    add_config_dir(score)
    score.add_argument("--split", choices=["dev", "holdout"], default="dev")
    add_json(score)
    score.set_defaults(run=_score)

    methods = commands.add_parser("methods", help="list the merge methods, or tell all about one")
    methods.add_argument("name", nargs="?", metavar="NAME", help="one method in full")
    form = methods.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--markdown", action="store_true", help="the list as a Markdown table")
    methods.set_defaults(run=_methods)

    benches = commands.add_parser(
        "bench", help="measure merges, candidates and the dashboard on this machine"
    ).add_subparsers(title="what to measure", metavar="WHAT", required=True)
    add_merge(benches.add_parser("merge", help="every method, to disk and into a live model, beside its floor"))
    add_candidate(benches.add_parser("candidate", help="a candidate, beside its bare forward passes"))
    add_dashboard(benches.add_parser("dashboard", help="its pages, and what an open one costs a search"))
    return parser


def _search(options: argparse.Namespace) -> int:
    from evomerge.config import search_config

    if options.json and not options.dry_run:
        raise UsageError("nothing to print as JSON", where="--json", expected="--dry-run beside it")
    config = search_config(options.overrides, options.config_dir)
    if options.print_config:
        import yaml

        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
        return 0
    if options.dry_run:
        return _dry_run(config, options.json)
    from evomerge.search import launch

    return _finish(launch(config))


def _dry_run(config: "SearchConfig", as_json: bool) -> int:
    from evomerge.search.dry_run import dry_run, dry_run_table

    document = dry_run(config)
    if as_json:
        print(document.model_dump_json(indent=2))
    else:
        show(*dry_run_table(document))
    return 0


def _resume(options: argparse.Namespace) -> int:
    from evomerge.search import resume
    from evomerge.study import study_folder

    return _finish(resume(study_folder(options.study, options.runs_dir), options.overrides))


def _finish(ending: "Ending") -> int:
    from evomerge.study import StudyView
    from evomerge.study.document import study_document
    from evomerge.study.table import ending_table

    if ending.code == 0:
        show(*ending_table(study_document(StudyView(ending.folder))))
    print(ending.message)
    return ending.code


def _ask(options: argparse.Namespace) -> int:
    from evomerge.study import StudyView, study_folder
    from evomerge.study.requests import ask

    study = StudyView(study_folder(options.study, options.runs_dir))
    process = ask(study.folder, options.wish)
    print(f"asked process {process.pid} on {process.host} to {options.wish} study {study.name}")
    if options.wait:
        while study.holder == process:
            time.sleep(LOOK)
        print(f"study {study.name}: {study.state}")
    return 0


def _budget(options: argparse.Namespace) -> int:
    from evomerge.budget import change_budget
    from evomerge.study import StudyView, study_folder

    print(change_budget(StudyView(study_folder(options.study, options.runs_dir)), options.overrides))
    return 0


def _studies(options: argparse.Namespace) -> int:
    from evomerge.study.document import list_studies

    entries = list_studies(options.runs_dir)
    if options.json:
        print(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=2))
        return 0
    from evomerge.study.table import studies_table

    show(studies_table(entries))
    return 0


def _show(options: argparse.Namespace) -> int:
    from evomerge.study import StudyView, study_folder
    from evomerge.study.document import candidate_detail, study_document

    study = StudyView(study_folder(options.study, options.runs_dir))
    document = study_document(study) if options.candidate is None else candidate_detail(study, options.candidate)
    if options.json:
        print(document.model_dump_json(indent=2))
        return 0
    from evomerge.study.document import StudyDocument
    from evomerge.study.table import candidate_table, study_table

    show(*(study_table(document) if isinstance(document, StudyDocument) else candidate_table(document)))
    return 0


def _export(options: argparse.Namespace) -> int:
    from evomerge.study import StudyView, study_folder
    from evomerge.study.export import caution, choose, make_folder, pareto, write_export

    study = StudyView(study_folder(options.study, options.runs_dir))
    chosen = pareto(study) if options.pareto else (choose(study, options.candidate),)
    for candidate in chosen:
        if warning := caution(study, candidate):
            print(f"evomerge: {warning}", file=sys.stderr)
    if options.output is None:
        print("---\n".join(candidate.recipe for candidate in chosen), end="")
        return 0
    if options.pareto:
        make_folder(options.output)
    for candidate in chosen:
        path = options.output / f"{candidate.number:06d}.yaml" if options.pareto else options.output
        write_export(study, candidate, path)
        print(path)
    return 0


def _report(options: argparse.Namespace) -> int:
    from evomerge.study import StudyView, study_folder
    from evomerge.study.report import write_report

    print(write_report(StudyView(study_folder(options.study, options.runs_dir)), options.output))
    return 0


def _dashboard(options: argparse.Namespace) -> int:
    from evomerge.dashboard import Settings, serve

    token = options.token or os.environ.get("EVOMERGE_TOKEN") or secrets.token_urlsafe(32)
    settings = Settings(
        runs_dir=options.runs_dir,
        config_dir=options.config_dir,
        host=options.host,
        port=options.port,
        token=token,
        allowed=tuple(options.allow or ()),
    )
    serve(settings, open_page=options.open)
    return 0


def _merge(options: argparse.Namespace) -> int:
    from evomerge.merge import merge_to_disk, steps
    from evomerge.recipe import Recipe

    file = None if options.progress is None else ProgressFile(options.progress)
    with terminable():
        for step in steps(Recipe.read(options.recipe), options.out, options.intermediate):
            with progress_bar(step.out.name) as bar:
                plan = merge_to_disk(
                    step.recipe,
                    step.out,
                    device=options.device,
                    max_shard_size=options.max_shard_size,
                    kernels=options.compile,
                    card=step.card,
                    progress=together(bar, file),
                )
            for warning in plan.warnings:
                print(f"evomerge: warning: {warning}", file=sys.stderr)
            print(f"merged into {step.out}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from evomerge.merge import preflight
    from evomerge.recipe import Recipe

    found = preflight(Recipe.read(options.recipe))
    print(found.to_json() if options.json else found)
    return 0


def _score(options: argparse.Namespace) -> int:
    from evomerge.config import score_config
    from evomerge.search.evaluator import score_model
    from fitness.estimates import presumed_ranges, score_interval

    config = score_config(options.overrides, options.config_dir)
    scores = score_model(options.target, config.suite, config.workers, options.split)
    ranges = presumed_ranges(config.suite, [scores])
    intervals = {
        task: found
        for task, result in scores.items()
        if (found := score_interval(result, within=ranges.get(task))) is not None
    }
    if options.json:
        document = {
            "target": options.target,
            "split": options.split,
            "scores": {task: result.score for task, result in scores.items()},
            "intervals": intervals,
            "metrics": {task: result.metric for task, result in scores.items()},
            "items": {task: len(result.values) for task, result in scores.items()},
        }
        print(json.dumps(document, indent=2))
        return 0
    for task, result in scores.items():
        limits = "[{:.4f}, {:.4f}]".format(*intervals[task]) if task in intervals else "-"
        score = f"{result.score:8.4f}   {limits:20}"
        print(f"{task:24} {result.metric:20} {score} {len(result.values)} {options.split} items")
    return 0


def _methods(options: argparse.Namespace) -> int:
    from evomerge.methods import METHODS, get_method
    from evomerge.methods.table import markdown_table, method_document, method_table, methods_table

    chosen = list(METHODS.values()) if options.name is None else [get_method(options.name, "NAME")]
    if options.json:
        documents = [method_document(method) for method in chosen]
        print(json.dumps(documents if options.name is None else documents[0], indent=2))
    elif options.markdown:
        print(markdown_table(chosen), end="")
    else:
        show(*([methods_table(chosen)] if options.name is None else method_table(chosen[0])))
    return 0
