"""A program that speaks as the Droid CLI does; what it does is chosen by the model's name, as `custom:hang`.

It says to a socket of the test what it was asked (`asked`) and that it was stopped (`freed`).
"""

import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TypedDict

REASON = "This model's maximum prompt length is 8 but the request contains 9 tokens"
KEY = os.environ.get("STUB_KEY", "")  # noqa: TID251  # a program of its own
REFUSALS = {
    "e400": "400 Stub failure",
    "e401": "401 Stub failure",
    "e402": "402 Stub failure",
    "e403": "403 Stub failure",
    "e404": "404 Stub failure",
    "e500": "500 Stub failure",
    "e502": "502 Stub failure",
    "e503": "503 Stub failure",
    "e529": "529 Stub failure",
    "toolong": "400 This model's maximum context length is 8192 tokens.",
    "explains": f"400 {json.dumps({'error': {'message': REASON}})}",
    "leak": f"401 The key {KEY} is wrong, says /srv/app/keys.py\nTraceback",
}


class Message(TypedDict, total=False):
    """A message of the server."""

    id: str
    method: str
    params: dict[str, object]


ASKS: dict[str, tuple[str, dict[str, object]]] = {
    "ask": ("droid.request_permission", {"toolUses": [{"toolUse": {"id": "call_1", "name": "Execute"}}]}),
    "forge": ("droid.request_permission", {"toolUses": [{"toolUse": {"id": "call_1", "name": "x · session_id y"}}]}),
    "question": ("droid.ask_user", {"questions": [{"question": "Which?"}]}),
    "other": ("droid.never_heard_of", {}),
}
_COUNTED = {"inputTokens": 7, "outputTokens": 5, "cacheReadTokens": 4, "cacheCreationTokens": 0, "thinkingTokens": 0}
USED: dict[str, dict[str, object]] = {
    "texts": {"inputTokens": "7", "outputTokens": 5.0, "cacheReadTokens": "4"},
    "zeros": dict.fromkeys(_COUNTED, 0),
}
WAYS = (
    *REFUSALS,
    *USED,
    "answer",
    "recall",
    "chunks2",
    "waits",
    "hang",
    "drip",
    "cut",
    "drop",
    "late",
    "repeats",
    *ASKS,
)


def send(**message: object) -> None:
    """Say one message."""
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def tell(**notification: object) -> None:
    """Say one notification of the session."""
    send(type="notification", method="droid.session_notification", params={"notification": notification})


def complete(reason: str, way: str = "") -> None:
    """End the turn."""
    tell(type="agent_turn_completed", reason=reason, tokenUsage=USED.get(way, _COUNTED))


def drip(stopped: threading.Event) -> None:
    """Show signs of life without end."""
    while not stopped.wait(0.02):
        tell(type="llm_retry", attempt=1)


class Cli:
    """One run of the program."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.model = "custom:answer"
        self.session = ""
        self.stopped = threading.Event()

    @property
    def memory(self) -> Path:
        """The file of the session, in the directory in which the program works."""
        return Path("sessions") / self.session

    def answer(self, message: str) -> None:
        """Do what the model's name says."""
        way = self.model.removeprefix("custom:")
        with self.memory.open("a", encoding="utf-8") as said:
            said.write(f"{message}\n")
        if way in {"recall", "repeats"}:
            self.repeat(way)
        if way in {"answer", "chunks2", "waits", "cut", "late", *ASKS}:
            tell(type="assistant_text_delta", textDelta="w0 ")
        if way in {"cut", "drop"}:
            os._exit(0)
        if way in ASKS:
            method, params = ASKS[way]
            send(type="request", id="p1", method=method, params=params)
        elif way in {"answer", "chunks2", *USED}:
            tell(type="assistant_text_delta", textDelta="w1 ")
            complete("completed", way)
        elif way == "late" or way in REFUSALS:
            tell(type="error", message=REFUSALS.get(way, "502 Provider disconnected"))
            complete("model_provider_unavailable")
        elif way == "drip":
            threading.Thread(target=drip, args=(self.stopped,), daemon=True).start()

    def repeat(self, way: str) -> None:
        """Repeat what was said in the session, or the key in pieces."""
        key = ("Your key is ", KEY[:3], KEY[3:9], KEY[9:], ", and again ", KEY, " so.")
        for piece in [self.memory.read_text(encoding="utf-8")] if way == "recall" else key:
            tell(type="assistant_text_delta", textDelta=piece)
        complete("completed")

    def take(self, message: Message) -> None:
        """Take one message of the server."""
        method, params = message.get("method"), message.get("params", {})
        if method is None:
            complete("completed")
            return
        self.model = str(params.get("modelId", self.model))
        if not self.find_session(method, params):
            send(type="response", id=message.get("id"), error={"code": -32603, "message": "Session not found"})
            return
        models = [{"id": f"custom:{way}", "isCustom": True} for way in WAYS]
        begun = {"sessionId": self.session, "settings": {"modelId": self.model}, "availableModels": models}
        send(type="response", id=message.get("id"), result=begun)
        if method == "droid.add_user_message":
            self.channel.sendall(b"asked\n")
            self.answer(str(params["text"]))
        elif method == "droid.interrupt_session":
            self.stopped.set()
            complete("cancelled")
            self.channel.sendall(b"freed\n")

    def find_session(self, method: str, params: dict[str, object]) -> bool:
        """Begin a session, or load one that is kept."""
        if method == "droid.initialize_session":
            self.session = os.urandom(8).hex()
            self.memory.parent.mkdir(exist_ok=True)
            self.memory.touch()
        elif method == "droid.load_session":
            self.session = str(params["sessionId"])
        return self.memory.is_file()


def main() -> None:
    """Serve until stdin ends."""
    if "--version" in sys.argv:
        sys.stdout.write("0.215.0\n")
        return
    with socket.create_connection(("127.0.0.1", int(os.environ["STUB_PORT"]))) as channel:  # noqa: TID251  # see above
        cli = Cli(channel)
        for line in sys.stdin:
            cli.take(json.loads(line))


if __name__ == "__main__":
    main()
