"""A catalogue file says what it says, or is refused with file, line and reason."""

import re
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.base.money import Prices, Tier
from agentapi_mcp.core.access.models import Newcomers, Service, SubjectIs
from agentapi_mcp.core.catalogue.models import AgentDeclaration, CatalogueFile, ModelDeclaration
from agentapi_mcp.core.identity.principals import Role
from agentapi_mcp.stores.local.catalogue_files import DEFAULTS, FILE_NAME, catalogue_paths, load_catalogue

SECRET = "sk-or-v1-do-not-tell"  # noqa: S105  # the test looks for it everywhere

AGENT = '[agents.a]\nbackend = "openai"\n'
MODEL = AGENT + '[[agents.a.models]]\nname = "m"\nmodel_id = "m"\nprovider = "p"\n'
PRICES = MODEL + "[agents.a.models.prices]\ninput = 1\n"
TIER = "[[agents.a.models.prices.tiers]]\n"
ACCOUNT = '[[accounts]]\nname = "google"\nkind = "google"\nclient_id = "c"\n'
SERVICE = '[[issuers]]\nissuer = "https://a.example"\n[[issuers.services]]\nclient_id = "nightly"\n'
ORG = 'organization = "b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10"\n'


def known() -> tuple[str, ...]:
    return ("anthropic", "ccrouter", "droid", "guide", "openai")


