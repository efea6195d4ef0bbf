# `make demo` shows what the project does; `make test` runs every check. Both install what they need into .venv.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
OLDEST := .venv-oldest
# nbval, which takes seconds to import, serves the notebooks alone.
PYTEST := $(BIN)/pytest -p no:nbval --durations 25
# Each worker has a core of its own.
WORKERS := -n logical --maxprocesses 4
FAST := not notebook and not exhaustive and not grid
# Each begins with a run of neighbours; one that is done takes over from the others.
SPREAD := $(WORKERS) --dist worksteal

# Forked data workers would otherwise warn, and deadlock, after the tokenizer's threads have started.
export TOKENIZERS_PARALLELISM := false

.PHONY: demo lab picture test quick grid oldest notebooks cover bench peft-suite lint fix chromium clean

demo: $(READY)
	$(BIN)/python notebooks/demo.py

lab: $(READY)
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/quickstart.ipynb

# Memory is measured with nothing beside it; the browser's tests share a notebook server by file.
ALONE := tests/test_memory.py tests/browser
TOGETHER := tests $(addprefix --ignore ,$(ALONE))

# Takes notebooks/panel.png, the README's picture, anew.
picture: $(READY) chromium
	$(PYTEST) tests/browser/picture.py

test: lint chromium
	$(PYTEST) $(SPREAD) $(TOGETHER)
	$(PYTEST) tests/test_memory.py
	$(PYTEST) $(WORKERS) --dist loadfile tests/browser

quick: lint
	$(PYTEST) $(SPREAD) -m "$(FAST)" $(TOGETHER)

# Before a release: every combination of what make test combines in turn.
grid: $(READY)
	$(PYTEST) $(SPREAD) -m grid $(TOGETHER)

# The quick tests with the lowest versions that pyproject.toml allows.
oldest: $(OLDEST)/ready
	$(OLDEST)/bin/pytest -p no:nbval --durations 25 $(SPREAD) -m "$(FAST)" $(TOGETHER)

# At full length; make test executes them with few rows and steps.
notebooks: $(READY)
	$(BIN)/pytest --nbval --nbval-current-env --nbval-cell-timeout 900 --durations 25 notebooks

cover: $(READY)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -p no:nbval $(SPREAD) $(TOGETHER)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# On the support desk's rows, or with DATA=FILE on those of a JSON-lines file such as GSM8K's.
bench: $(READY)
	$(BIN)/python benchmarks/throughput.py $(if $(DATA),--data $(DATA))

# PEFT's own generic tests, with our tuners; its source distribution is fetched once, into .peft-suite.
peft-suite: $(READY)
	$(BIN)/python tests/peft_suite.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch comes first, so that the build pip's own settings prefer (such as the small one for the CPU) is the one that stays.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt torch
	$(BIN)/pip install -c constraints.txt -e '.[dev,lab,privacy,export,audio,diffusion,explain,harness,languages]'
	touch $@

$(OLDEST)/ready: pyproject.toml tests/lowest.py
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python tests/lowest.py > $(OLDEST)/lowest.txt
	$(OLDEST)/bin/pip install -c $(OLDEST)/lowest.txt torch
	$(OLDEST)/bin/pip install -c $(OLDEST)/lowest.txt -e '.[dev,lab,privacy,export,audio,diffusion,explain,harness,languages]'
	touch $@

chromium:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update && apt-get install -y chromium; \
	else \
		echo "The browser tests need Chromium: install 'chromium' or 'google-chrome', then run make test again." >&2; \
		exit 1; \
	fi

clean:
	rm -rf .venv .venv-* build dist benchmarks/results .peft-suite .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
