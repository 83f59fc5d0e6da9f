# Two commands do everything: `make demo` and `make test` (TESTS=all: with what takes minutes of compiling). Each makes its own .venv from a bare Python 3.10 to 3.13.

PYTHON ?= python3
TESTS ?= short
BIN := .venv/bin
INSTALLED := .venv/installed
OLD_RUNTIMES := build/onnxruntime-1.18 build/onnxruntime-1.22
TRITON := build/triton
RAY := build/ray
SOURCES := seqexport exporter plugins runtimes tests examples

INSTALLS := $(INSTALLED) $(OLD_RUNTIMES:=/installed) $(TRITON)/installed $(RAY)/installed

.PHONY: demo test installed lint types docs tree wheel clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

test: $(INSTALLS)
	SEQEXPORT_ORT_1_18=$(CURDIR)/build/onnxruntime-1.18/bin/python \
	SEQEXPORT_ORT_1_22=$(CURDIR)/build/onnxruntime-1.22/bin/python \
	SEQEXPORT_TRITON=$(CURDIR)/$(TRITON)/bin/python \
	SEQEXPORT_RAY=$(CURDIR)/$(RAY)/bin/python \
	SEQEXPORT_TESTS=$(TESTS) $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

installed: $(INSTALLS)

lint: $(INSTALLED)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(INSTALLED) tree
	MYPYPATH=build/tree $(BIN)/mypy -p seqexport

docs: $(INSTALLED) tree
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The package as an install has it, for tools that read sources: links.
tree:
	rm -rf build/tree && mkdir -p build/tree/seqexport
	ln -s $(CURDIR)/seqexport/* $(CURDIR)/exporter $(CURDIR)/plugins $(CURDIR)/runtimes build/tree/seqexport/

wheel: $(INSTALLED)
	rm -rf dist && $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python tests/check_wheel.py dist/*.whl

$(INSTALLED): pyproject.toml .constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint .constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint .constraints.txt scikit-build-core
	$(BIN)/python -m pip install --quiet --constraint .constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

# The oldest ONNX Runtime that bundles and the op library are for, and one in between; where it has no wheel for this
# Python, its tests say so.
build/onnxruntime-%/installed:
	$(PYTHON) -m venv build/onnxruntime-$*
	-build/onnxruntime-$*/bin/python -m pip install --quiet 'onnxruntime==$*.*'
	touch $@

# Triton's client, whose protobuf tests read configurations with; it wants older packages than we have.
$(TRITON)/installed:
	$(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python -m pip install --quiet 'tritonclient[grpc]==2.73.0'
	touch $@

# Ray Serve: heavy, and it brings uvicorn another HTTP parser than the one that the server's own tests run on.
$(RAY)/installed: .constraints.txt
	$(PYTHON) -m venv $(RAY)
	-$(RAY)/bin/python -m pip install --quiet --constraint .constraints.txt --editable '.[ort,serve]' 'ray[serve]'
	touch $@

clean:
	rm -rf .venv build dist demo