def load(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> CatalogueFile:
    path = folder / FILE_NAME
    path.write_text(text, encoding="utf-8")
    return load_catalogue([path], environ or {}, known)


def test_every_key_is_read(tmp_path: Path) -> None:
    file = load(
        tmp_path,
        """
        [agents.house]
        backend = "openai"
        description = "Ours."
        instructions = "Be brief."
        enabled = false
        default_model = "small"
        abandon_after_seconds = 90
        [agents.house.options]
        base_url = "http://127.0.0.1:11434/v1"
        idle_timeout_seconds = 2.5
        [[agents.house.models]]
        name = "small"
        model_id = "vendor/small-1"
        provider = "vendor"
        display_name = "Small"
        description = "The small one."
        enabled = false
        context_window = 8_192
        max_output_tokens = 1_024
        prices = { input = 0.1, output = 3, cached_input = 0.025, source = "vendor.example", on = 2026-07-02 }
        [[agents.house.models]]
        name = "large"
        model_id = "vendor/large-1"
        provider = "vendor"
        [agents.house.models.prices]
        input = 1
        output = 2
        cache_write = 1.25
        cache_write_1h = 2
        reasoning = 3
        tiers = [{ above = 200_000, input = 4, output = 5, cached_input = 0.5 }]
        """,
    )
    assert file.agents == (
        AgentDeclaration(
            name="house",
            backend="openai",
            description="Ours.",
            instructions="Be brief.",
            enabled=False,
            default_model="small",
            abandon_after=timedelta(seconds=90),
            options={"base_url": "http://127.0.0.1:11434/v1", "idle_timeout_seconds": 2.5},
            models=(
                ModelDeclaration(
                    name="small",
                    model_id="vendor/small-1",
                    provider="vendor",
                    display_name="Small",
                    description="The small one.",
                    enabled=False,
                    context_window=8192,
                    max_output_tokens=1024,
                    prices=Prices(
                        input=Decimal("0.1"),
                        output=Decimal(3),
                        cached_input=Decimal("0.025"),
                        source="vendor.example",
                        on=date(2026, 7, 2),
                    ),
                ),
                ModelDeclaration(
                    name="large",
                    model_id="vendor/large-1",
                    provider="vendor",
                    prices=Prices(
                        input=Decimal(1),
                        output=Decimal(2),
                        cache_write=Decimal("1.25"),
                        cache_write_1h=Decimal(2),
                        reasoning=Decimal(3),
                        tiers=(Tier(above=200_000, input=Decimal(4), output=Decimal(5), cached_input=Decimal("0.5")),),
                    ),
                ),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (AGENT + "this is no toml\n", 3, "Expected '='"),
        ('[agents.a]\nbackend = "openai', 2, "string"),
        (AGENT + '\n[agents.a]\nbackend = "guide"\n', 4, "twice"),
        ('colour = "red"\n', 1, "unknown key 'colour'; there are: use_defaults, issuers, accounts, roles, agents"),
        ('# one\n[agents.a]\nbackend = "openai"\nbakend = "x"\n', 4, "unknown key 'bakend'"),
        (
            '[agents.a]\ndescription = "x"\nbakend = "openai"\n',
            3,
            "unknown key 'bakend'; there are: backend, description, instructions, enabled",
        ),
        (AGENT + '[agents.a.otherwise]\nbackend = "guide"\nmodel = "x"\n', 5, "'model'; there are: backend, options"),
        (AGENT + '[agents.a.otherwise]\nbackend = "nonesuch"\n', 4, "there is no backend 'nonesuch'"),
        (AGENT + '[agents.a.otherwise]\nbackend = "openai"\n', 4, "must be another backend than the agent's own"),
        (AGENT + '[agents.a.otherwise]\nbackend = "guide"\noptions = { x = "${" }\n', 5, "'${' must be followed by"),
        ('[[issuers]]\nissuer = "http://auth.example.com"\n', 2, "must be an https address"),
        ('[[issuers]]\nissuer = "https://a.example"\nalgorithms = ["HS256"]\n', 3, "a shared secret verifies nobody"),
        ('[[issuers]]\nissuer = "https://a.example"\nkeys = 1\n', 3, "unknown key 'keys'; there are: issuer, kind"),
        ('[[issuers]]\nissuer = "https://a.example"\nnewcomers = "all"\n', 3, "'newcomers' must be"),
        ('[[issuers]]\nissuer = "https://a.example"\ndomains = { "x.example" = "acme" }\n', 3, "must be an id such as"),
        ('[[issuers]]\nissuer = "https://a.example"\n' * 2, 4, "a second issuer"),
        (
            ACCOUNT + 'client = "x"\n',
            5,
            "unknown key 'client'; there are: name, kind, issuer, client_id",
        ),
        ('[[accounts]]\nname = "v"\nkind = "oauth"\nclient_id = "c"\n', 3, "needs an 'issuer'"),
        ('[[accounts]]\nname = "v"\nkind = "google"\n', 3, "needs a 'client_id'"),
        ('[[accounts]]\nname = "v"\nkind = "saml"\n', 3, "'kind' must be"),
        ('[[accounts]]\nname = "v"\nkind = "openrouter"\nscopes = []\n', 4, "'scopes' is not used"),
        (ACCOUNT + 'issuer = "http://v.example"\n', 5, "must be an https address"),
        (ACCOUNT + 'scopes = ["two words"]\n', 5, "is no name"),
        (ACCOUNT + 'client_secret = "${NOT_SET_HERE}"\n', 5, "NOT_SET_HERE is not set"),
        (ACCOUNT * 2, 6, "a second account 'google'"),
        (AGENT + 'needs_account = "google"\n', 3, "there is no [[accounts]] with the name 'google'"),
        (SERVICE + 'org = "x"\n', 5, "unknown key 'org'; there are: client_id, subject, organization, role, name"),
        (SERVICE, 3, "'organization' is missing"),
        (SERVICE + 'organization = "acme"\n', 5, "must be an id such as"),
        (SERVICE + ORG + 'role = "boss"\n', 6, "'role' must be"),
        (SERVICE + ORG + 'subject = "x"\n', 3, "either a 'client_id' or a 'subject'"),
        (SERVICE.replace("client_id", "name") + ORG, 3, "either a 'client_id' or a 'subject'"),
        (SERVICE + ORG + SERVICE.partition("\n")[2].partition("\n")[2] + ORG, 7, "a second service 'nightly'"),
        (MODEL + "price = 3\n", 7, "unknown key 'price'"),
        (MODEL + 'prices = { input = "cheap" }\n', 7, "'input' must be a number"),
        (MODEL + "prices = { inputs = 3 }\n", 7, "unknown key 'inputs'; there are: input, output"),
        (AGENT + "abandon_after_seconds = -1\n", 3, "'abandon_after_seconds' must be at least 0"),
        (AGENT + "abandon_after_seconds = 90000\n", 3, "'abandon_after_seconds' must be at most 86400"),
        (MODEL + "[agents.a.models.prices]\ninput = -1\n", 8, "'input' must be at least 0"),
        (MODEL + "prices = { cache_write = -1 }\n", 7, "'cache_write' must be at least 0"),
        (MODEL + "prices = { cache_write_1h = inf }\n", 7, "'cache_write_1h' must be a finite number"),
        (MODEL + "prices = { input = 1_000_001 }\n", 7, "'input' must be at most 1000000"),
        (PRICES + TIER + "above = 9\ninput = 2\n", 9, "'output' is missing"),
        (PRICES + TIER + "above = 0\ninput = 2\noutput = 3\n", 10, "'above' must be at least 1"),
        (PRICES + TIER + "above = 9\ninput = 2\nout = 3\n", 12, "unknown key 'out'; there are: above, input, output"),
        (PRICES + (TIER + "above = 9\ninput = 2\noutput = 3\n") * 2, 9, "'tiers' must have ascending bounds ('above')"),
        (
            AGENT + '[agents.b]\nbackend = "nonesuch"\n',
            4,
            "there is no backend 'nonesuch'; there are: anthropic, ccrouter, droid, guide, openai",
        ),
        ("[agents.a]\nenabled = true\n", 1, "'backend' is missing"),
        ("# one\n[agents.a.options]\nx = 1\n", 2, "'backend' is missing"),
        ("[agents.a.options]\nx = 1\n[agents.a]\nenabled = true\n", 3, "'backend' is missing"),
        ("\nagents.a.enabled = true\n", 2, "'backend' is missing"),
        ("[agents.a]\nbackend = 3\n", 2, "'backend' must be a text"),
        (AGENT + 'enabled = "yes"\n', 3, "'enabled' must be true or false"),
        (AGENT + "options = 3\n", 3, "'options' must be a table"),
        ("agents = 3\n", 1, "'agents' must be a table"),
        ("[agents]\na = 3\n", 2, "'a' must be a table"),
        ('[agents."no name"]\nbackend = "openai"\n', 1, "'no name' is no name"),
        (AGENT + 'description = "a\\u0000b"\n', 3, "NUL"),
        (
            AGENT + 'default_model = "big"\n[[agents.a.models]]\nname="m"\nmodel_id="m"\nprovider="p"\n',
            3,
            "'big' is none of the models",
        ),
        (MODEL + '[[agents.a.models]]\nname = "m"\nmodel_id="n"\nprovider="p"\n', 8, "a second model 'm'"),
        (MODEL + "context_window = true\n", 7, "'context_window' must be a whole number"),
        (MODEL + "description = 3\nmax_output_tokens = 0\n", 7, "'description' must be a text"),
        (AGENT + 'default_model = ""\n', 3, "'default_model' must not be empty"),
        (AGENT + f'default_model = "{"m" * 256}"\n', 3, "'default_model' must have at most 255 characters"),
        (MODEL + "prices = { input = nan }\n", 7, "'input' must be a finite number"),
        (MODEL + 'prices = { on = "2026-07-02" }\n', 7, "'on' must be a date, without quotes"),
        (
            AGENT + 'description = """\nenabled = 3\n[agents.z]\n"""\nenabled = 3\n',
            7,
            "'enabled' must be true or false",
        ),
        (AGENT + '[agents.a.options]\nbase_url = "x"\napi_key = "${1}"\n', 5, "variable's name"),
        (AGENT + 'options.api_key = "${KEY"\n', 3, "variable's name"),
    ],
)
def test_a_bad_file_is_refused_with_file_line_and_reason(tmp_path: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path / FILE_NAME}, line {line}: ")
    assert reason in str(refused.value)


@pytest.mark.parametrize("text", ["[agents.a\n", "x = yes\n", "x = 1\nx = 2\n"])
def test_what_is_not_toml_is_called_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"line \d: it is not valid TOML: \w"):
        load(tmp_path, text)


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(b'[agents.a]\nbackend = "\xff"\n')
    with pytest.raises(ConfigurationError, match=r"line 2: it is not UTF-8"):
        load_catalogue([path], {}, known)


def test_a_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"line \d+: "):
        load(tmp_path, "x = " + "[" * 100_000)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="larger than 4 MiB"):
        load(tmp_path, "#" * (4 * 1024 * 1024 + 1))


