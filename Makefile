# make demo     ask the Python standard library's docstrings; DOCS=./folder QUESTIONS="..." for your own files
# make test     run the tests
# make check    lint, types, architecture
# make docs     write the documentation site to site/, a warning is an error
# make packages build sdist and wheel, install the wheel with each extra on its oldest and newest dependencies, and use it;
#               on the other Pythons of this machine bare, and with all extras at once
# make bench    measure speed and memory against what people use today, write docs/figures/performance.md; two hours or so,
#               interrupted it goes on; BENCH_ARGS="--only queries startup", "--quick"
# make mutants  change the code of one part in many small ways, count what its tests notice; PART=terms (benchmarks/mutants.toml);
#               within ten minutes on two free cores, of a sample where all would take longer
#
# All need Python 3.11 or newer and make, nothing else; the first run installs into .venv (PYTHON=... chooses).

PYTHON ?= python3
TORCH ?= torch==2.13.0
PYTEST_ARGS ?= -n 2

BIN := .venv/bin
UV := $(BIN)/uv
# Copies, because NLTK refuses to read data through hard links.
export UV_LINK_MODE := copy

.PHONY: demo test check docs packages bench mutants clean
.DELETE_ON_ERROR:

# Through the environment, so that the shell takes no notice of quotes, dollars or spaces in them.
export DOCS QUESTIONS MODEL INDEX

demo: .venv/.demo
	@$(BIN)/python -m examples.demo $${DOCS:+--docs "$$DOCS"} $${QUESTIONS:+--questions "$$QUESTIONS"} \
		$${MODEL:+--model "$$MODEL"} $${INDEX:+--index "$$INDEX"} $(if $(REBUILD),--rebuild)

# Ray's workers and other tests at once are too much for two cores: each waits for the other.
RAY_TESTS := tests/unit/test_ray_engine.py

test: .venv/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS) --ignore $(RAY_TESTS)
	$(BIN)/python -m pytest $(RAY_TESTS)

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

docs: .venv/.docs
	$(BIN)/mkdocs build --quiet --config-file docs/site/mkdocs.yml
	@echo "docs: site/index.html; to search in it: python3 -m http.server --directory site"

packages: .venv/.dev
	$(BIN)/python .ci/packages.py --torch "$(TORCH)" $(PACKAGES_ARGS)

bench: .venv/.bench
	$(BIN)/python -m benchmarks.performance $(BENCH_ARGS)

mutants: .venv/.dev
	$(BIN)/python -m benchmarks.mutants $(or $(PART),terms)

clean:
	rm -rf .venv demo_index site

# The environment: .venv/.torch is there once torch is, .demo, .dev, .docs and .bench once the project is, with that extra.
# Each follows pyproject.toml, so that a changed dependency is installed by the next command.

.venv/.torch: Makefile
	@for python in "$(PYTHON)" python3.13 python3.12 python3.11 python3.14; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "make: $(PYTHON) is missing or older than 3.11; install Python 3.11 or newer, or name one: make PYTHON=..." >&2; exit 1; \
	fi; \
	echo "Making .venv with $$("$$found" --version) ($$found)"; \
	"$$found" -m venv .venv || { \
		echo "make: $$found cannot make environments; install its venv package (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || echo "make: no uv for this machine; pip will do" >&2
	@# uv finds the build for this machine's GPU, or the small one for none, at PyTorch's own index. Where that is out of
	@# reach, pip takes what this machine's configuration offers (on Linux, without any, the CUDA build: several GB).
	@echo "Installing $(TORCH)"
	@if [ -x $(UV) ] && $(UV) pip install --python $(BIN)/python --torch-backend auto "$(TORCH)"; then :; \
	else echo "PyTorch's own index is out of reach (which is fine); asking pip"; \
		$(BIN)/python -m pip install --disable-pip-version-check "$(TORCH)"; fi
	@touch $@

.venv/.demo .venv/.dev .venv/.docs .venv/.bench: .venv/.%: pyproject.toml .venv/.torch
	@echo "Installing cde-retriever[$*]"
	@if [ -x $(UV) ]; then $(UV) pip install --python $(BIN)/python --editable ".[$*]"; \
	else $(BIN)/python -m pip install --disable-pip-version-check --editable ".[$*]"; fi
	@touch $@
