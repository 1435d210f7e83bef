# make demo    classify the sample photos with the built-in model (no torch)
# make test    every test, with a coverage figure
# make test-cpp build the C++ predictor and compare it with Python's
# make test-edge convert for ncnn, MNN, ExecuTorch and LiteRT, and compare what their runtimes answer; ask a Triton
# make check   format, lint, types, floors
# make parity  the publishers' own code against ours; parity-large: their nets above 100 million parameters
# make docs    renew the generated tables
# make builtin train the built-in model, or go on with it, and export it
# make bench-engines time our engines and others' in one run; make docs renews docs/deployment.md
# make ideas   train small nets of equal cost, two at a time, or go on with them; make docs renews docs/ideas.md

PYTHON ?= python3
DEMO := .venv-demo
DEV := .venv
EDGE := .venv-edge
PIP := -m pip install --quiet --disable-pip-version-check --constraint
INSTALL := $(PIP) constraints.txt

.PHONY: demo test test-cpp test-edge check format publishers parity parity-large docs counts builtin ideas bench-engines clean

demo: $(DEMO)/ready
	$(DEMO)/bin/anabranch classify src/anabranch/builtin/samples

# one process for each core, of one thread each
test: $(DEV)/ready
	OMP_NUM_THREADS=1 $(DEV)/bin/python -m pytest -n auto --cov --cov-report=term

test-cpp: $(DEV)/ready
	OMP_NUM_THREADS=1 $(DEV)/bin/python -m pytest tests/cpp -m cpp

# their makers' warnings are not ours to mend
test-edge: $(EDGE)/ready
	OMP_NUM_THREADS=1 $(EDGE)/bin/python -m pytest tests/edge -m edge -p no:anyio -o filterwarnings=

check: $(DEV)/ready
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy
	$(DEV)/bin/python -m pytest -q tests/test_floors.py

format: $(DEV)/ready
	$(DEV)/bin/ruff format .
	$(DEV)/bin/ruff check --fix .

publishers: $(DEV)/ready
	PYTHONPATH=tests $(DEV)/bin/python -m parity.environments

# RECORD='--record results/parity.jsonl' and then make docs renew docs/parity.md
parity: publishers
	$(DEV)/bin/python -m pytest tests/parity -m 'parity and not slow' $(RECORD)

parity-large: publishers
	$(DEV)/bin/python -m pytest tests/parity -m 'parity and slow' $(RECORD)

docs: $(DEV)/ready
	$(DEV)/bin/python -m anabranch.report docs/zoo.md
	PYTHONPATH=tests $(DEV)/bin/python -m parity.page docs/parity.md
	$(DEV)/bin/python -m anabranch.report.ideas results/ideas.jsonl docs/ideas.md
	$(DEV)/bin/python -m anabranch.report.measured results .

counts: $(DEV)/ready
	$(DEV)/bin/python -m anabranch.nets.count

builtin: $(DEV)/ready
	OMP_NUM_THREADS=1 $(DEV)/bin/torchrun --nproc-per-node 2 -m anabranch train recipes/fashion-mnist.toml \
		--out runs/fashion-mnist --resume
	$(DEV)/bin/anabranch export runs/fashion-mnist/model.safetensors -o src/anabranch/builtin/fashion-mnist \
		--format openvino --stored f16 --overwrite

ideas: $(DEV)/ready
	OMP_NUM_THREADS=1 $(DEV)/bin/python benchmarks/ideas.py results/ideas.jsonl 2

bench-engines: publishers
	PYTHONPATH=tests $(DEV)/bin/python benchmarks/engines.py 7 results/engines.jsonl

clean:
	rm -rf $(DEMO) $(DEV) $(EDGE) .venv-parity build dist .coverage .mypy_cache .pytest_cache .ruff_cache

$(DEMO)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python $(INSTALL) --editable .
	touch $@

# torch as torch==2.13.0 (constraints.txt), by pip, which finds a CPU build where one lies at hand
$(DEV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python $(INSTALL) --editable '.[dev]'
	touch $@

# converters that pin what the others do not have; of nvidia-pytriton the server alone, without what its Python wants
$(EDGE)/ready: pyproject.toml constraints-edge.txt
	$(PYTHON) -m venv $(EDGE)
	$(EDGE)/bin/python $(PIP) constraints-edge.txt --editable '.[torch,onnxruntime,edge,executorch,litert,tensorrt]' pytest
	$(EDGE)/bin/python $(PIP) constraints-edge.txt --no-deps 'nvidia-pytriton; sys_platform == "linux" and platform_machine == "x86_64"'
	touch $@
