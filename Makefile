PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak pictures bench clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Search the demo, or finish the search that is there, then merge the winner.
demo: .venv/installed
	if [ -e runs/demo ]; then $(BIN)/evomerge resume demo; else $(BIN)/evomerge search experiment=demo; fi
	rm -rf runs/demo/model
	$(BIN)/evomerge merge runs/demo/best.yaml runs/demo/model
	$(BIN)/evomerge score runs/demo/model suite=demo --split holdout

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

soak: .venv/installed
	$(BIN)/pytest -m soak

# Those of the README: the demo's study at a desk and on a phone.
pictures: .venv/installed
	$(BIN)/pytest -m soak tests/browser/test_readme.py
	for each in desk phone; do mv tests/browser/artifacts/readme-$$each.png evomerge/demo/dashboard-$$each.png; done

# What merges and candidates cost on this machine, beside their floors; half an hour the first time, 4 GB of disk.
bench: .venv/installed
	$(BIN)/evomerge bench merge
	$(BIN)/evomerge bench candidate
	$(BIN)/evomerge bench candidate --params 30M --no-compare
	$(BIN)/evomerge bench candidate --params 30M --shots 5
	$(BIN)/evomerge bench dashboard

clean:
	rm -rf .venv runs/demo
