"""Make the list of prices that comes with the program from the public list genai-prices, and compare it with litellm's.

Both are downloaded from the package index, at the versions and hashes below, and never installed. To take newer ones,
change these lines (`pip download --no-deps` and `pip hash` tell the hashes), and run `make prices`.
"""  # noqa: INP001  # a script

import importlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.support.price_facts import faults_of

from agentapi_mcp.base.money import RATES
from agentapi_mcp.core.catalogue.price_list import COLUMNS, FILE, parse_prices

GENAI_PRICES = ("genai-prices", "0.2.3", "56976ce2b04ec206117f7d0e53f4849211a6724ab3a12119afec304eba63ee25")
LITELLM = ("litellm", "1.110.2", "9d94d1c7d524b6fd10c14f9c8c6c4f0ac31705f9964ac59dcfd8337c046d8917")
LITELLMS_LIST = "litellm/model_prices_and_context_window_backup.json"

# Left out: models whose names the operator chooses, what is paid by subscription or in units of its own, and a router
# whose providers have names of their own.
NOT_LISTED = re.compile(r"azure|cursor|github-copilot|databricks|huggingface_.*|openai-decisions|elevenlabs|voyageai")
KEYS = dict(
    zip(
        RATES,
        (
            *("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok"),
            "output_reasoning_mtok",
        ),
        strict=True,
    )
)
# What a conversation in text does not use. With any other price, such as one for each request or of images that are
# answered, the rates of tokens do not tell what a model costs.
UNUSED = re.compile(r"(?:input|cache)_(?:audio|image|video).*|web_searches_kcount|storage_searches_kcount")
# Vertex AI's compatible endpoint takes Google's models by these names alone.
GOOGLES = re.compile(r"(?:gemini|gemma)-")
DATED = re.compile(r"[-@]20\d\d-?\d\d-?\d\d$")
OF_A_CLOUD = re.compile(r"^(?:[\w.-]*/)*(?:[\w-]+\.)*(?=claude-)|-v\d+(?::\d+)?$")
# The beginning of ids, which is none itself.
YEAR = re.compile(r"(?<!-\d\d)-20\d\d$")
LITELLMS_NAMES = {
    **dict.fromkeys(("gemini", "vertex_ai-language-models"), "google"),
    "xai": "x-ai",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "together_ai": "together",
    "moonshot": "moonshotai",
    "fireworks_ai": "fireworks",
    "cohere_chat": "cohere",
}


def download(package: tuple[str, str, str], to: Path) -> Path:
    """Download a wheel, and return where it is."""
    name, version, sha256 = package
    wanted = to / f"{name}.txt"
    wanted.write_text(f"{name}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes")
    subprocess.run([*pip, "-r", str(wanted), "-d", str(to)], check=True)  # noqa: S603  # no shell
    return next(to.glob(f"{name.replace('-', '_')}-*.whl"))


def ids_of(model: Any, provider: Any, dated: dict[str, set[tuple[Decimal, ...]]]) -> list[str]:  # noqa: ANN401  # of a package that is not installed
    """List the exact ids of a model: its own and those of the list's rules, where the list finds this model by them.

    An id with a date that a rule covers and does not name is one where litellm has it at this price.
    """
    now = model.get_prices(datetime.now(UTC))
    costs = [_rate(price, 0) for price in (now.input_mtok, now.output_mtok)]
    agreed = {each for each, known in dated.items() if any([_text(one) for one in cost] == costs for cost in known)}
    known = {model.id, *_texts(model.match), *agreed}
    found = {each.lower() for each in known if provider.find_model(each) is model and each[-1].isalnum()}
    if provider.id == "google":
        found |= {f"google/{each}" for each in found if GOOGLES.match(each)}
    return sorted(each for each in found if not YEAR.search(each))


