"""The commands that the pages show, with what each is said to print, and why some cannot be run as they are."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^( *)```(console|sh)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r" +# .*$")

# Command of a page, as a regular expression over "page: command" -> the test that runs it another way, or why none can.
NOT_RUN = {
    r"README.md: (git clone|cd) |getting-started.md: (git|cd) ": "needs the address of the repository",
    r"[^:]*: (echo .* \| )?make (run|test|check)\b": "sets up an environment from a package index",
    r"(performance|reliability).md: make ": "measures for minutes",
    r"[^:]*: (export PATH=|eval |agentapi-mcp completion )": "changes the shell that it is typed into",
    r"[^:]*: (claude|docker|npm|gcloud|ccr|lms|ollama|vllm) ": "is a program of others",
    r"backends/droid.md: npm ": "is a program of others",
    r"how-to/deploy.md: (cp|python3|install|systemctl) ": "changes the machine",
    r"how-to/deploy.md: export AGENTAPI_(BEARER|TRUSTED)": "tests/acceptance/test_deployment_pages.py",
    r"how-to/own-keys.md: agentapi-mcp secrets generate ": "shows three ways of which one is taken",
    r"[^:]*: agentapi-mcp serve\b": "tests/acceptance/test_serve.py",
    r"how-to/serve.md: (curl|SESSION=)": "tests/acceptance/test_serve.py",
    r"supabase.md: ": "tests/stores/postgres/test_supabase_page.py",
    r"how-to/use-your-own-postgres.md: ": "tests/stores/postgres/test_own_postgres_page.py",
    r"how-to/backup-and-uninstall.md: (pg_|psql)": "dumps by Postgres' own programs",
    r"[^:]*: agentapi-mcp (restore|move|reset|uninstall)\b": "tests/acceptance/test_backups.py",
    r"[^:]*: agentapi-mcp backup .*--with-keys": "tests/acceptance/test_backups.py",
    r"commands.md: agentapi-mcp migrate --dry-run --grant": "tests/stores/postgres/test_existing_commands.py",
    r"commands.md: agentapi-mcp migrate --grant-to": "tests/stores/postgres/test_own_postgres_page.py",
    r"commands.md: agentapi-mcp: failed": "tests/acceptance/test_chat_ways.py",
    r"[^:]*: agentapi-mcp chat( --continue| --agent droid)?$": "tests/acceptance/test_chat_prompt.py",
    r"[^:]*: agentapi-mcp agents (add \w|remove)": "tests/acceptance/test_agents_add.py",
    r"commands.md: agentapi-mcp sessions list --cursor": "tests/acceptance/test_json_output.py",
    r"commands.md: agentapi-mcp models sync": "tests/acceptance/test_agents_add.py",
    r"[^:]*: agentapi-mcp (rate|tag|archive)\b": "tests/acceptance/test_said_commands.py",
    r"[^:]*: agentapi-mcp budgets (remove|.*--(user|key|org) )": "tests/acceptance/test_budget_commands.py",
    r"[^:]*: agentapi-mcp accounts (connect|disconnect)": "tests/acceptance/test_accounts.py",
    r"[^:]*: agentapi-mcp budgets (set .* --(user|key) |plan |remove )": "tests/stores/postgres/test_budgets.py",
    r"commands.md: agentapi-mcp members (role|remove)": "tests/acceptance/test_organizations.py",
    r"commands.md: agentapi-mcp turns cancel": "tests/acceptance/test_terminal.py",
    r"how-to/gemini-through-claude-code-router.md: agentapi-mcp": "tests/acceptance/test_ccrouter.py",
    r"how-to/(sign-in|serve).md: agentapi-mcp tokens create bo ": "tests/acceptance/test_tokens.py",
}


@dataclass(frozen=True)
class Sample:
    """A command as a page shows it, without the comment behind it, and the lines that it is said to print."""

    page: str
    command: str
    block: int
    shown: tuple[str, ...] = ()

    @property
    def reason(self) -> str | None:
        """Why it is not run as it is."""
        where = f"{self.page}: {self.command}"
        return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, where)), None)


def read_samples() -> list[Sample]:
    """Read the commands of all pages, in their order; a block of shell script is one."""
    return [sample for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] for sample in _of(page)]


def _of(page: Path) -> list[Sample]:
    name = page.name if page.parent == ROOT else str(page.relative_to(ROOT / "docs"))
    found: list[Sample] = []
    for number, (indent, kind, block) in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8"))):
        lines = [line.removeprefix(indent) for line in block.splitlines()]
        if kind == "sh":
            found.append(Sample(name, "\n".join(lines), number))
            continue
        for place, line in enumerate(lines):
            if line.startswith("$ ") or place == 0:
                found.append(Sample(name, _COMMENT.sub("", line.removeprefix("$ ")), number))
            else:
                found[-1] = Sample(name, found[-1].command, number, (*found[-1].shown, line))
    return found
