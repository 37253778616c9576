"""Lines of a client are cut at a bound, however they come."""

from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.long_lines import LineBound, is_too_long

LONGEST = 300


@given(st.lists(st.integers(0, 1200), max_size=6), st.integers(0, 700), st.lists(st.integers(1, 900), max_size=20))
def test_long_lines_are_cut_and_others_pass_as_they_are(lengths: list[int], rest: int, cuts: list[int]) -> None:
    lines = [bytes(32 + (index + at) % 90 for at in range(length)) for index, length in enumerate((*lengths, rest))]
    data, passed, bound = b"\n".join(lines), b"", LineBound(LONGEST)
    for size in (*cuts, len(data)):
        passed += bound.passed(data[:size])
        data = data[size:]
    *whole, begun = passed.split(b"\n")
    assert len(whole) == len(lengths)
    for line, found in zip(lines, whole, strict=False):
        most = LONGEST + 1
        assert found == (line if len(line) <= most else line[:most] + line[most:][-200:])
        assert is_too_long(found.decode(), LONGEST) == (len(line) > LONGEST)
    assert begun == lines[-1][: LONGEST + 1]


def test_a_line_that_never_ends_is_not_kept() -> None:
    bound = LineBound(LONGEST)
    assert sum(len(bound.passed(b"x" * 1000)) for _ in range(1000)) == LONGEST + 1


def test_a_line_is_measured_in_bytes() -> None:
    assert is_too_long("é" * 200, LONGEST)
    assert not is_too_long("é" * 150, LONGEST)