def test_a_named_file_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    paths = catalogue_paths(tmp_path / "nowhere.toml", tmp_path)
    with pytest.raises(ConfigurationError, match="there is no such file"):
        load_catalogue(paths, {}, known)


def test_a_folder_in_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_catalogue([tmp_path], {}, known)


def test_the_file_of_the_home_is_loaded_when_it_exists(tmp_path: Path) -> None:
    assert catalogue_paths(None, tmp_path) == (DEFAULTS,)
    own = tmp_path / FILE_NAME
    own.touch()
    assert catalogue_paths(None, tmp_path) == (DEFAULTS, own)
    named = tmp_path / "named.toml"
    assert catalogue_paths(named, tmp_path) == (DEFAULTS, named)


def test_a_placeholder_is_what_the_agent_lacks(tmp_path: Path) -> None:
    text = """
        [agents.a]
        backend = "openai"
        [agents.a.options]
        api_key = "${KEY}"
        base_url = "${URL:-http://127.0.0.1/v1}"
        """
    reason = "is a placeholder of the form {}, in whose place nobody put the value"
    for value, form in (("${KEY}", "${...}"), ("{{KEY}}", "{{...}}"), ("<YOUR_KEY>", "<...>"), ("$KEY", "$NAME")):
        (agent,) = load(tmp_path, text, {"KEY": value, "URL": "http://127.0.0.1:1/v1"}).agents
        assert (agent.missing, agent.lacks_key) == ((f"KEY {reason.format(form)}",), True)
        assert value not in repr(agent.options)
        (agent,) = load(tmp_path, text.replace("${KEY}", value.replace("$", "$$")), {"KEY": SECRET}).agents
        assert (agent.missing, agent.lacks_key) == ((f"the option 'api_key' {reason.format(form)}",), True)
    (agent,) = load(tmp_path, text, {"KEY": SECRET, "URL": "https://<your-host>/v1"}).agents  # no default in its place
    assert (agent.missing, agent.lacks_key) == ((f"URL {reason.format('<...>')}",), False)
    (agent,) = load(tmp_path, text.replace("api_key", "style"), {"KEY": SECRET}).agents
    assert agent.missing == ()


