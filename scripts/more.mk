.PHONY: matrix browser

matrix: $(TEST) ## the tests and notebooks under other versions of Python and the libraries; takes an hour or two
	$(PY) scripts/matrix.py $(ROWS)

browser: $(TEST) ## run the notebooks in JupyterLab in a real browser; screenshots in build/browser
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lab,browser]"
	$(QUICK) HF_HUB_OFFLINE=1 COURSE_BROWSER=1 $(PY) -m pytest -rs tests/test_browser.py
