# Everything a person does with this checkout, by name.  `make` alone lists it.
#
# Nothing is needed beforehand but Python 3.11 or newer and make.  The first target that needs it builds `.venv` from
# the lock files, whose hashes pip checks.  pip does that rather than a faster installer because it is there already
# and because it obeys whatever mirror, proxy and certificate the machine has configured for it.
#
# What has been done is remembered in stamp files inside `.venv`, so a second `make run` starts at once, and a changed
# lock file or pyproject.toml is taken up by itself:
#
#     .venv/.made  ->  .venv/.runtime (requirements.lock)      ->  .venv/.project (pyproject.toml, hatch_build.py)
#                                                                    ->  .venv/.page (web/)
#                                                                    ->  .venv/.dev (requirements-dev.lock)
#
# The page is built by the package's own build hook, which brings a Node.js where the machine has none.

# What to give the command behind a target: make run ARGS="--port 9000", make test ARGS="-x tests/core"
ARGS ?=
# The Python that makes `.venv`; unset: the first of these that is new enough.
PYTHON ?=
PYTHONS := python3.13 python3.12 python3.11 python3 python
# How many runs of the simulator `make sim` does, each with its own seed.
SEEDS ?= 20000
# What `make fuzz` draws its inputs from.
SEED ?= 1
# Runs that are meant to be long have no time limit.
UNBOUNDED := -o faulthandler_timeout=0
# The tests that read the source and the documents, and run nothing.
HOUSE_RULES := sizes imports words tests locks documents web
# Tests mostly wait for processes and sockets, so two of them run at a time; each file by itself, in order.
AT_ONCE ?= -n 2 --dist loadfile
# What pip says.  `make install PIP_QUIET=` shows all of it.
PIP_QUIET ?= -qq
unexport PIP_QUIET # which pip itself would read, as a number

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input $(PIP_QUIET)
# Modules are compiled when first imported: compiling all of them now would double the time of the first `make run`.
PIP_INSTALL := $(PIP) install --no-compile
TOLD := || { echo "make: the installation failed; 'make install PIP_QUIET=' shows all that pip says" >&2; exit 1; }

# A virtual environment works only where it was made.  In a copied or moved checkout it would run the other one's code,
# so it is made anew.  One that somebody made by hand has no such mark, and is used as it is.
MOVED := $(shell test ! -e .venv/.made || { test "$$(cat .venv/.made)" = "$$(pwd -P)" && $(BIN)/python -c ''; } \
	2>/dev/null || echo moved)

.DEFAULT_GOAL := help
.PHONY: help install dev run page test test-huggingface check format screenshots sim fuzz bench chaos soak lock clean moved gone
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  ARGS="…" goes to the command behind the target: make run ARGS="--port 9000"'

# ------------------------------------------------------------------------------------------------ use it

install: .venv/.page ## make .venv with what the server needs, and the page
	@:

run: .venv/.page ## install and build if need be, and serve
	@exec $(BIN)/everstream serve $(ARGS)

page: .venv/.page ## build the chat page, if its sources have changed
	@:

# ------------------------------------------------------------------------------------------------ work on it

dev: .venv/.dev .venv/.page ## make .venv with what the tests and checks need too
	@:

test: .venv/.dev .venv/.page ## run every test that is no chaos or soak run
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| echo "make: there is no chromium here: the browser tests are left out (apt install chromium)"
	@$(BIN)/python -m pytest -rs $(AT_ONCE) $(ARGS)

test-huggingface: .venv/huggingface/.made ## run the tests that need torch and transformers (1 to 5 GB)
	@.venv/huggingface/bin/python -m pytest -rs tests/providers/test_huggingface.py $(ARGS)

check: .venv/.dev ## check format, style, types, the direction of imports and the house rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy --strict
	@said=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$said"; exit 1; }
	@$(BIN)/python -m pytest $(HOUSE_RULES:%=tests/house/test_%.py)
	@$(BIN)/python -m tests.web.node npm run check

format: .venv/.dev ## put the source into its format, and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

screenshots: .venv/.dev .venv/.page ## take the pictures of the page that the documents show
	@$(BIN)/python -m tests.web.screenshots $(ARGS)

sim: .venv/.dev ## run the simulator over SEEDS seeds (20000), then take each rule away in turn
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --mutants $(ARGS)

