"""Which proxy leads to a provider: that of the environment, or of the system, as the standard library reads them."""

from urllib.request import getproxies, proxy_bypass

import httpx2

_ANY = "all"


def proxy_of(url: httpx2.URL) -> str | None:
    """Return the URL of the proxy for a request, None if there is none."""
    known = getproxies()
    proxy = known.get(url.scheme) or known.get(_ANY)
    if not proxy or proxy_bypass(url.netloc.decode("ascii")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
