#!/bin/sh
# Starts Valkey in compose.yaml. It reads its password from here: on its command line, `ps` would show it.
# The image's own entry point lowers the rights. It holds nothing that would be missed: no file, and the oldest goes when
# it is full.
set -eu
exec docker-entrypoint.sh valkey-server - --save "" --maxmemory 256mb --maxmemory-policy allkeys-lru "$@" <<CONFIG
requirepass "$VALKEYCLI_AUTH"
CONFIG
