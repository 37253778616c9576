"""What a measurement came to, beside its bound."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    what: str
    measured: str
    bound: str
    holds: bool

    def row(self) -> str:
        """Return it as a row of Markdown."""
        return f"| {self.what} | {self.measured} | {self.bound} | {'yes' if self.holds else '**no**'} |"


def milliseconds(seconds: float) -> str:
    """Write a time."""
    return f"{seconds * 1000:.1f} ms"
