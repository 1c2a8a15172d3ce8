# Needs make and Python 3.10 or newer. Everything is installed into $(VENV), which is created once.
PYTHON ?= python3
VENV ?= .venv

PY = $(VENV)/bin/python
BASE = $(VENV)/.installed-base
TEST = $(VENV)/.installed-test
# Whether the environment can be reused: its Python exists, is new enough, has pip, and was set up in this folder.
FITS = $(PY) -c 'import pip, sys; sys.exit(sys.version_info < (3, 10) or \
	sys.prefix not in open(sys.prefix + "/bin/activate").read())' 2>/dev/null
# Settings for installations outside virtual environments: inside one, pip rejects the first, and the others would make
# it install elsewhere.
export PIP_USER = 0
unexport PIP_TARGET PIP_PREFIX PIP_ROOT
export PIP_DISABLE_PIP_VERSION_CHECK = 1
PIP = $(PY) -m pip install --quiet --no-compile
# uv, from PATH or from $(VENV), is ten times as fast as pip. It does not read pip's settings, so it is told where pip
# would look. On Linux without a GPU, UV_TORCH_BACKEND=cpu makes PyTorch's download ten times smaller.
UV = uv=$$(command -v uv || echo "$(VENV)/bin/uv"); \
	links=$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$($(PY) -m pip config get global.find-links 2>/dev/null)}}; \
	index=$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(PY) -m pip config get global.index-url 2>/dev/null)}}; \
	$${links:+env UV_FIND_LINKS="$$links"} $${index:+env UV_DEFAULT_INDEX="$$index"} "$$uv" pip install --quiet --python $(PY)
# Install $(WHAT). The second line is for machines where uv is missing or fails. compileall uses every core.
INSTALL = { $(UV) -c constraints.txt $(WHAT) || \
	{ echo "Installing with pip instead of uv, which takes a few minutes."; $(PIP) -c constraints.txt $(WHAT); }; } && \
	{ $(PY) -m compileall -qq -j 0 -x '/tests?/' "$(VENV)/lib" || true; }
# For commands that must not depend on the user's settings.
QUICK = env -u COURSE_MODEL -u COURSE_DATA -u COURSE_PRECISION -u COURSE_PROGRESS COURSE_PROFILE=quick \
	TOKENIZERS_PARALLELISM=false
# For several processes that share the cores.
OFFLINE = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
NBVAL = COURSE_BUILD="$(CURDIR)/build/nbval" $(PY) -m pytest --nbval

.PHONY: help assignment test notebooks answers clean
.DELETE_ON_ERROR:

help: ## list the targets (the default)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

assignment: $(BASE) ## run the whole experiment and print both tables; run again, it continues where it stopped
	$(PY) -m helpers assignment

test: $(TEST) ## run the tests, then all notebooks as graders do (a corner of the grid), comparing their outputs
	$(QUICK) $(OFFLINE) COURSE_PROGRESS=plain $(PY) -m pytest -n logical --dist loadgroup tests
	rm -rf build/nbval
	$(QUICK) $(OFFLINE) $(NBVAL) -n 2 --dist loadfile notebooks/0[!34]*.ipynb
	$(QUICK) $(OFFLINE) COURSE_PROFILE=grade $(NBVAL) notebooks/0[34]*.ipynb

notebooks: $(BASE) ## execute all notebooks in place, in order, in the quick profile
	$(QUICK) COURSE_PROGRESS=plain $(PY) -m nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False --coalesce-streams notebooks/*.ipynb

answers: $(BASE) ## write answers.md from the notebooks' answer cells and the results
	$(PY) -m helpers answers $(addprefix --results ,$(wildcard results/imdb.json))

clean: ## remove build/ with all runs in it (the virtual environment stays)
	rm -rf build

# A stamp is written last, so an interrupted set-up is repeated; it names this folder, so a moved one is repeated, too.
ifneq ($(shell [ -x "$(PY)" ] && cat "$(BASE)" 2>/dev/null),$(CURDIR))
.PHONY: $(BASE)
endif

$(BASE): WHAT = -e .
$(BASE): pyproject.toml constraints.txt
	@rm -f "$(BASE)" "$(TEST)"
	@$(FITS) || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { echo \
		"Python 3.10 or newer is needed, which '$(PYTHON)' is not. Name another: make PYTHON=python3.11" >&2; exit 1; }
	@$(FITS) || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
		"'$(PYTHON) -m venv' does not work here. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV), once: 1.7 GB with PyTorch (on Linux usually several GB more, for Nvidia GPUs)."
	@$(FITS) || $(PYTHON) -m venv "$(VENV)" $$([ ! -e "$(VENV)/pyvenv.cfg" ] || echo --clear)
	@command -v uv >/dev/null || $(PIP) "uv>=0.5,<1" 2>/dev/null || true
	@$(INSTALL)
	@echo "$(CURDIR)" > $@

$(TEST): WHAT = -e ".[test,cluster,nbgrader]"
$(TEST): $(BASE)
	@echo "Installing the packages that the tests need."
	@$(INSTALL)
	@touch $@

# Style checks and long tests are for the course's authors: the student version does not have this file.
-include scripts/more.mk