def dated_of(theirs: dict[str, dict[str, list[Decimal]]], provider: str) -> dict[str, set[tuple[Decimal, ...]]]:
    """Return what a million tokens cost by litellm, for input and for output, by ids with a date.

    They are the provider's own, and those that clouds have from the vendors, as vendors write them: without a region
    and the vendor before an id, and a version behind it. Vertex AI writes `@` before the date.
    """
    found: dict[str, set[tuple[Decimal, ...]]] = {}
    for name, models in theirs.items():
        for each, costs in models.items():
            plain = OF_A_CLOUD.sub("", each)
            date = DATED.search(plain)
            if date is not None and "/" not in plain and name != provider:
                sign = "@" if provider == "google" else "-"
                found.setdefault(f"{plain[: date.start()]}{sign}{plain[date.start() + 1 :]}", set()).add(tuple(costs))
            elif name == provider and DATED.search(each):
                found.setdefault(each, set()).add(tuple(costs))
    return found


def _texts(match: Any) -> Iterator[str]:  # noqa: ANN401  # as above
    for name in ("equals", "starts_with"):
        if (text := getattr(match, name, None)) is not None:
            yield text
    for each in getattr(match, "or_", ()):
        yield from _texts(each)


def rows_of(model: Any) -> list[list[str]]:  # noqa: ANN401  # as above
    """Return the rows of a model without provider and id, or none if its prices are not those of text alone."""
    days = sorted({each.constraint.start_date for each in _conditions(model) if hasattr(each.constraint, "start_date")})
    periods: list[tuple[str, str, list[list[str]]]] = []
    for since, until in zip((None, *days), (*days, None), strict=True):
        cells = _by_hour(model, since or date(2000, 1, 1))
        if cells is None:
            return []
        first, end = ("" if day is None else day.isoformat() for day in (since, until))
        if periods and periods[-1][2] == cells:  # the same prices go on
            first = periods.pop()[0]
        periods.append((first, end, cells))
    window = "" if model.context_window is None else str(model.context_window)
    return [[first, end, *cell, window] for first, end, cells in periods for cell in cells]


def _by_hour(model: Any, day: date) -> list[list[str]] | None:  # noqa: ANN401  # as above
    """Return hours, bound and rates of a day."""
    found: list[tuple[str, str, list[list[str]]]] = []
    for at, end in _hours(model):
        first, tiers = f"{at:%H:%M}", _tiers(model.get_prices(datetime.combine(day, at, UTC)))
        if tiers is None:
            return None
        if found and found[-1][2] == tiers:
            first = found.pop()[0]
        found.append((first, end, tiers))
    return [["" if len(found) == 1 else f"{first}-{end}", *tier] for first, end, tiers in found for tier in tiers]


def _conditions(model: Any) -> list[Any]:  # noqa: ANN401  # as above
    return model.prices if isinstance(model.prices, list) else []


def _hours(model: Any) -> Iterator[tuple[time, str]]:  # noqa: ANN401  # as above
    by_hour = [each.constraint for each in _conditions(model) if hasattr(each.constraint, "start_time")]
    ends = {bound.replace(tzinfo=None) for each in by_hour for bound in (each.start_time, each.end_time)}
    bounds = sorted({time(0), *ends})
    yield from zip(bounds, (*(f"{bound:%H:%M}" for bound in bounds[1:]), "24:00"), strict=True)


def _tiers(prices: Any) -> list[list[str]] | None:  # noqa: ANN401  # as above
    given = {name: price for name, price in vars(prices).items() if price is not None}
    unknown = [name for name in given if name not in KEYS.values() and not UNUSED.fullmatch(name)]
    if unknown or not {"input_mtok", "output_mtok"} <= given.keys():
        return None
    starts = sorted({tier.start for price in given.values() for tier in getattr(price, "tiers", ())})
    return [[str(start or ""), *(_rate(given.get(key), start) for key in KEYS.values())] for start in (0, *starts)]


def _rate(price: Any, start: int) -> str:  # noqa: ANN401  # as above
    if price is None:
        return ""
    found = getattr(price, "base", price)
    for tier in getattr(price, "tiers", ()):
        found = tier.price if tier.start <= start and start else found
    return _text(Decimal(found))


def _text(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def made(providers: Any, theirs: dict[str, Any], on: date) -> tuple[str, list[str]]:  # noqa: ANN401  # as above
    """Return the list, and what was left out of it."""
    lines: list[tuple[str, ...]] = []
    left: list[str] = []
    costs = costs_of(theirs)
    for provider in providers:
        if NOT_LISTED.fullmatch(provider.id):
            continue
        taken, dated = dict[str, str](), dated_of(costs, provider.id)
        for model in provider.models:
            rows = rows_of(model)
            if not rows:
                left.append(f"{provider.id} {model.id}")
            for name in ids_of(model, provider, dated) if rows else ():
                if name in taken or any(sign in name for sign in ',"\n'):
                    sys.exit(f"{provider.id} has {name} twice, or with a sign that the list cannot hold")
                taken[name] = model.id
                lines += [(provider.id, name, *row) for row in rows]
    order = {line: number for number, line in enumerate(lines)}
    lines.sort(key=lambda line: (line[0], line[1], order[line]))
    head = f"{GENAI_PRICES[0]},{GENAI_PRICES[1]},{on.isoformat()}\n{','.join(COLUMNS)}\n"
    return head + "".join(f"{','.join(line)}\n" for line in lines), left


def differences(text: str, theirs: dict[str, Any], now: datetime) -> tuple[int, list[str]]:
    """Compare the prices of a moment with litellm's: how many models both have, and where they differ."""
    ours, both, differ = parse_prices(text), 0, list[str]()
    for provider, models in costs_of(theirs).items():
        for name, costs in models.items():
            if (found := ours.prices(provider, name, now)) is None:
                continue
            both += 1
            pairs = list(zip((found.input, found.output), costs, strict=True))
            if any(one != other for one, other in pairs):
                said = " and ".join(f"{one} (litellm: {_text(other)})" for one, other in pairs)
                differ.append(f"{provider} {name}: {said}")
    return both, differ


def costs_of(theirs: dict[str, Any]) -> dict[str, dict[str, list[Decimal]]]:
    """Return what a million tokens cost by litellm, for input and for output, by provider and exact id."""
    found: dict[str, dict[str, list[Decimal]]] = {}
    for key, facts in sorted(theirs.items()):
        provider = facts.get("litellm_provider", "")
        costs = [facts.get("input_cost_per_token"), facts.get("output_cost_per_token")]
        if facts.get("mode") == "chat" and None not in costs:
            # Theirs are floats by token: 3.0000000000000004e-07 is a price, too.
            exact = [round(Decimal(str(cost)) * 1_000_000, 6) for cost in costs]
            models = found.setdefault(LITELLMS_NAMES.get(provider, provider), {})
            models[key.removeprefix(f"{provider}/").lower()] = exact
    return found


def main() -> None:
    """Write the list, and print what was left out and where the two lists differ."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sys.path.insert(0, str(download(GENAI_PRICES, folder)))  # a wheel of Python alone can be imported as it is
        providers = importlib.import_module("genai_prices.data").providers
        with zipfile.ZipFile(download(LITELLM, folder)) as wheel:
            theirs = json.loads(wheel.read(LITELLMS_LIST))
        now = datetime.now(UTC)
        text, left = made(providers, theirs, now.date())
        if faults := faults_of(text):
            sys.exit("\n".join(faults))
        FILE.write_text(text, encoding="utf-8")
        both, differ = differences(text, theirs, now)
    names = Counter(line.split(",", 1)[0] for line in text.splitlines()[2:])
    print(f"{FILE.name}: {sum(names.values()):,} rows of {len(names)} providers.")  # noqa: T201  # its report
    print(f"Left out, since text alone does not tell their price: {len(left)}: {', '.join(left)}.")  # noqa: T201  # as above
    print(f"litellm {LITELLM[1]} has {both} of them, and other prices of {len(differ)}:", *differ, sep="\n- ")  # noqa: T201  # as above


if __name__ == "__main__":
    main()
