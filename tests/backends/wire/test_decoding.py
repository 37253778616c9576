"""Compressed replies come apart piece by piece, wherever the network cuts them, and whatever they are."""

import gzip
import zlib
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi_mcp.backends.wire.decoding import decoder_of
from agentapi_mcp.base.errors import BackendError, BackendFault

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate ": lambda body: zlib.compress(body, wbits=-zlib.MAX_WBITS),
    "deflate, gzip": lambda body: gzip.compress(zlib.compress(body)),
    "br, gzip": gzip.compress,  # what was not asked for is not decoded
}


def decode(coding: str, parts: list[bytes]) -> list[bytes]:
    decoder = decoder_of(coding)
    assert decoder is not None
    return [piece for part in parts for piece in decoder(part)]


@given(st.binary(), st.sampled_from(sorted(COMPRESS)), st.lists(st.integers(1, 60), max_size=9))
@example(b"x" * 200_000, "gzip", [5])
@example(b"hello" * 9, "Deflate ", [1])
def test_a_body_is_the_same_wherever_the_network_cuts(body: bytes, coding: str, cuts: list[int]) -> None:
    compressed = COMPRESS[coding](body)
    places = [0, *sorted(cuts), len(compressed)]
    parts = [compressed[start:end] for start, end in pairwise(places)]
    parts[-1] = compressed[places[-2] :]
    assert b"".join(decode(coding, parts)) == body


@given(st.sampled_from(["gzip", "deflate", "gzip, deflate"]), st.lists(st.binary(), max_size=9))
@example("gzip", [gzip.compress(b"a"), b"and more", b"and more"])
def test_bytes_of_any_kind_are_a_body_or_the_providers_fault(coding: str, parts: list[bytes]) -> None:
    fault = None
    try:
        assert len(b"".join(decode(coding, parts))) < 100_000
    except BackendError as error:
        fault = error.fault
    assert fault in {None, BackendFault.BAD_REPLY}


def test_a_piece_is_small_however_much_it_expands() -> None:
    pieces = decode("gzip", [gzip.compress(bytes(5_000_000))])
    assert max(map(len, pieces)) <= 64 * 1024
    twice = decode("gzip, gzip", [gzip.compress(gzip.compress(bytes(5_000_000)))])
    assert (max(map(len, twice)), sum(map(len, twice))) == (64 * 1024, 5_000_000)


@pytest.mark.parametrize("coding", ["", "identity", "br", "zstd", "x-gzip", ","])
def test_what_is_not_compressed_needs_no_decoder(coding: str) -> None:
    assert decoder_of(coding) is None


def test_codings_are_few() -> None:
    assert decoder_of(", ".join(["gzip"] * 5)) is not None
    with pytest.raises(BackendError):
        decoder_of(", ".join(["gzip"] * 6))
