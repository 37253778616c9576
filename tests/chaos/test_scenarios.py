"""The table of scenarios, and how a result is written."""

from collections import Counter
from pathlib import Path

from chaos.clocks import JumpingClock, clock_file
from chaos.findings import Violation
from chaos.results import HEADING, Result, kept, not_run, row
from chaos.scenarios import ALL, BY_NAME, SHORT
from chaos.timing import now

_PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def test_every_scenario_is_documented() -> None:
    page = _PAGE.read_text(encoding="utf-8")
    rows = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert set(ALL) | set(BY_NAME) == rows


def test_the_short_form_has_scenarios_of_the_long_one() -> None:
    assert set(SHORT) < set(ALL)


def a_run() -> Result:
    return Result(
        name="kill9",
        seconds=41.3,
        clients=12,
        faults={"kill -9 of a replica": 3},
        turns=57,
        violations=[Violation("answer_lost", "a"), Violation("answer_lost", "b"), Violation("asked_twice", "a")],
        recoveries=[3.0, 9.0, 4.04],
    )


def test_the_runs_of_a_scenario_are_one_row_of_the_table() -> None:
    written = row([a_run(), a_run()])
    assert written.count("|") == HEADING.splitlines()[0].count("|") == not_run("kill9", "no root").count("|")
    assert written == (
        "| `kill9` | 2 | 83 | 12 | 6 × kill -9 of a replica | 114 | **4 × answer_lost**, **2 × asked_twice** "
        "| 4.0 / 9.0 s |"
    )


def test_every_run_is_kept_beside_those_before(tmp_path: Path) -> None:
    for _ in range(2):
        a_run().keep(tmp_path)
    runs = kept(tmp_path)
    assert row(runs) == row([a_run(), a_run()])
    assert [run.details() for run in runs] == [a_run().details(), a_run().details()]


def test_the_details_show_a_few_violations_of_each_name_and_what_was_refused() -> None:
    violations = [Violation("asked_twice", str(number), "twice") for number in range(20)]
    result = Result(
        name="kill9",
        seconds=1,
        clients=1,
        faults={},
        turns=1,
        violations=violations,
        refusals=Counter({"http: 502": 3}),
    )
    assert result.details() == [*(f"asked_twice {number}: twice" for number in range(5)), "refused 3 × http: 502"]


def test_what_a_clock_that_jumped_has_stamped_is_told_in_real_time(tmp_path: Path) -> None:
    clock, began = JumpingClock(tmp_path), now()
    assert clock.real_time(began) == began
    for ahead in (57_570, 2_735_879):
        clock.put_ahead(ahead)
        # As libfaketime reads it: the first thing that the clock has stamped is not taken for one from before the jump.
        stamped = now() + float(clock_file(tmp_path).read_text(encoding="utf-8"))
        assert began <= clock.real_time(stamped) <= now()
        assert abs(clock.today().timestamp() - stamped) < 3_600
    assert clock.real_time(began) == began
