"""A browser as far as a page needs one: cookies, redirects, and a form that is sent from where it was shown."""

import html
import re
from dataclasses import dataclass, field
from http.cookies import SimpleCookie

import httpx2

_FORM = re.compile(r'<form method="post" action="([^"]*)"[^>]*>(.*?)</form>')
_HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')
_BUTTON = re.compile(r"<button>([^<]*)</button>")


@dataclass(frozen=True)
class Form:
    """A form of a page, with the fields that its visitor does not see."""

    action: str
    fields: dict[str, str]
    button: str


def forms_of(page: httpx2.Response) -> list[Form]:
    """Read the forms of a page."""
    found: list[Form] = []
    for action, body in _FORM.findall(page.text):
        fields = {name: html.unescape(value) for name, value in _HIDDEN.findall(body)}
        found.append(Form(html.unescape(action), fields, html.unescape(_BUTTON.findall(body)[0])))
    return found


@dataclass
class Browser:
    """One person's; `origin` is what it takes for the address of the server that listens at `base`."""

    http: httpx2.AsyncClient
    origin: str
    base: str
    cookies: dict[str, str] = field(default_factory=dict[str, str])
    place: str = ""

    async def open(self, url: str) -> httpx2.Response:
        """Open an address, and go where it leads."""
        for _ in range(9):
            answer = await self.step(url)
            if not answer.has_redirect_location:
                return answer
            url = answer.headers["location"]
        raise AssertionError(url)

    async def step(self, url: str) -> httpx2.Response:
        """Open an address alone."""
        self.place = url if "://" in url else self.origin + url
        return self._keep(await self.http.get(self._real(self.place), headers=self._headers()))

    async def send(self, page: httpx2.Response, key: str, origin: str | None = None, **changed: str) -> httpx2.Response:
        """Fill in the form of a page, send it, and go where that leads."""
        shown = forms_of(page)
        form = shown[0] if shown else Form("/keys/enter", {}, "")
        answer = await self.submit(form, origin, key=key, **changed)
        return await self.open(answer.headers["location"]) if answer.has_redirect_location else answer

    async def submit(self, form: Form, origin: str | None = None, **changed: str) -> httpx2.Response:
        """Send a form with these fields beside its own, and do not go where the answer leads."""
        self.place = self.origin + form.action
        headers = self._headers() | {"origin": self.origin if origin is None else origin}
        url = self._real(self.place)
        return self._keep(await self.http.post(url, data={**form.fields, **changed}, headers=headers))

    def _real(self, url: str) -> str:
        return self.base + url.removeprefix(self.origin) if url.startswith(self.origin) else url

    def _headers(self) -> dict[str, str]:
        said = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {"cookie": said} if said and self.place.startswith(self.origin) else {}

    def _keep(self, answer: httpx2.Response) -> httpx2.Response:
        for line in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                assert morsel["httponly"]
                assert morsel["secure"]
                assert morsel["samesite"].lower() == "lax"
                if morsel.value:
                    # It is forgotten with the window: the next person at a shared computer is in no visit of this one.
                    assert (morsel["max-age"], morsel["expires"]) == ("", "")
                    self.cookies[name] = morsel.value
                else:
                    self.cookies.pop(name, None)
        return answer
