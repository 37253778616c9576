"""What must hold of money whatever breaks: budgets, and what users are told of what they have spent."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

from chaos.evidence import Entry, Evidence, Left, Message, Period, Sums, Turn, nanos_of, usage_of
from chaos.findings import FINAL, Rule, Violation, turns_by_marker

# How long after a turn ended its budgets may have waited for their locks.
_WAITED = 10.0
_REFUSAL = re.compile(
    r"(?P<period>daily |monthly |)budget \(\$[\d,.]+\) has (?P<left>-?\$[\d,.]+) left"
    r"(?:, \$[\d,.]+ of it is reserved for turns that run)?, and this message "
    r"(?:may cost|of unknown cost reserves) (?P<needed>\$[\d,.]+); "
    r"(?P<renews>it renews at \d{4}-\d\d-\d\d 00:00 UTC|it does not renew)\. "
)
_RENEWS = {"daily ": r"it renews at .*", "monthly ": r"it renews at \d{4}-\d\d-01 .*", "": "it does not renew"}
Cost = tuple[int, int, int]  # input and output tokens, and nano-dollars


def ledger_is_bills(evidence: Evidence) -> Iterator[Violation]:
    """Require that each turn is entered once, as its bill says, and that the days have the sums of the ledger."""
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        entries[entry.turn_id].append(entry)
    for turn in evidence.turns:
        entered, told = sum_of(entries[turn.id]), _bill(turn)
        if entered.turns < told.turns:
            yield Violation("not_entered", turn.id, turn.status)
        elif entered.turns > told.turns:
            yield Violation("entered_twice", turn.id, f"{turn.status}, entered {entered.turns} times")
        elif told.turns and entered != told:
            yield Violation("ledger_not_bill", turn.id, f"{entered}, and its bill is {told}")
    for day in evidence.false_days:
        yield Violation("days_not_ledger", day)


def told_is_billed(evidence: Evidence) -> Iterator[Violation]:
    """Require that the bill that a caller was told is that of the turn."""
    turns = {turn.id: turn for turn in evidence.turns}
    for told in (told for message in evidence.messages for told in message.told):
        turn = turns.get(told.turn_id)
        if told.bill is None or turn is None:
            continue
        if told.bill != (turn.input_tokens, turn.output_tokens, turn.cost_nanos):
            kept = (turn.input_tokens, turn.output_tokens, turn.cost_nanos)
            yield Violation("told_another_bill", told.turn_id, f"told {told.bill}, kept {kept}")


def bills_are_the_providers(evidence: Evidence) -> Iterator[Violation]:
    """Require that the provider's log has what the bills say, to the token and the nano-dollar."""
    answered = Counter(each.marker for each in evidence.asked if each.ended_at is not None and each.marker is not None)
    for marker, its in turns_by_marker(evidence).items():
        known = [turn for turn in its if turn.cost_nanos]
        usage = usage_of(marker)
        if any((turn.input_tokens, turn.output_tokens, turn.cost_nanos) != (*usage, nanos_of(usage)) for turn in known):
            yield Violation("bill_not_the_providers", marker, f"the provider counts {usage}")
        unknown = sum(_bill(turn).unpriced for turn in its)
        if not len(known) <= answered[marker] <= len(known) + unknown:
            yield Violation(
                "bill_lost", marker, f"{answered[marker]} answers: {len(known)} billed, {unknown} of an unknown cost"
            )


def budgets_settled(evidence: Evidence) -> Iterator[Violation]:
    """Require that nothing is reserved by turns that have ended, and that what they have cost is spent."""
    for period, its in _periods(evidence):
        held = sum(turn.reserved_nanos or 0 for turn in its if turn.status not in FINAL)
        ended = [turn for turn in its if turn.status in FINAL]
        spent, unpriced = sum(map(_counted, ended)), sum(_known(turn) is None for turn in ended)
        if period.reserved_nanos != held:
            yield Violation("reservation_left", _name(period), f"{period.reserved_nanos}, running turns hold {held}")
        if (period.spent_nanos, period.unpriced) != (spent, unpriced):
            counted = f"{period.spent_nanos} with {period.unpriced} unpriced"
            yield Violation("spent_not_bills", _name(period), f"{counted}, its turns {spent} with {unpriced}")


