"""Asks /healthz again and again, each time on a new connection, as a process of its own that nothing else keeps busy.

`prober.py HOST PORT` asks until its stdin ends, and prints what the answers took, in seconds, as JSON.
"""

import json
import select
import socket
import sys
import time

PAUSE = 0.005


def _ask(host: str, port: int) -> float:
    started = time.monotonic()
    with socket.create_connection((host, port)) as connection:
        connection.sendall(f"GET /healthz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return time.monotonic() - started


def _main(host: str, port: int) -> None:
    took = list[float]()
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        took.append(_ask(host, port))
    print(json.dumps(took))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
