"""Which proxy leads to a provider: that of the environment, or of the system, as the standard library reads them."""

from urllib.request import getproxies, proxy_bypass

_ANY = "all"


def proxy_of(scheme: str, host: str) -> str | None:
    """Return the URL of the proxy for requests to a host, with its port, by this scheme; None if there is none."""
    known = getproxies()
    proxy = known.get(scheme) or known.get(_ANY)
    if not proxy or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