def limits_held(evidence: Evidence) -> Iterator[Violation]:
    """Require that a hard limit is exceeded only by what single turns cost beyond what they had reserved.

    When the last turn was let in, all had room: only turns that ended after it can exceed what they had reserved.
    """
    for period, all_ in _periods(evidence):
        its = [turn for turn in all_ if turn.reserved_nanos]
        if not period.hard or not its:
            continue
        last = max(turn.created_at for turn in its) - _WAITED
        # One of an unknown cost may have been billed at any time since.
        late = [turn for turn in its if turn.end_reason == "lease_expired" or (turn.ended_at or last) >= last]
        over = period.spent_nanos + period.reserved_nanos - period.limit_nanos - _overrun(late)
        if over > 0:
            yield Violation("limit_exceeded", _name(period), f"by {over} nano-dollars more than its turns can have")


def left_is_told(evidence: Evidence) -> Iterator[Violation]:
    """Require that every answer says what is left of one of its budgets, and of a hard one nothing impossible."""
    turns = {turn.id: turn for turn in evidence.turns}
    periods = {each: (period, _overrun(its)) for period, its in _periods(evidence) for each in period.slices}
    for message in evidence.messages:
        told = message.last
        turn = turns.get(told.turn_id) if told is not None and told.status in FINAL else None
        if told is None or turn is None or not turn.budget_periods or not told.saved:
            continue
        its, left = [periods[each] for each in turn.budget_periods if each in periods], told.left
        meant = [] if left is None else [overrun for period, overrun in its if _is_of(left, period)]
        if left is None or not meant:
            yield Violation("left_not_told", turn.id, f"told {left}")
        elif left.hard and left.nanos < -max(meant):
            yield Violation("left_below_overrun", turn.id, f"{left.nanos} nano-dollars left")


def refusals_true(evidence: Evidence) -> Iterator[Violation]:
    """Require that what a budget refuses is not asked, that it lacks what it says, and that it says when it renews."""
    asked = {each.marker for each in evidence.asked} | {turn.marker for turn in evidence.turns}
    for message in evidence.messages:
        if message.is_over_budget and message.marker in asked:
            yield Violation("refused_and_asked", message.marker)
        for text in _refusals(message):
            found = _REFUSAL.search(text)
            if found is None or not re.fullmatch(_RENEWS[found["period"]], found["renews"]):
                yield Violation("refusal_unclear", message.marker, text)
            elif _nanos(found["needed"]) <= _nanos(found["left"]):
                yield Violation("refused_with_room", message.marker, text)


def usage_is_true(evidence: Evidence) -> Iterator[Violation]:
    """Require that what `get_usage` told is what the ledger has, and what the provider's own log comes to."""
    turns = {turn.id: turn for turn in evidence.turns}
    answered = frozenset(each.marker for each in evidence.asked if each.ended_at is not None and each.marker)
    for told in evidence.usage:
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in evidence.entries:
            if entry.organization == told.organization and (told.whole or entry.user == told.user):
                groups[_group(entry, told.by)].append(entry)
        subject = f"{'organization' if told.whole else 'user'} by {told.by}"
        entered = {key: sum_of(entries) for key, entries in groups.items()}
        whole = sum_of(entry for entries in groups.values() for entry in entries)
        if told.groups != entered or told.total != whole:
            yield Violation("usage_not_ledger", subject, f"told {told}, entered {entered}")
        billed = {key: _billed(entries, turns, answered) for key, entries in groups.items()}
        if any(_cost(told.groups.get(key)) != cost for key, cost in billed.items()):
            yield Violation("usage_not_the_providers", subject, f"told {told}, by the provider's log {billed}")


