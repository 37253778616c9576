"""Names of files in the home that more than one part of the program knows; a bridge imports them."""

CHAT_HISTORY = "chat-history.jsonl"
# Of each server that clients share, after its fingerprint; the last one after the number of a process, too.
SOCKET, LOCK, LOG, STOPPED, ENDING = ".sock", ".lock", ".log", ".stopped", ".ending"
RUN_KEY = "key"
FINGERPRINT_DIGITS = 16