def test_a_template_that_is_no_secret_is_none_that_was_forgotten(tmp_path: Path) -> None:
    text = '[agents.a]\nbackend = "openai"\noptions = { prompt = "{{question}} <answer>", $ }\n'
    (agent,) = load(tmp_path, text.replace("$", 'api_key = "k"'), {}).agents
    assert agent.missing == ()


def test_an_unset_or_empty_variable_is_what_the_agent_lacks(tmp_path: Path) -> None:
    text = """
        [agents.a]
        backend = "openai"
        [agents.a.options]
        api_key = "${KEY}"
        headers = { one = "${KEY}", two = ["${OTHER}"] }
        base_url = "${URL:-http://127.0.0.1/v1}"
        price = "$$5 and $6"
        attempts = 3
        stream = true
        """
    (agent,) = load(tmp_path, text, {"OTHER": ""}).agents
    assert agent.missing == ("KEY is not set", "OTHER is not set")
    (agent,) = load(tmp_path, text, {"KEY": SECRET, "OTHER": "o", "URL": "http://127.0.0.1:1/v1"}).agents
    assert agent.missing == ()
    assert agent.options == {
        "api_key": SECRET,
        "headers": {"one": SECRET, "two": ["o"]},
        "base_url": "http://127.0.0.1:1/v1",
        "price": "$5 and $6",
        "attempts": 3,
        "stream": True,
    }
    assert SECRET not in repr(agent)
    (agent,) = load(tmp_path, text, {"KEY": "k", "OTHER": "o", "URL": ""}).agents
    assert agent.options["base_url"] == "http://127.0.0.1/v1"


def test_a_value_that_looks_like_a_variable_is_not_filled_in_again(tmp_path: Path) -> None:
    text = '[agents.a]\nbackend = "openai"\noptions = { api_key = "${KEY}" }\n'
    for value in ("${OTHER", "$${OTHER", "x$OTHER"):
        (agent,) = load(tmp_path, text, {"KEY": value, "OTHER": SECRET}).agents
        assert (agent.options, agent.missing) == ({"api_key": value}, ())
    (agent,) = load(tmp_path, text, {"KEY": "${OTHER}", "OTHER": SECRET}).agents
    assert (agent.options, len(agent.missing)) == ({"api_key": ""}, 1)


