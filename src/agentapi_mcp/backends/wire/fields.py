"""Parse JSON of providers."""

import json
import re
from decimal import Decimal

from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_bounds import JsonBounds, JsonBoundsError
from agentapi_mcp.base.json_values import as_amount as amount
from agentapi_mcp.base.json_values import as_count as count
from agentapi_mcp.base.json_values import as_list as sequence
from agentapi_mcp.base.json_values import as_object as mapping
from agentapi_mcp.base.json_values import as_text as text
from agentapi_mcp.base.json_values import load_json

__all__ = ["amount", "count", "mapping", "parse_json", "sequence", "text"]

# More than of a client: one reply may list all models of a provider. It takes less than a tenth of a second.
REPLY_BOUNDS = JsonBounds(containers=50_000, values=250_000)


# Charsets of old gateways; what is UTF-8 is read as that, whatever the header says.
_CHARSET = re.compile(
    r"charset\s*=\s*[\"']?(latin-?1|iso-?8859-?\d\d?|(?:windows-?|cp)125\d|shift_jis|gb18030|gbk|gb2312|big5|euc-(?:jp|kr))\b",
    re.IGNORECASE,
)
_NOT_ASCII_IN_UTF_8 = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")


def charset_of(content_type: str) -> str | None:
    """Return the charset that a content type names, if it is one that is not UTF-8 and can be decoded."""
    found = _CHARSET.search(content_type)
    return found[1].lower() if found else None


def decoded_body(raw: bytes, charset: str | None = None) -> str:
    """Decode a whole JSON document; without a charset, one that holds nothing of UTF-8 is Windows-1252."""
    try:
        return raw.decode(json.detect_encoding(raw), "surrogatepass")
    except UnicodeDecodeError:
        is_utf_8 = charset is None and _NOT_ASCII_IN_UTF_8.search(raw)
        return raw.decode("utf-8" if is_utf_8 else charset or "cp1252", errors="replace")


def parse_json(raw: str | bytes, *, what: str) -> object:
    """Parse JSON with exact decimals; `what` names the document in the error message.

    Raises:
        BackendError: BAD_REPLY, if it is not JSON, or too much of it.
    """
    text = raw if isinstance(raw, str) else decoded_body(raw)
    try:
        return load_json(text, parse_float=Decimal, parse_constant=_refuse_constant, strict=False, bounds=REPLY_BOUNDS)
    except JsonBoundsError as error:
        raise BackendError(BackendFault.BAD_REPLY, f"{what} {error}.") from error
    except (ValueError, ArithmeticError, RecursionError) as error:  # the exponent of a number may be too large
        raise BackendError(BackendFault.BAD_REPLY, f"{what} is not JSON.") from error


def parse_documents(text: str, *, what: str) -> tuple[list[object], bool]:
    """Parse JSON documents one after the other, and tell whether that is all, or something else follows.

    Raises:
        BackendError: BAD_REPLY, if it does not begin with JSON, or is too much of it.
    """
    try:
        return [parse_json(text, what=what)], True
    except BackendError as error:
        documents, is_all = ([], True) if isinstance(error.__cause__, JsonBoundsError) else _leading_documents(text)
        if not documents:
            raise
        return documents, is_all


def _leading_documents(text: str) -> tuple[list[object], bool]:
    documents, place = list[object](), 0
    while (place := _after_space(text, place)) < len(text):
        try:
            document, place = _DECODER.raw_decode(text, place)
        except (ValueError, ArithmeticError, RecursionError):
            return documents, False
        documents.append(document)
    return documents, True


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _refuse_constant(name: str) -> object:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant, strict=False)
_SPACE = re.compile(r"\s*")
