"""Texts that break careless code: empty, not encodable, control characters, injection."""

HOSTILE_TEXTS = (
    "",
    " ",
    "\0",
    "\ud800",
    "\udfff\ud83d",
    "\u202e",
    "\r\n",
    "\x1b[2J",
    "%00",
    "../..",
    "'; --",
    "{}",
    "null",
    "é" * 300,
)
