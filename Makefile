# make run    sets everything up and opens the dashboard
# make test   sets everything up and runs all tests
# make check  style and types
# make docs   the documents and the reference of the core, as pages in build/docs
# make bundle makes the default bundle again, and what depends on it (needs ESC-10, see README)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PORT ?= 8501

.PHONY: run test check docs bundle paths setup system clean

run: setup
	$(BIN)/qmoe app --port $(PORT)

test: setup system
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(TESTS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/mkdocs build --quiet

docs: setup
	$(BIN)/mkdocs build --quiet
	@echo "build/docs/index.html"

# After the weights of ds-cnn were made again: the bundle, what is kept of its answers, and its unknown classes.
bundle: setup
	$(BIN)/qmoe train esc10 --embedder ds-cnn:q8 --seeds 3 --moe bitnet,q4,q8 --bundle data/esc10-ds-cnn
	$(BIN)/python -m tests.golden
	$(BIN)/qmoe sweep ood esc10 --embedder ds-cnn:q8 --experts bitnet,q4,q8 --held-out dog,rooster \
	  --held-out rain,sea_waves --held-out crackling_fire,crying_baby --held-out sneezing,clock_tick \
	  --held-out helicopter,chainsaw --json > held-out.json
	mv held-out.json data/held-out.json

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (PYTHON=python3.12 make ...)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[lab,bench,cluster,objects,dev]'
	@echo "compiling the kernels"
	@$(BIN)/python -c 'from dashboard.launch import warm; warm()' >/dev/null 2>&1 || true
	touch $@

# The browser tests drive whatever Chromium there is, those of the host's microphone a PulseAudio null sink, and
# ffmpeg makes recordings that go wrong; where we may, we install Debian's.
PACKAGES := chromium ffmpeg libportaudio2 pulseaudio libasound2-plugins

system:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! dpkg -s $(PACKAGES) >/dev/null 2>&1; then \
	  echo "installing for the tests: $(PACKAGES)"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(PACKAGES) >/dev/null || true; \
	fi
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  command -v google-chrome >/dev/null || [ -n "$$QMOE_CHROMIUM" ] || \
	  echo "*** No Chromium found: the browser tests will be SKIPPED (set QMOE_CHROMIUM, or install chromium). ***"

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache

# Times of this machine as the reference's (on a quiet machine), and F1 and files of whole paths (needs both data sets).
paths: setup
	$(BIN)/qmoe bench path --n 500 --out data/reference-path.json
	$(BIN)/qmoe sweep paths esc10 urbansound8k-3folds --embedder ds-cnn:q8 --embedder ds-cnn:q4 \
	  --embedder ds-cnn:q2 --embedder ds-cnn:q1 --out data/paths
	$(BIN)/qmoe sweep layers esc10 --out data/paths/layers.json
