# From a fresh clone `make run` and `make test` need python3 and make, and the network once; afterwards nothing.

VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?= python3
ARGS   ?=
# Each runs a share of the files, with servers of its own; they wait for those, so one more than there are cores. 0: all in one, as ONHAND_TEST_REDIS with a URL needs.
TEST_PROCESSES ?= 3
SHARED = -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

INSTALLED := $(VENV)/.installed
GENERATED := build/.protos
PROTO_DIR := protos/onhand/v1
PROTOS    := $(wildcard $(PROTO_DIR)/*.proto)

# The plugins of protoc are found by PATH; google/type and google/rpc are .proto files inside a wheel.
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I"$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')"
# A check says nothing unless it fails.
QUIET  = sh -c 'mkdir -p build && "$$@" > build/lint.log 2>&1 || { cat build/lint.log; exit 1; }' --

# Hundreds of processes start in a run of the tests. Where Python was told to keep no compiled modules, as images of containers
# often do, each would compile all that it imports: three seconds instead of one.
export PYTHONDONTWRITEBYTECODE :=

MODEL ?= full

.PHONY: run test crash-matrix model bench test-redis7 test-tcp test-connect soak lint lint-protos protos lock clean
.DELETE_ON_ERROR:

run: $(INSTALLED) $(GENERATED)
	@exec $(BIN)/onhand dev $(ARGS)

test: $(INSTALLED) $(GENERATED)
	@$(BIN)/pytest $(SHARED) $(ARGS)

# All of the crash matrix, of which `make test` has each workflow, each step, and every third thing that others do meanwhile.
crash-matrix: $(INSTALLED) $(GENERATED)
	@ONHAND_CRASH_MATRIX=whole $(BIN)/pytest $(SHARED) tests/crash $(ARGS)

# Every interleaving of the protocol, larger than `make test` has it. MODEL=deep: larger still. MODEL=<a name>: the way there.
model: $(INSTALLED)
	@$(BIN)/python -m model "$(MODEL)"

# Some four minutes; a quarter of an hour more with ARGS=--growth. What is written is docs/performance-notes.md's too.
bench: $(INSTALLED) $(GENERATED)
	@mkdir -p build
	@$(BIN)/onhand bench --json $(ARGS) > build/bench.json
	@$(BIN)/python -m onhand.bench.report build/bench.json docs/performance-notes.md > build/performance.md
	@mv build/performance.md docs/performance.md

# The same suite on the oldest gate that is supported, and over TCP with TLS as production has it.
test-redis7: $(INSTALLED) $(GENERATED)
	@ONHAND_TEST_REDIS=redis-server $(BIN)/pytest $(SHARED) $(ARGS)

test-tcp: $(INSTALLED) $(GENERATED)
	@ONHAND_TEST_POSTGRES=tcp $(BIN)/pytest $(SHARED) $(ARGS)

# Connect, called by the clients of its authors: needs Node 20 and npm, which fetches four packages once.
CONNECT_NODE := tests/edge/connect-node
test-connect: $(INSTALLED) $(GENERATED)
	@npm ci --prefix $(CONNECT_NODE) --silent --no-audit --no-fund
	@$(BIN)/pytest $(CONNECT_NODE)/check_connect_node.py $(ARGS)

# Brutal runs one after another until one breaks a promise: make soak SEEDS=1-10 SECONDS=120 MINUTES=60 ARGS='--redis-server redis-server'
SEEDS   ?= 1-
SECONDS ?= 120
MINUTES ?= 0
soak: $(INSTALLED) $(GENERATED)
	@exec $(BIN)/python -m onhand.trials.soak --seeds $(SEEDS) --seconds $(SECONDS) --minutes $(MINUTES) $(ARGS)

lint: $(INSTALLED) $(GENERATED)
	@$(QUIET) $(BIN)/ruff check -q .
	@$(QUIET) $(BIN)/ruff format --check .
	@$(QUIET) $(BIN)/mypy
	@$(QUIET) $(BIN)/lint-imports
	@$(QUIET) $(BIN)/uv pip check --python $(BIN)/python
	@$(MAKE) --no-print-directory lint-protos

# buf reads images that protoc built. What is published on main may only be added to.
lint-protos: $(INSTALLED) $(GENERATED)
	@set -e; test -n "$(PROTOS)" || { echo "buf: no protos yet"; exit 0; }; \
	rm -rf build/published; mkdir -p build/published; \
	$(PROTOC) -Iprotos --include_imports --include_source_info -o build/onhand.binpb $(PROTOS); \
	$(BIN)/buf lint build/onhand.binpb --config buf.yaml; \
	for ref in origin/main main ""; do git rev-parse -q --verify "$$ref:protos" > /dev/null 2>&1 && break; done; \
	if test -z "$$ref"; then echo "buf breaking: no published protos to compare with"; exit 0; fi; \
	git archive "$$ref" protos | tar -x -C build/published; \
	( cd build/published && find protos -name '*.proto' > files ); \
	$(PROTOC) -Ibuild/published/protos --include_imports --include_source_info -o build/published.binpb \
		$$(sed 's|^|build/published/|' build/published/files); \
	$(BIN)/buf breaking build/onhand.binpb --against build/published.binpb --config buf.yaml \
		|| { echo "buf breaking: the protos break clients of those on $$ref"; exit 1; }

protos: $(GENERATED)

# The directory is a prerequisite too, so that a removed or renamed .proto counts. Made aside and then moved: a
# running process never imports half a file.
$(GENERATED): $(INSTALLED) $(PROTO_DIR) $(PROTOS)
	@rm -rf build/generated && mkdir -p build/generated
	@test -z "$(PROTOS)" || $(PROTOC) -Iprotos \
		--python_out=build/generated --mypy_out=quiet:build/generated \
		--grpc_python_out=build/generated --mypy_grpc_out=quiet:build/generated $(PROTOS)
	@rm -f src/onhand/v1/*_pb2.py src/onhand/v1/*_pb2.pyi src/onhand/v1/*_pb2_grpc.py src/onhand/v1/*_pb2_grpc.pyi
	@test -z "$(PROTOS)" || mv build/generated/onhand/v1/* src/onhand/v1/
	@touch $@

$(BIN)/uv: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "onhand needs Python 3.11 or newer, and '$(PYTHON)' is none: name one, as in  make run PYTHON=python3.12"; exit 1; }
	@echo "Installing the locked packages into $(VENV)"
	@test -x $(BIN)/uv || rm -rf $(VENV)  # half made
	@$(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.lock
	@touch $@

$(INSTALLED): $(BIN)/uv requirements.lock pyproject.toml
	@$(BIN)/uv pip sync -q --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# Newer versions: make lock ARGS=--upgrade
lock: $(BIN)/uv
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --all-extras --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links $(ARGS) pyproject.toml -o requirements.lock

# What make made. The data stays in .onhand; without that folder `make run` starts anew.
clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f src/onhand/v1/*_pb2.py src/onhand/v1/*_pb2.pyi src/onhand/v1/*_pb2_grpc.py src/onhand/v1/*_pb2_grpc.pyi
