"""Forms that pages of ours send."""

from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.requests import Request

from agentapi_mcp.base.errors import InvalidRequestError, PermissionDeniedError
from agentapi_mcp.base.origins import Origin

_MOST_FIELDS = 10


async def own_form(request: Request, origin: str) -> Mapping[str, str]:
    """Read the fields of a form that a page of this origin sent; whether it is of this visit, its token says.

    Raises:
        PermissionDeniedError: another page sent it.
        InvalidRequestError: it is no form.
    """
    # Beside the form's token: browsers send Origin with every POST.
    if Origin.parse(request.headers.get("origin", "")) != Origin.parse(origin):
        raise PermissionDeniedError("This form was not sent from this page; open the page again.")
    try:
        fields = parse_qs((await request.body()).decode("ascii"), max_num_fields=_MOST_FIELDS)
    except ValueError as exc:
        raise InvalidRequestError("This is no form of this page.") from exc
    return {name: values[0] for name, values in fields.items()}
