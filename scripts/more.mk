.PHONY: matrix browser lint
# A prerequisite of `test`. Here alone: a student's file may look as it likes.
test: lint

lint: $(TEST) ## what ruff says of the code
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

matrix: $(TEST) ## the tests and notebooks under other versions of Python and the libraries; takes an hour or two
	$(PY) -m nox

browser: WHAT = -e ".[lab,browser]"
browser: $(TEST) ## run the notebooks in JupyterLab in a real browser; screenshots in build/browser
	@$(INSTALL)
	$(QUICK) HF_HUB_OFFLINE=1 COURSE_BROWSER=1 $(PY) -m pytest -rs tests/test_browser.py
