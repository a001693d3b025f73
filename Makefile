# Two commands: `make serve` and `make test`. `make` alone lists the rest.

# The folder of mammograms and the port may also come from the shell's environment. The address
# may not: some shells export HOST, and a server must not listen to a network by accident.
STUDIES ?= studies
HOST = 127.0.0.1
PORT ?= 8000

PYTHON := .venv/bin/python

# .venv is made once. An empty file in it says what it is ready for; its name changes with the
# requirements and with the folder, not with file times, which every checkout changes.
FINGERPRINT := $(shell { cat pyproject.toml setup.cfg constraints.txt; pwd; } | cksum | cut -d' ' -f1)
READY_TO_TEST := .venv/ready-to-test-$(FINGERPRINT)
READY_TO_SERVE := $(or $(wildcard $(READY_TO_TEST)),.venv/ready-to-serve-$(FINGERPRINT))

EXTRAS_serve := server,samples
EXTRAS_test := $(EXTRAS_serve),slicer,dev

.PHONY: help serve test soak lint samples clean

help:
	@echo "make serve    serve the mammograms in $(STUDIES)/ on http://$(HOST):$(PORT) for 3D Slicer"
	@echo "              (make serve STUDIES=FOLDER HOST=ADDRESS PORT=NUMBER changes it)"
	@echo "make test     run every check: ruff, mypy, all tests but the long ones"
	@echo "make soak     run the long tests"
	@echo "make lint     run ruff and mypy alone"
	@echo "make samples  put 8 real sample mammograms into studies/"
	@echo "make clean    remove the environment and all caches; studies and runs stay"
	@echo
	@echo "The first of these makes the environment in .venv, which takes some minutes and needs"
	@echo "Python 3.11 or 3.12. From then on they start at once and need no network."

# Without STUDIES=… the samples are served, so that the first minute is real.
ifeq ($(STUDIES),studies)
serve: samples
endif
serve: $(READY_TO_SERVE)
	@echo "Serving the mammograms in $(STUDIES) on http://$(HOST):$(PORT). Ctrl-C stops it."
	@exec .venv/bin/ftmtl-serve --studies "$(STUDIES)" --host "$(HOST)" --port "$(PORT)"

samples: $(READY_TO_SERVE)
	@echo "Preparing the sample mammograms in studies/."
	@$(PYTHON) -m ftmtl.samples studies

# Two files of tests at a time, a core each: much of a test is waiting for a server to start.
test: lint
	@echo "Running the tests."
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: $(READY_TO_TEST)
	@echo "Running the long tests."
	@$(PYTHON) -m pytest -m soak --timeout 0

lint: $(READY_TO_TEST)
	@echo "Checking style (ruff) and types (mypy)."
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find ftmtl monailabel_app slicer_extension tests benchmarks -name __pycache__ -prune \
		-exec rm -rf {} + 2>/dev/null || true

# torch comes first, and packages that are built from source see it (--no-build-isolation):
# otherwise sam2, which MONAI Label requires, downloads a second torch of 3 GB to be built with.
# Bytecode is made of what is imported alone, since most of what MONAI Label brings never is; and here,
# since where PYTHONDONTWRITEBYTECODE is set, as in most images of containers, no start makes it: a
# server would then compile for 17 s each time.
PIP_INSTALL := $(PYTHON) -m pip install --no-compile --no-build-isolation --constraint constraints.txt

.venv/ready-to-%-$(FINGERPRINT):
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { \
		for candidate in python3.11 python3.12 python3; do \
			$$candidate -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
				2>/dev/null && break; \
			candidate=; \
		done; \
		if [ -z "$$candidate" ]; then \
			echo "Python 3.11 or 3.12 is needed, and neither python3.11 nor python3.12 was found." >&2; \
			echo "Install one of them and run make again." >&2; \
			exit 1; \
		fi; \
		echo "Making the environment in .venv with $$($$candidate --version)."; \
		$$candidate -m venv --clear .venv || { \
			echo "$$candidate could not make an environment. On Debian and Ubuntu the package" >&2; \
			echo "$$candidate-venv is needed: install it and run make again." >&2; \
			exit 1; \
		}; \
	}
	@rm -f .venv/ready-to-*
	@echo "Installing what is needed to $*. This takes some minutes, once."
	@$(PIP_INSTALL) setuptools wheel torch && \
		SAM2_BUILD_CUDA=0 $(PIP_INSTALL) --editable '.[$(EXTRAS_$*)]' || { \
			echo "Not everything could be installed; the reason is above. The first run needs the" >&2; \
			echo "network and 5 GB of disk. Run make again: it goes on with what is there." >&2; \
			exit 1; \
		}
	@env -u PYTHONDONTWRITEBYTECODE $(PYTHON) -c \
		"import monailabel.main, monailabel_app.main, monailabel_app.server.routes, uvicorn, highdicom" \
		>.venv/first-import.log 2>&1 || { cat .venv/first-import.log >&2; exit 1; }
	@touch $@
	@echo "The environment is complete."
