"""What stands for a secret or an address, and what is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.placeholders import unfilled

NAMES = st.from_regex(r"\A[A-Z][A-Z0-9_]{0,20}\Z")
# Of the letters that keys have; base64 and hexadecimal digits, and the marks that generators of passwords put in.
SECRETS = st.text(alphabet="abcXYZ019+/=_-.~!#%&*<>$ ", min_size=1, max_size=80)


@given(NAMES)
def test_each_form_of_each_client_is_known(name: str) -> None:
    for form, text in (
        ("${...}", f"${{{name}}}"),
        ("${...}", f"${{input:{name.lower()}}}"),
        ("${...}", f"${{env:{name}}}"),
        ("${...}", f"${{{name}:-}}"),
        ("${...}", f"postgresql://app:${{{name}}}@db.example/app"),
        ("${...}", f"https://${{{name}}}/v1"),
        ("{{...}}", f"{{{{{name}}}}}"),
        ("{{...}}", f"{{{{ secrets.{name} }}}}"),
        ("<...>", f"<{name}>"),
        ("<...>", "<your key>"),
        ("<...>", f"https://<{name}>/v1"),
        ("<...>", f"postgresql://app:<{name}>@db.example/app"),
        ("{env:...}", f"{{env:{name}}}"),
        ("{env:...}", f"{{file:./{name}}}"),
        ("{env:...}", f"https://{{env:{name}}}/v1"),
        ("$env:NAME", f"$env:{name}"),
        ("$env:NAME", f"$Env:{name}"),
        ("$(...)", f"$(cat {name})"),
        ("$NAME", f"${name}"),
        ("%NAME%", f"%{name}%"),
    ):
        said = unfilled(text)
        assert said is not None, text
        assert f"of the form {form}," in said
        assert name not in said.replace(form, "")  # what stands there may be a secret for all that


@given(SECRETS)
def test_a_secret_is_taken_for_none(secret: str) -> None:
    if not (secret.startswith(("<", "$", "%")) or any(f"{mark}<" in secret for mark in "/:@=")):
        assert unfilled(secret) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "sk-or-v1-0123", "a$b", "pa$$word", "$ecret-of-ours", "$1", "100%", "%41%42", "<", "a<b>c", "{a}", "$"),
        *("{env:}", "$env:"),
        *("https://host/v1?x={y}", "postgresql://u:p%24%7BX%7D@h/db", "redis://:p@localhost:6379/0", "$(", "${", "}{"),
    ],
)
def test_what_only_looks_like_one_is_none(text: str) -> None:
    assert unfilled(text) is None
