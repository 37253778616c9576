# Everything here sets itself up: Python 3.11 to 3.14, make and a network to a package index are enough.
# What set-up says goes to stderr, so that `make run` with a pipe prints the answer alone.
.PHONY: help run test test-fast test-inprocess coverage test-15 try-latest try-clients check schema settings front prices picture audit lock bench chaos chaos-short mutate clean
PYTHON_RUN = .venv/bin/python
TESTS ?= tests
FAST_TESTS = tests/base tests/core tests/presentation tests/edges/key_pages tests/cli tests/auth tests/architecture tests/stores/postgres
# A test waits for more than half of its time, so two cores have three workers; roles belong to all of a server of yours: one there.
WORKERS ?= 3
PYTEST = $(PYTHON_RUN) -m pytest --dist worksteal -n $(if $(TEST_DATABASE_URL),1,$(WORKERS))

help:
	@echo 'make run     chat in the terminal, through the real MCP server (ARGS="--agent droid" to pass options)'
	@echo 'make test    run the whole suite against real servers that it starts itself (TESTS=path to run less, WORKERS=8 on more cores)'
	@echo 'make test-fast       run the tests of the core, the stores and the small parts (half a minute)'
	@echo 'make test-inprocess  run all tests but those that start whole programs (TESTS=path to run less)'
	@echo 'make coverage  the same suite with every process measured; fails below the bounds'
	@echo 'make test-15  the tests of stores, security and architecture on Postgres 15, which is installed where it can be'
	@echo 'make try-latest  try the newest release of every peer that the tests pin from npm'
	@echo 'make try-clients  try real clients with a fake model (CLIENTS="codex fastmcp" SCALE=0.1 TRIALS="chat,stop")'
	@echo 'make check   format, lint, types, import contracts, dependencies, file sizes'
	@echo 'make schema  write anew the dump of the schema that the tests compare'
	@echo 'make settings  write anew the example of the settings (config/settings.example.env)'
	@echo 'make front   write anew what the program answers while it starts (answers.json)'
	@echo 'make prices  take the list of prices anew from genai-prices (prices.csv), and compare it with litellm'"'"'s'
	@echo 'make picture  draw anew the conversation that README shows (docs/images/chat.svg)'
	@echo 'make audit   look for known vulnerabilities of the dependencies'
	@echo 'make bench   measure against the bare SDK (ROWS="sequential burst" for some, ROWS="million steady" for the long ones)'
	@echo 'make chaos   break the program, and count what it lost (SCENARIO="kill9 rolling" SECONDS=60 CLIENTS=12, SCENARIO=day TURNS=2000)'
	@echo 'make chaos-short  seven scenarios of it in their smallest form, in three minutes'
	@echo 'make mutate  change the engine of turns in small ways, and count what its tests notice (SAMPLE=200 MODULE=turn_runner AGAIN=1)'
	@echo 'make lock    pin the dependencies anew (needs uv)'
	@echo 'make clean   remove the environment'

run:
	@sh scripts/setup run
	@exec $(PYTHON_RUN) -m agentapi_mcp chat --via-mcp $(ARGS)

test:
	@sh scripts/setup dev
	@$(if $(COVERAGE),TESTS="$(TESTS)" sh scripts/coverage )$(PYTEST) $(TESTS)

test-fast:
	@sh scripts/setup dev
	@$(PYTEST) -m "not acceptance" $(FAST_TESTS)

test-inprocess:
	@sh scripts/setup dev
	@$(PYTEST) -m "not acceptance" $(TESTS)

coverage:
	@$(MAKE) --no-print-directory test COVERAGE=1

test-15:
	@sh scripts/setup dev
	@sh scripts/test-15

bench:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m benchmarks $(ROWS)

chaos:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m chaos $(SCENARIO) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(CLIENTS),--clients $(CLIENTS)) $(if $(TURNS),--turns $(TURNS)) $(if $(TIMES),--times $(TIMES)) $(if $(KEEP),--keep $(KEEP)) $(if $(TABLE),--write $(TABLE))

chaos-short:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m chaos --short

mutate:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m mutation $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(MODULE),--module $(MODULE)) $(if $(AGAIN),--again) $(if $(EQUIVALENTS),--equivalents)

try-latest:
	@sh scripts/setup dev
	@sh scripts/try-latest

try-clients:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m clients $(CLIENTS) --scale $(or $(SCALE),1) $(if $(TRIALS),--trials "$(TRIALS)")

check:
	@sh scripts/setup dev
	@sh scripts/check

schema:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m tests.support.schema_dump

settings:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m tests.support.settings_example

front:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m tests.support.front_answers

prices:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m scripts.prices

picture:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m tests.support.chat_picture

audit:
	@sh scripts/setup dev
	@$(PYTHON_RUN) scripts/audit.py

lock:
	@sh scripts/lock

clean:
	@rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache
