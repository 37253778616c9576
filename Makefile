# Everything here sets itself up: Python 3.11 to 3.14, make and a network to a package index are enough.
# What set-up says goes to stderr, so that `make run` with a pipe prints the answer alone.
.PHONY: help run test try-latest check schema audit lock bench clean
PYTHON_RUN = .venv/bin/python
TESTS ?= tests

help:
	@echo 'make run     chat in the terminal, through the real MCP server (ARGS="--agent droid" to pass options)'
	@echo 'make test    run the whole suite against real servers that it starts itself (TESTS=path to run less)'
	@echo 'make try-latest  try the newest release of every peer that the tests pin from npm'
	@echo 'make check   format, lint, types, import contracts, file sizes'
	@echo 'make schema  write anew the dump of the schema that the tests compare'
	@echo 'make audit   look for known vulnerabilities of the dependencies'
	@echo 'make bench   measure against the bare SDK (ROWS="sequential burst" for some, ROWS="million steady" for the long ones)'
	@echo 'make lock    pin the dependencies anew (needs uv)'
	@echo 'make clean   remove the environment'

run:
	@sh scripts/setup run
	@exec $(PYTHON_RUN) -m agentapi_mcp chat --via-mcp $(ARGS)

test:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m pytest -n $(if $(TEST_DATABASE_URL),1,2) $(TESTS)  # roles belong to all of a server of yours

bench:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m benchmarks $(ROWS)

try-latest:
	@sh scripts/setup dev
	@sh scripts/try-latest

check:
	@sh scripts/setup dev
	@sh scripts/check

schema:
	@sh scripts/setup dev
	@$(PYTHON_RUN) -m tests.support.schema_dump

audit:
	@sh scripts/setup dev
	@$(PYTHON_RUN) scripts/audit.py

lock:
	@sh scripts/lock

clean:
	@rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache
