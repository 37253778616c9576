"""Placeholders that nobody filled in: clients pass on what they do not know, as in `Bearer ${input:token}`."""

import re

# Each with how it is called. Those that a secret could hold by chance count only as the whole, or between the marks of
# a URL.
_FORMS = (
    ("${...}", re.compile(r"\$\{[^{}]*\}")),
    ("{{...}}", re.compile(r"\{\{[^{}]+\}\}")),
    ("<...>", re.compile(r"(?:\A|[/:@=])<[A-Za-z][\w .-]*>(?:\Z|[/:@?&])")),
    ("{env:...}", re.compile(r"\{(?:env|file):[^{}]+\}")),
    ("$env:NAME", re.compile(r"\A\$env:\w+\Z", re.IGNORECASE)),
    ("$(...)", re.compile(r"\A\$\(.+\)\Z", re.DOTALL)),
    ("$NAME", re.compile(r"\A\$[A-Z_][A-Z0-9_]*\Z")),
    ("%NAME%", re.compile(r"\A%[A-Z_][A-Z0-9_]*%\Z")),
)


def unfilled(text: str) -> str | None:
    """Say of a secret or a URL that it is none but a placeholder, as a predicate that does not quote it; else None."""
    form = next((name for name, form in _FORMS if form.search(text)), None)
    if form is None:
        return None
    return f"is a placeholder of the form {form}, in whose place nobody put the value"
