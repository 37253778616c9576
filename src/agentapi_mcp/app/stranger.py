"""This server as a stranger meets it at its resource URL: its metadata, its challenge, and the proxy in front of it."""

import shlex
from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from agentapi_mcp.auth.fetching import FetchError
from agentapi_mcp.auth.probing import ProbeAnswer, Prober, open_prober
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.json_values import as_list, as_object, is_object, load_json
from agentapi_mcp.base.text import one_line
from agentapi_mcp.web.forwarding import PROXY_PART
from agentapi_mcp.web.oauth import metadata_url

_PING = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
_LONGEST = 200
_LOCAL = "http://127.0.0.1:8000"  # where `serve` is reached if nothing else is said


async def check_resource(resource: str, issuers: Sequence[str]) -> None:
    """Ask a resource URL for its metadata, and for the challenge that leads a stranger to it.

    Raises:
        ConfigurationError: what answers there is not this server as it is configured, or it lets strangers in.
    """
    async with open_prober() as prober:
        try:
            await _check_metadata(prober, resource, issuers)
            await _check_challenge(prober, resource)
        except FetchError as exc:
            raise ConfigurationError(f"{exc}.") from exc


async def has_unknown_proxy(origin: str | None) -> bool | None:
    """Ask a server whether a proxy that it does not trust forwards requests to it; None if none of ours answers.

    Without an origin, the one that `serve` has by default is asked.
    """
    async with open_prober() as prober:
        try:
            answer = await prober.ask("GET", f"{origin or _LOCAL}/readyz")
        except FetchError:
            return None
    report = _json_object(answer)
    if report is None or not isinstance(report.get("status"), str):
        return None
    return PROXY_PART in as_list(report.get("warnings"))


async def _check_metadata(prober: Prober, resource: str, issuers: Sequence[str]) -> None:
    url = metadata_url(resource)
    answer = await prober.ask("GET", url)
    document = _json_object(answer)
    if answer.status != HTTPStatus.OK or document is None or "resource" not in document:
        raise _answered_otherwise(url, answer)
    if document["resource"] != resource:
        raise ConfigurationError(
            f"{url} is the metadata of {one_line(str(document['resource']), _LONGEST)}, not of {resource}: another "
            "server answers there, or this one was started with another address."
        )
    served = [one_line(str(name), _LONGEST) for name in as_list(document.get("authorization_servers"))]
    if set(served) != set(issuers):
        other = ConfigurationError(
            f"{url} names the issuers {', '.join(served) or 'none'}, and the configuration file declares "
            f"{', '.join(issuers)}: the server runs with another file, or was started before that was written."
        )
        other.add_note("export AGENTAPI_CONFIG=...")
        raise other


async def _check_challenge(prober: Prober, resource: str) -> None:
    answer = await prober.ask("POST", resource, _PING)
    challenge = answer.headers.get("www-authenticate", "")
    if answer.status == HTTPStatus.UNAUTHORIZED and f'resource_metadata="{metadata_url(resource)}"' in challenge:
        return
    if answer.status == HTTPStatus.UNAUTHORIZED:
        raise ConfigurationError(
            f"{resource} refuses a stranger without saying where to sign in: something before the server asks for a "
            f"token of its own, or takes WWW-Authenticate away."
        )
    if answer.status < HTTPStatus.MULTIPLE_CHOICES:
        raise ConfigurationError(f"{resource} lets in a stranger without a token.")
    raise _answered_otherwise(resource, answer)


def _answered_otherwise(url: str, answer: ProbeAnswer) -> ConfigurationError:
    """Return the error for an answer that is not this server's, with a note of the line that mends it."""
    error = ConfigurationError(f"{url} {_other_answer(answer)}")
    if answer.status == HTTPStatus.MISDIRECTED_REQUEST:
        error.add_note(f"agentapi-mcp serve --allowed-host {shlex.quote(urlsplit(url).hostname or 'HOST')}")
    return error


def _other_answer(answer: ProbeAnswer) -> str:
    """Say what an answer means that is not this server's, as a predicate of the address."""
    match answer.status:
        case HTTPStatus.MISDIRECTED_REQUEST:
            return "is answered 421: the server does not know this host."
        case HTTPStatus.NOT_FOUND:
            return (
                "is answered 404: the server was started without AGENTAPI_RESOURCE_URL, or a proxy does not pass this "
                "path on."
            )
        case HTTPStatus.BAD_GATEWAY | HTTPStatus.SERVICE_UNAVAILABLE | HTTPStatus.GATEWAY_TIMEOUT:
            return f"is answered {answer.status}: nothing serves behind the proxy, or not yet."
        case status if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            place = one_line(answer.headers.get("location", "another place"), _LONGEST)
            return f"redirects to {place}, which clients do not follow: serve it there."
        case HTTPStatus.OK:
            return "is answered by another program."
        case status:
            return f"is answered {status}: something else answers there."


def _json_object(answer: ProbeAnswer) -> dict[str, object] | None:
    try:
        document = load_json(answer.body)
    except (ValueError, RecursionError):
        return None
    return as_object(document) if is_object(document) else None