def test_variables_stand_in_options_only(tmp_path: Path) -> None:
    text = '[agents.a]\nbackend = "openai"\ndescription = "${KEY}"\ninstructions = "${KEY}"\n'
    (agent,) = load(tmp_path, text, {"KEY": SECRET}).agents
    assert (agent.description, agent.instructions, agent.missing) == ("${KEY}", "${KEY}", ())


def test_the_hash_follows_what_is_written_to_the_database_and_no_secret(tmp_path: Path) -> None:
    text = '[agents.a]\nbackend = "openai"\noptions = {{ api_key = "{0}" }}\ndescription = "{1}"\n'
    first = load(tmp_path, text.format("${KEY}", "one"), {"KEY": SECRET})
    assert load(tmp_path, text.format("${KEY}", "one"), {}).sha256 == first.sha256
    assert load(tmp_path, text.format(SECRET, "one")).sha256 == first.sha256
    assert load(tmp_path, text.format("${KEY}", "two")).sha256 != first.sha256


def test_an_agent_may_be_reached_otherwise(tmp_path: Path) -> None:
    text = (
        '[agents.a]\nbackend = "ccrouter"\ndescription = "one"\noptions = { base_url = "${PLACE}" }\n'
        '[agents.a.otherwise]\nbackend = "openai"\noptions = { api_key = "${KEY}" }\n'
    )
    [agent] = load(tmp_path, text, {"KEY": SECRET}).agents
    assert (agent.backend, agent.missing) == ("ccrouter", ("PLACE is not set",))
    assert agent.otherwise == AgentDeclaration(
        name="a",
        backend="openai",
        description="one",
        options={"api_key": SECRET},
        variables=("KEY",),
        key_variables=("KEY",),
    )
    assert SECRET not in repr(agent)


def test_a_program_is_declared_with_its_issuer(tmp_path: Path) -> None:
    text = SERVICE + ORG + '[[issuers.services]]\nsubject = "ci"\nrole = "viewer"\nname = "CI"\n' + ORG
    (issuer,) = load(tmp_path, text).sign_in.issuers
    org_id = OrgId(UUID("b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10"))
    assert issuer.services == (
        Service(client_id="nightly", org_id=org_id, role=Role.MEMBER),
        Service(subject="ci", org_id=org_id, role=Role.VIEWER, name="CI"),
    )


def test_issuers_of_a_known_kind_need_little(tmp_path: Path) -> None:
    text = (
        '[[issuers]]\nissuer = "https://x.authkit.example"\nkind = "workos"\n'
        '[[issuers]]\nissuer = "https://p.supabase.example/auth/v1"\nkind = "supabase"\n'
        '[[issuers]]\nissuer = "https://auth.example"\n'
    )
    workos, supabase, standard = load(tmp_path, text).sign_in.issuers
    assert (workos.subject_is, workos.organization_claim, workos.needs_scopes) == (SubjectIs.WORKOS_ID, "org_id", False)
    assert (supabase.subject_is, supabase.audience) == (SubjectIs.PROFILE_ID, "authenticated")
    assert supabase.jwks_uri == "https://p.supabase.example/auth/v1/.well-known/jwks.json"
    assert (standard.subject_is, standard.needs_scopes, standard.newcomers) == (SubjectIs.OWN, True, Newcomers.NONE)


def test_a_later_agent_of_the_same_name_replaces_the_earlier_one_whole(tmp_path: Path) -> None:
    own = tmp_path / FILE_NAME
    own.write_text('[agents.droid]\nbackend = "guide"\n', encoding="utf-8")
    agents = {agent.name: agent for agent in load_catalogue([DEFAULTS, own], {}, known).agents}
    assert list(agents) == ["ccrouter", "droid", "guide"]
    assert agents["droid"] == AgentDeclaration(name="droid", backend="guide")


def test_the_packaged_agents_can_be_left_out(tmp_path: Path) -> None:
    own = tmp_path / FILE_NAME
    own.write_text('use_defaults = false\n[agents.mine]\nbackend = "guide"\n', encoding="utf-8")
    assert [agent.name for agent in load_catalogue([DEFAULTS, own], {}, known).agents] == ["mine"]


