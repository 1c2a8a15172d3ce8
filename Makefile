# Needs make and Python 3.10 or newer. Everything is installed into $(VENV), which is made once.
PYTHON ?= python3
VENV ?= .venv

PY = $(VENV)/bin/python
BASE = $(VENV)/.installed-base
TEST = $(VENV)/.installed-test
# pip compiles one file after the other, compileall on every core; some packages carry files that no Python compiles.
INSTALL = $(PY) -m pip install --disable-pip-version-check --no-compile -c constraints.txt
COMPILE = $(PY) -m compileall -qq -j 0 "$(VENV)/lib" || true
# What must not depend on the settings of whoever runs it.
QUICK = env -u COURSE_MODEL -u COURSE_DATA -u COURSE_STORAGE -u COURSE_PRECISION COURSE_PROFILE=quick \
	COURSE_PROGRESS=plain TOKENIZERS_PARALLELISM=false

.PHONY: help assignment test notebooks answers clean
.DELETE_ON_ERROR:

help: ## list the targets (the default)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

assignment: $(BASE) ## run the whole experiment and print both tables; run again, it goes on where it stopped
	$(PY) -m helpers assignment

test: $(TEST) ## lint, tests, and every notebook executed again and compared with its committed outputs
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(QUICK) HF_HUB_OFFLINE=1 $(PY) -m pytest -n auto --dist worksteal tests
	rm -rf build/nbval
	$(QUICK) HF_HUB_OFFLINE=1 COURSE_BUILD="$(CURDIR)/build/nbval" $(PY) -m pytest --nbval --nbval-current-env \
		--nbval-cell-timeout=1800 --nbval-sanitize-with tests/nbval_sanitize.cfg notebooks

notebooks: $(BASE) ## execute all notebooks in place, in order, in the quick profile
	$(QUICK) $(PY) -m nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False notebooks/*.ipynb

answers: $(BASE) ## write answers.md from the notebooks' answer cells and the results
	$(PY) -m helpers answers $(addprefix --results ,$(wildcard results/imdb.json))

clean: ## remove build/ with all runs in it (the virtual environment stays)
	rm -rf build

# A stamp is written last, so a set-up that was cut short is done again; it names this folder, so a moved one is, too.
ifneq ($(shell cat "$(BASE)" 2>/dev/null),$(CURDIR))
.PHONY: $(BASE)
endif

$(BASE): pyproject.toml constraints.txt
	@rm -f "$(BASE)" "$(TEST)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { echo \
		"Python 3.10 or newer is needed, and '$(PYTHON)' is not that. Name one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
		"'$(PYTHON) -m venv' does not work here. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV); PyTorch makes this a download of some hundred megabytes or more."
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv "$(VENV)"
	$(PY) -m pip install --quiet --disable-pip-version-check "pip>=23"
	$(INSTALL) -e .
	@$(COMPILE)
	@echo "$(CURDIR)" > $@

$(TEST): $(BASE)
	$(INSTALL) -e ".[test,nbgrader,postgres]"
	@$(COMPILE)
	@touch $@

# What takes long and students do not need; their version does not have the file.
-include scripts/more.mk
