"""Tell apart, by Unicode properties, the characters that a reader sees from those that only act or hide."""

import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

CONTEXT = 8  # characters that decide whether the next one is seen: a flag is the longest

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Format characters that are printed, before a number or name (Prepended_Concatenation_Mark).
_PRINTED = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
# Letters and marks that are not printed (Default_Ignorable_Code_Point outside of the categories above).
_IGNORABLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
    + "".join(map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
# Unassigned here, perhaps not in a newer Unicode: whatever is added in these blocks is an emoji or an ideograph.
_PICTOGRAPHS = range(0x1F000, 0x1FB00)
_RESERVED = (_PICTOGRAPHS, range(0x20000, 0x2FFFE), range(0x30000, 0x3FFFE))

_JOINER, _NON_JOINER = "\u200d", "\u200c"
_INDIC = range(0x0900, 0x0E00)
_VIRAMA = 9  # its canonical combining class
_EMOJI_STYLES = frozenset("\ufe0e\ufe0f")
_STYLED = frozenset("#*0123456789\u203c\u2049\u2139\u3030")  # beside symbols, those that have an emoji style
_SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_IDEOGRAPHIC_STYLES = range(0xE0100, 0xE01F0)
_IDEOGRAPHS = (range(0x3400, 0xA000), range(0xF900, 0xFB00), *_RESERVED[1:])
_MONGOLIAN_STYLES, _MONGOLIAN = frozenset("\u180b\u180c\u180d\u180f"), range(0x1820, 0x18AB)
# England, Scotland and Wales: a black flag and its region in tags, the only flags of this kind.
_FLAGS = tuple(
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in region) + "\U000e007f"
    for region in ("gbeng", "gbsct", "gbwls")
)


def replace_invisible(
    text: str, replacement: Callable[[str], str], *, keep: str = "", before: Sequence[str] = ""
) -> str:
    """Replace every character that is not seen: controls, bidi marks, what is invisible, private or unassigned.

    Joiners, selectors and tags stay where they shape what is seen, as in emoji, Persian, Indic and Japanese text:
    once, directly after the character that they shape, so that no text can be hidden in a run of them. `keep` stays
    anywhere. `before` is the end of what was shown earlier, if the text comes in pieces.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = list(before[-CONTEXT:])
    begin = len(shown)
    for character in text:
        is_kept = character in keep or _is_seen(character) or _shapes(character, shown[-CONTEXT:])
        shown.append(character if is_kept else replacement(character))
    return "".join(shown[begin:])


def escape(character: str) -> str:
    """Write a character as an escape that Python and most log readers know."""
    return ascii(character)[1:-1]


@lru_cache(maxsize=4096)
def _is_seen(character: str) -> bool:
    """Whether the character is seen wherever it stands."""
    if character in _IGNORABLE:
        return False
    category = unicodedata.category(character)
    if category == "Cn":
        return any(ord(character) in block for block in _RESERVED)
    return category not in _UNSEEN or character in _PRINTED


def _shapes(character: str, before: Sequence[str]) -> bool:
    """Whether an invisible character changes how the character before it is seen."""
    last = before[-1] if before and len(before[-1]) == 1 else ""
    if not last:
        return False
    if character in {_JOINER, _NON_JOINER}:
        return _joins(last, before) or (character == _JOINER and _is_pictograph(last, before))
    if character in _EMOJI_STYLES:
        return last in _STYLED or unicodedata.category(last) in {"So", "Sm"} or ord(last) in _PICTOGRAPHS
    if ord(character) in _IDEOGRAPHIC_STYLES:
        return any(ord(last) in block for block in _IDEOGRAPHS)
    if character in _MONGOLIAN_STYLES:
        return ord(last) in _MONGOLIAN
    return _continues_flag(character, "".join(before))


def _joins(last: str, before: Sequence[str]) -> bool:
    """Whether a joiner belongs after this: an Arabic, Syriac or Thaana letter with its marks, or an Indic syllable."""
    if ord(last) in _INDIC or unicodedata.combining(last) == _VIRAMA:
        return True
    letter = next((each for each in reversed(before) if not unicodedata.combining(each[-1:] or " ")), "")
    return len(letter) == 1 and unicodedata.bidirectional(letter) == "AL"


def _is_pictograph(last: str, before: Sequence[str]) -> bool:
    if last in _EMOJI_STYLES:  # one that stands here follows a symbol
        return len(before) > 1
    return last in _SKIN_TONES or unicodedata.category(last) == "So" or ord(last) in _PICTOGRAPHS


def _continues_flag(character: str, before: str) -> bool:
    return any(
        before.endswith(flag[:place]) for flag in _FLAGS for place in range(1, len(flag)) if flag[place] == character
    )