def test_out_of_the_box_there_are_the_deployed_models_and_a_guide_that_needs_nothing() -> None:
    agents = {agent.name: agent for agent in load_catalogue([DEFAULTS], {}, known).agents}
    assert [model.name for model in agents["ccrouter"].models[:3]] == [
        "gemini-1.5-pro",
        "gemini-1.5-flash",
        "gemini-2.0-pro",
    ]
    assert {model.name: model.model_id for model in agents["droid"].models[:4]} == {
        "claude-3-opus": "anthropic/claude-3-opus",
        "claude-3-5-sonnet": "anthropic/claude-3.5-sonnet",
        "gpt-4-turbo": "openai/gpt-4-turbo",
        "gpt-4o": "openai/gpt-4o",
    }
    assert agents["droid"].missing == ("AGENTAPI_DROID_COMMAND is not set", "OPENROUTER_API_KEY is not set")
    assert agents["droid"].otherwise is not None
    assert agents["droid"].otherwise.missing == ("OPENROUTER_API_KEY is not set",)
    assert agents["droid"].otherwise.models == agents["droid"].models
    assert agents["ccrouter"].missing == ("AGENTAPI_CCROUTER_BASE_URL is not set",)
    assert agents["guide"].missing == ()
    assert agents["droid"].default_model in {model.name for model in agents["droid"].models}


def test_the_annotated_example_is_a_good_file() -> None:
    example = Path(__file__).parents[3] / "config" / FILE_NAME
    agents = load_catalogue([DEFAULTS, example], {}, known).agents
    assert {"droid", "ccrouter", "guide", "local"} <= {agent.name for agent in agents}


def test_the_annotated_example_has_every_kind_of_table_and_is_good_with_what_it_comments_out(
    tmp_path: Path,
) -> None:
    example = (Path(__file__).parents[3] / "config" / FILE_NAME).read_text(encoding="utf-8")
    file = tmp_path / FILE_NAME
    file.write_text(re.sub(r"^# (?=\[|[a-z_]+ = )", "", example, flags=re.MULTILINE), encoding="utf-8")
    secrets = dict.fromkeys(re.findall(r"\$\{(\w+)\}", example), "a-secret")
    loaded = load_catalogue([DEFAULTS, file], secrets, known)
    assert {agent.name for agent in loaded.agents} == {"local", "droid", "claude", "guide", "own"}
    assert [agent.needs_account for agent in loaded.agents if agent.name == "own"] == ["openrouter"]
    assert [account.name for account in loaded.accounts] == ["openrouter"]
    assert [issuer.client_id for issuer in loaded.sign_in.issuers] == ["agentapi"]
    assert loaded.sign_in.roles == {"editor": Role.MEMBER}


def test_accounts_are_read_with_the_defaults_of_their_kind_and_their_secrets(tmp_path: Path) -> None:
    text = (
        '[[accounts]]\nname = "openrouter"\nkind = "openrouter"\n'
        + ACCOUNT
        + 'client_secret = "${SECRET}"\nproviders = ["Vertex-AI", "google"]\nagents = ["gemini"]\n'
        + '[[accounts]]\nname = "v"\nkind = "oauth"\nissuer = "https://v.example"\nclient_id = "c"\n'
        + 'scopes = ["a", "b"]\n'
    )
    path = tmp_path / FILE_NAME
    path.write_text(text, encoding="utf-8")
    openrouter, google, other = load_catalogue([path], {"SECRET": "hidden-value"}, list).accounts
    assert (openrouter.issuer, openrouter.client_id, openrouter.scopes) == ("https://openrouter.ai", None, ())
    assert google.issuer == "https://accounts.google.com"
    assert google.scopes == ("https://www.googleapis.com/auth/cloud-platform",)
    assert google.client_secret is not None
    assert google.client_secret.get_secret_value() == "hidden-value"
    assert "hidden-value" not in repr(google)
    asked = [("gemini", "vertex-ai"), ("gemini", "GOOGLE"), ("another", "google"), ("gemini", "openai")]
    assert [google.serves(*each) for each in asked] == [True, True, False, False]
    assert (openrouter.serves("any", "OpenRouter"), other.serves("any", "v")) == (True, True)
    assert (other.scopes, other.client_secret) == (("a", "b"), None)