def somebody_refused(evidence: Evidence) -> Iterator[Violation]:
    """Require that a budget refused somebody: else none was tried."""
    if not any(message.is_over_budget for message in evidence.messages):
        yield Violation("nobody_refused", "world", "no budget refused a message, so that none was tried")


def sum_of(entries: Iterable[Entry]) -> Sums:
    """Add entries up."""
    its = list(entries)
    return Sums(
        turns=sum(entry.kind == "turn" for entry in its),
        input_tokens=sum(entry.input_tokens for entry in its),
        output_tokens=sum(entry.output_tokens for entry in its),
        cost_nanos=sum(entry.cost_nanos for entry in its),
        unpriced=sum(entry.unpriced for entry in its),
    )


BOOKS: Sequence[Rule] = (
    ledger_is_bills,
    told_is_billed,
    bills_are_the_providers,
    budgets_settled,
    limits_held,
    left_is_told,
    refusals_true,
    usage_is_true,
)


def _bill(turn: Turn) -> Sums:
    is_final = turn.status in FINAL
    return Sums(
        turns=int(is_final),
        input_tokens=turn.input_tokens or 0,
        output_tokens=turn.output_tokens or 0,
        cost_nanos=turn.cost_nanos or 0,
        unpriced=int(turn.cost_nanos is None and turn.is_asked and is_final),
    )


def _periods(evidence: Evidence) -> Iterator[tuple[Period, list[Turn]]]:
    """Go through the periods of budgets, each with the turns that count in it."""
    found: dict[str, list[Turn]] = defaultdict(list)
    for turn in evidence.turns:
        for slice_ in turn.budget_periods:
            found[slice_].append(turn)
    for period in evidence.periods:
        yield period, [turn for slice_ in period.slices for turn in found[slice_]]


def _known(turn: Turn) -> int | None:
    """Return what a turn has cost; None where nobody knows."""
    return 0 if turn.cost_nanos is None and not turn.is_asked else turn.cost_nanos


def _counted(turn: Turn) -> int:
    """Return what a turn that has ended counts in its budgets: of an unknown cost, what it had reserved."""
    known, reserved = _known(turn), turn.reserved_nanos or 0
    return reserved if known is None else known


def _overrun(turns: Iterable[Turn]) -> int:
    """Return what turns have cost beyond what they had reserved."""
    return sum(max(0, _counted(turn) - (turn.reserved_nanos or 0)) for turn in turns if turn.status in FINAL)


def _is_of(left: Left, period: Period) -> bool:
    told = (left.scope, left.period, left.hard, left.renews_at)
    return told == (period.scope, period.period, period.hard, period.renews_at)


def _name(period: Period) -> str:
    hard = "hard" if period.hard else "soft"
    return f"{hard} {period.period} of {period.scope} until {period.renews_at}, {period.limit_nanos}"


def _refusals(message: Message) -> list[str]:
    return [refusal.text for refusal in message.refusals if refusal.is_for_budget]


def _nanos(written: str) -> Decimal:
    """Read an amount as refusals write it."""
    return Decimal(written.replace("$", "").replace(",", "")) * 1_000_000_000


def _group(entry: Entry, by: str) -> str:
    return {"agent": entry.agent, "day": entry.day, "member": entry.user or ""}[by]


def _billed(entries: Iterable[Entry], turns: Mapping[str, Turn], answered: Collection[str]) -> Cost:
    """Return what the provider took for the turns of entries whose cost is known: tokens and nano-dollars."""
    its = (turns.get(entry.turn_id) for entry in entries if entry.kind == "turn")
    usages = [usage_of(turn.marker) for turn in its if turn is not None and turn.cost_nanos and turn.marker in answered]
    said, wrote = sum(usage[0] for usage in usages), sum(usage[1] for usage in usages)
    return said, wrote, nanos_of((said, wrote))


def _cost(sums: Sums | None) -> Cost:
    return (0, 0, 0) if sums is None else (sums.input_tokens, sums.output_tokens, sums.cost_nanos)
