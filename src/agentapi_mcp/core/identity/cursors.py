"""Opaque pagination cursors, bound to a list and a principal."""

import binascii
import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.json_values import is_list, load_json
from agentapi_mcp.core.identity.principals import Principal

_SEAL_BYTES = 12
_LONGEST = 4096


def encode_cursor(scope: str, principal: Principal, position: Sequence[str]) -> str:
    """Encode the cursor after `position`; `scope` identifies the list and its filters."""
    # The seal is an unkeyed checksum, since processes share no key: it detects mistakes, damage and mixed-up lists. A
    # forged cursor only moves within the caller's own list, so authorization must never depend on a cursor.
    body = json.dumps(list(position), ensure_ascii=True, separators=(",", ":")).encode()
    return _pack(_seal(scope, principal, body) + body)


def decode_cursor(cursor: str, scope: str, principal: Principal) -> tuple[str, ...]:
    """Decode the position.

    Raises:
        InvalidRequestError: the cursor is damaged, or belongs to another list, filter or principal.
    """
    seal, body = _unpack(cursor)
    if seal != _seal(scope, principal, body):
        raise _refusal()
    return _position(body)


def _unpack(cursor: str) -> tuple[bytes, bytes]:
    if len(cursor) > _LONGEST:
        raise _refusal()
    try:
        raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError) as exc:
        raise _refusal() from exc
    if _pack(raw) != cursor:  # the decoder skips characters outside of its alphabet
        raise _refusal()
    return raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]


def _pack(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _position(body: bytes) -> tuple[str, ...]:
    # The seal can be forged, so the content is untrusted.
    try:
        position = load_json(body)
    except (ValueError, RecursionError) as exc:
        raise _refusal() from exc
    if not is_list(position):
        raise _refusal()
    texts = tuple(part for part in position if isinstance(part, str))
    if len(texts) != len(position):
        raise _refusal()
    return texts


def _seal(scope: str, principal: Principal, body: bytes) -> bytes:
    bound = json.dumps([scope, str(principal.user_id), str(principal.org_id)]).encode()
    return hashlib.sha256(hashlib.sha256(bound).digest() + body).digest()[:_SEAL_BYTES]


def _refusal() -> InvalidRequestError:
    return InvalidRequestError(
        "The cursor is not one of this list; leave it out to start at the first page, with the same filters throughout."
    )