fuzz: .venv/.dev ## send a million mutated frames and 200,000 requests to servers, beside a neighbour who streams
	@$(BIN)/python -m tests.fuzz codec --count 1000000 --seed $(SEED)
	@$(BIN)/python -m tests.fuzz frames --count 1000000 --seed $(SEED)
	@$(BIN)/python -m tests.fuzz http --count 200000 --seed $(SEED)

bench: .venv/.dev ## measure what a token costs
	@$(BIN)/python -m tests.bench $(ARGS)

chaos: .venv/.dev ## kill real servers and stores under load, and look for lost tokens
	@$(BIN)/python -m pytest $(UNBOUNDED) -m chaos tests/chaos -s $(ARGS)

soak: .venv/.dev ## run for a long time and look for growth
	@$(BIN)/python -m pytest $(UNBOUNDED) -m soak tests -s $(ARGS)

lock: .venv/.dev ## resolve pyproject.toml anew into the lock files (ARGS=--upgrade: to the newest)
	@$(LOCK) -o requirements.lock $(ARGS)
	@$(LOCK) --extra dev -c requirements.lock -o requirements-dev.lock $(ARGS)

# For every system and every Python from 3.11 on; no address and no path of this machine gets into the files.
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

clean: ## remove .venv and everything else that was made here
	@rm -rf backend/everstream/_web web/node_modules web/*/node_modules web/client/dist
	@rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------ how .venv is made

.venv/.made: $(MOVED)
	@if [ -x $(BIN)/python ] && [ ! -e .venv/.made ]; then \
		echo "make: using the .venv that is here"; \
	else \
		for python in $(or $(PYTHON),$(PYTHONS)); do \
			"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && found=$$python && break; \
		done; \
		[ -n "$$found" ] || { echo "make: no Python 3.11 or newer among: $(or $(PYTHON),$(PYTHONS));" \
			"install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }; \
		"$$found" -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $$found cannot make virtual" \
			"environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
		echo "make: making .venv with $$("$$found" --version)"; \
		"$$found" -m venv --clear .venv; \
	fi
	@pwd -P > $@

.venv/.runtime: requirements.lock .venv/.made
	@echo "make: installing what the server needs"
	@$(PIP_INSTALL) --require-hashes -r requirements.lock $(TOLD)
	@touch $@

.venv/.project: pyproject.toml hatch_build.py .venv/.runtime
	@echo "make: installing the package, and building the chat page"
	@$(PIP_INSTALL) --no-deps --editable . $(TOLD)
	@touch $@
	@if [ -e $(PAGE) ]; then touch .venv/.page; fi

PAGE := backend/everstream/_web/index.html
# Folders are looked at too: one changes when a file in it is removed.
FIND_PAGE_SOURCES := find web \( -name node_modules -o -name dist -o -name test \) -prune -o ! -name '.*'
PAGE_SOURCES := $(shell $(FIND_PAGE_SOURCES) -print)
GONE := $(shell test -e $(PAGE) || echo gone)

# Whoever has installed the package just now has built the page too.  What is needed for it lies in `.venv` where the
# tests are run; elsewhere pip brings it for as long as it builds.
.venv/.page: $(PAGE_SOURCES) $(GONE) | .venv/.project
	@if [ -e $@ ] && [ -e $(PAGE) ] && [ -z "$$($(FIND_PAGE_SOURCES) -newer $@ -print -quit)" ]; then exit 0; fi; \
	if [ -e .venv/.dev ]; then $(BIN)/python hatch_build.py || exit 1; \
	else $(PIP_INSTALL) --no-deps --editable . || failed=1; fi; \
	if [ -z "$$failed" ] && [ -e $(PAGE) ]; then touch $@; \
	else echo "make: the chat page has not been built: 'make page PIP_QUIET=-v' says why; all else works" >&2; fi

.venv/.dev: requirements-dev.lock .venv/.project
	@echo "make: installing what the tests and checks need"
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.lock $(TOLD)
	@touch $@

# What the extra adds, beside `.venv` and on top of it.  Of this version some indexes have a wheel for processors alone,
# and pip takes it; all others bring several gigabytes for graphics cards.
TORCH ?= torch==2.13.0

.venv/huggingface/.made: pyproject.toml .venv/.dev
	@echo "make: installing torch and transformers"
	@$(BIN)/python -m venv --clear .venv/huggingface
	@cd .venv/huggingface/lib/python*/site-packages && \
		$(CURDIR)/$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > beside.pth
	@.venv/huggingface/bin/python -m pip --disable-pip-version-check --no-input $(PIP_QUIET) install --no-compile \
		$(TORCH) 'everstream[huggingface]' $(TOLD)
	@touch $@
