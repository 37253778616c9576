"""What a list of prices may not say: the gate of the one that comes with the program."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal, InvalidOperation
from itertools import groupby, pairwise

from agentapi_mcp.base.money import MOST_USD, RATES
from agentapi_mcp.core.catalogue.price_list import COLUMNS

DAY = ("00:00", "24:00")


@dataclass(frozen=True)
class Fact:
    """A row of the list, with its line."""

    line: int
    cells: dict[str, str]

    @property
    def name(self) -> str:
        """The row in words."""
        return f"line {self.line}, {self.cells['provider']} {self.cells['model']}"

    @property
    def hours(self) -> tuple[str, str]:
        """The hours at which it is valid."""
        first, _, end = self.cells["hours"].partition("-")
        return (first, end) if first else DAY


def faults_of(text: str) -> list[str]:
    """Say what is wrong with a list; nothing where it can be shipped."""
    first, header, *lines = text.splitlines()
    faults = [] if len(first.split(",")) == 3 else ["line 1: it must be the name, the version and the day of the list"]
    if header != ",".join(COLUMNS):
        return [*faults, f"line 2: the columns must be {','.join(COLUMNS)}"]
    facts: list[Fact] = []
    for number, line in enumerate(lines, 3):
        cells = line.split(",")
        if len(cells) == len(COLUMNS):
            facts.append(Fact(number, dict(zip(COLUMNS, cells, strict=True))))
        else:
            faults.append(f"line {number}: it has {len(cells)} cells, and not {len(COLUMNS)}")
    faults += [fault for fact in facts for fault in _of_cells(fact)]
    if faults:
        return faults  # what is no number or day cannot be compared
    seen: set[tuple[str, str]] = set()
    for model, rows in groupby(facts, lambda fact: (fact.cells["provider"], fact.cells["model"])):
        own = list(rows)
        if model in seen:
            faults.append(f"{own[0].name}: the rows of this model do not stand together")
        seen.add(model)
        faults += _of_model(own)
    return faults


def _of_cells(fact: Fact) -> Iterator[str]:
    cells = fact.cells
    must = {
        **dict.fromkeys(RATES, (_is_price, f"a price from 0 to {MOST_USD:,}")),
        **dict.fromkeys(("above", "context_window"), (_is_count, "a positive count")),
        **dict.fromkeys(("from", "until"), (_is_day, "a day")),
        "hours": (_is_hours, "two times of one day"),
    }
    for name, (is_right, what) in must.items():
        if (cells[name] or name in {"input", "output"}) and not is_right(cells[name]):
            yield f"{fact.name}: {name} must be {what}, and not {cells[name]!r}"
    if cells["model"] != cells["model"].lower() or not cells["model"] or not cells["provider"]:
        yield f"{fact.name}: it must have a provider, and a model in lower case"


def _of_model(facts: Sequence[Fact]) -> Iterator[str]:
    """Yield where the rows of a model leave a moment or a size without a price, or give it two."""
    periods = [list(rows) for _, rows in groupby(facts, lambda fact: (fact.cells["from"], fact.cells["until"]))]
    yield from _tiled([(rows[0], rows[0].cells["from"], rows[0].cells["until"]) for rows in periods], "", "", "valid")
    for period in periods:
        hours = [list(rows) for _, rows in groupby(period, lambda fact: fact.hours)]
        yield from _tiled([(rows[0], *rows[0].hours) for rows in hours], *DAY, "valid by hour")
        for tiers in hours:
            bounds = [int(fact.cells["above"] or 0) for fact in tiers]
            if bounds[0] != 0:
                yield f"{tiers[0].name}: requests up to {bounds[0]:,} tokens have no price"
            if any(one >= other for one, other in pairwise(bounds)):
                yield f"{tiers[0].name}: the tiers do not ascend ({bounds}), so that a request has two prices"


def _tiled(parts: Sequence[tuple[Fact, str, str]], begin: str, end: str, what: str) -> Iterator[str]:
    """Yield where parts do not follow each other from the beginning to the end; no text is for ever."""
    at = begin
    for number, (fact, since, until) in enumerate(parts):
        if since != at:
            fault = "an overlap" if number > 0 and (not at or since < at) else "a gap"
            yield f"{fact.name}: {what} from {since or 'ever'}, {fault} at {at or 'ever'}"
        if until and since >= until:
            yield f"{fact.name}: {what} until {until}, which is not after {since}"
        at = until
    if at != end:
        yield f"{parts[-1][0].name}: {what} until {at or 'ever'}, and a gap after it"


def _is_price(cell: str) -> bool:
    try:
        price = Decimal(cell)
    except InvalidOperation:
        return False
    return price.is_finite() and 0 <= price <= MOST_USD


def _is_count(cell: str) -> bool:
    return cell.isdecimal() and int(cell) > 0


def _is_hours(cell: str) -> bool:
    first, _, end = cell.partition("-")
    return _is_time(first) and _is_time(end) and first < end


def _is_day(cell: str) -> bool:
    try:
        return date.fromisoformat(cell).isoformat() == cell
    except ValueError:
        return False


def _is_time(cell: str) -> bool:
    try:
        return cell == DAY[1] or f"{time.fromisoformat(cell):%H:%M}" == cell
    except ValueError:
        return False
