"""Whether a text holds something that its reader would not see, told apart from the program's own rules."""

import unicodedata

from hypothesis import strategies as st

# Each alone, or in a run, does nothing that a reader should meet unseen.
HIDDEN = {
    "escape": "\x1b",
    "control": "\x9b",
    "bell": "\x07",
    "carriage return": "\r",
    "override": "\u202e",
    "isolate": "\u2066",
    "mark": "\u200f",
    "zero-width space": "\u200b",
    "soft hyphen": "\u00ad",
    "byte order mark": "\ufeff",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "tag": "\U000e0041",
    "selector": "\ufe01",
    "supplementary selector": "\U000e01ef",
    "filler": "\u3164",
    "grapheme joiner": "\u034f",
    "private": "\ue000",
    "noncharacter": "\ufffe",
    "unassigned": "\u0378",
    "surrogate": "\ud800",
}
# What people write, whose joiners, selectors and tags a reader would miss.
WRITTEN = (
    "👨‍👩‍👧‍👦 👩🏽‍💻 ❤️‍🔥 🏳️‍🌈 1️⃣ #️⃣ ☎︎ ⏱️",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "می‌خواهم نمی‌دانم",
    "क्‍ष र्‍य শ্‌ ර්‍ය",
    "שָׁלוֹם مَرْحَبًا ١٢٣",
    "葛\U000e0100城 日本語　全角 한국어",
    "e\u0301 ö ß \N{NO-BREAK SPACE}fin",
)
# Of Unicode's own list, what may stand within such a text.
_SHAPING = frozenset("\u200c\u200d\ufe0e\ufe0f\u180b\u180c\u180d\u180f") | frozenset(
    map(chr, (*range(0xE0061, 0xE0080), *range(0xE0100, 0xE01F0)))
)
_SIGNS = "\u070f\U000110bd\U000110cd"

hidden_texts = st.lists(
    st.sampled_from([*HIDDEN.values(), *WRITTEN, "a", " ", "\n", "=", '"', "\\", "\u200d", "\ufe0f", "\u00a0"])
    | st.characters(),
    max_size=30,
).map("".join)


def hides_something(text: str) -> bool:
    """Return whether a character of the text drives a terminal, reorders text, or is not shown."""
    return any(
        unicodedata.category(character) in {"Cc", "Cs", "Co", "Zl", "Zp"}
        or (unicodedata.category(character) == "Cf" and not _may_be_there(character))
        for character in text
    )


def _may_be_there(character: str) -> bool:
    # Arabic, Syriac and Kaithi signs of numbers and names, which are printed.
    return character in _SHAPING or unicodedata.bidirectional(character) == "AN" or character in _SIGNS
