"""Sealing: what is sealed opens in its own place alone, and master keys are read from one of three places."""

import base64
import shlex
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentapi_mcp.auth.master_keys import MasterKey, MasterKeySource, parse_keys
from agentapi_mcp.auth.sealing import AesGcmSealer, open_sealer
from agentapi_mcp.base.errors import ConfigurationError, StoreError
from agentapi_mcp.cli.main import main

PLACE = ("agentapi.user_api_keys", "org 1", "user 1", "row 1")
ONE, TWO = MasterKey("one", bytes(range(32))), MasterKey("two", bytes(range(32, 64)))


def written(key: MasterKey) -> str:
    """Write a key as the operator does."""
    return base64.b64encode(key.value).decode()


def test_what_is_sealed_opens_in_its_place_and_looks_different_each_time() -> None:
    sealer = AesGcmSealer([ONE])
    first, second = sealer.seal("sk-secret é", PLACE), sealer.seal("sk-secret é", PLACE)
    assert first != second
    assert b"secret" not in first
    assert sealer.open_(first, PLACE) == sealer.open_(second, PLACE) == "sk-secret é"


@pytest.mark.parametrize("step", range(4))
def test_what_was_copied_to_another_place_does_not_open(step: int) -> None:
    sealer = AesGcmSealer([ONE])
    sealed = sealer.seal("sk-secret", PLACE)
    elsewhere = (*PLACE[:step], "another", *PLACE[step + 1 :])
    with pytest.raises(StoreError, match="not what was sealed"):
        sealer.open_(sealed, elsewhere)


def test_names_that_run_together_are_two_places() -> None:
    sealer = AesGcmSealer([ONE])
    with pytest.raises(StoreError):
        sealer.open_(sealer.seal("sk-secret", ("a", "bc")), ("ab", "c"))


def test_a_change_of_any_byte_is_noticed() -> None:
    sealer = AesGcmSealer([ONE])
    sealed = sealer.seal("sk-secret", PLACE)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises((StoreError, ConfigurationError)):
            sealer.open_(bytes(changed), PLACE)
    for length in range(len(sealed)):
        with pytest.raises((StoreError, ConfigurationError)):
            sealer.open_(sealed[:length], PLACE)


def test_the_first_key_seals_and_all_open() -> None:
    old, both = AesGcmSealer([ONE]), AesGcmSealer([TWO, ONE])
    assert (old.key_id, both.key_id) == ("one", "two")
    assert both.open_(old.seal("sk-secret", PLACE), PLACE) == "sk-secret"
    with pytest.raises(ConfigurationError, match="the master key 'two', which is not given"):
        old.open_(both.seal("sk-secret", PLACE), PLACE)


def test_a_key_of_the_same_name_that_is_another_opens_nothing() -> None:
    with pytest.raises(StoreError):
        AesGcmSealer([MasterKey("one", TWO.value)]).open_(AesGcmSealer([ONE]).seal("sk-secret", PLACE), PLACE)


def test_keys_are_written_with_and_without_a_name() -> None:
    named, unnamed = parse_keys(f"two:{written(TWO)}, {written(ONE)}", "AGENTAPI_MASTER_KEY")
    assert named == TWO
    assert unnamed.value == ONE.value
    assert [unnamed] == list(parse_keys(written(ONE), "AGENTAPI_MASTER_KEY"))
    url_safe = base64.urlsafe_b64encode(b"\xff" * 32).decode()
    assert parse_keys(url_safe, "AGENTAPI_MASTER_KEY")[0].value == b"\xff" * 32


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "key 1 of 1 is not 32 bytes"),
        (base64.b64encode(b"s3cret").decode(), "key 1 of 1 is not 32 bytes"),
        (f"{written(ONE)},", "key 2 of 2 is not 32 bytes"),
        (f"{written(ONE)} s3cret", "key 1 of 1 is not 32 bytes"),
        (f"s3cret key:{written(ONE)}", "has an id that is none"),
        (f"a:{written(ONE)},a:{written(TWO)}", "names two keys alike"),
        ("s3cret-é", "is not 32 bytes"),
    ],
)
async def test_what_is_no_key_is_refused_by_its_variable_and_never_repeated(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refused:
        await MasterKeySource(text=text).read()
    assert str(refused.value).startswith("AGENTAPI_MASTER_KEY")
    assert "s3cret" not in str(refused.value)
    assert written(ONE) not in str(refused.value)


async def test_keys_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "master"
    file.write_text(f"one:{written(ONE)}\n")
    sealer = await open_sealer(MasterKeySource(file=file))
    assert sealer.open_(AesGcmSealer([ONE]).seal("sk-secret", PLACE), PLACE) == "sk-secret"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"^AGENTAPI_MASTER_KEY_FILE names a file that is not text"):
        await MasterKeySource(file=file).read()
    with pytest.raises(ConfigurationError, match=r"^AGENTAPI_MASTER_KEY_FILE names a file that cannot be read"):
        await MasterKeySource(file=tmp_path / "none").read()


def command(program: str) -> str:
    """Write a command that runs a program of Python."""
    return shlex.join([sys.executable, "-c", program])


async def test_keys_come_from_a_command_that_no_shell_reads() -> None:
    said = await MasterKeySource(command=command(f"print('one:{written(ONE)}')")).read()
    assert said == (ONE,)
    with pytest.raises(ConfigurationError, match="is not 32 bytes"):
        await MasterKeySource(command=f"echo {written(ONE)}; true").read()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (command("raise SystemExit(3)"), r"failed \(status 3\)"),
        ("no-such-program-s3cret --key", "names a program that cannot be run"),
        (command("while True: print('s3cret')"), "failed"),
        ("'", "is no command"),
        ("  ", "is no command"),
        (command("import sys; sys.stderr.write('s3cret'); sys.stdout.write('s3cret')"), "is not 32 bytes"),
    ],
)
async def test_a_command_that_gives_no_key_is_told_without_its_words(
    text: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refused:
        await MasterKeySource(command=text).read()
    assert str(refused.value).startswith("AGENTAPI_MASTER_KEY_COMMAND")
    assert "s3cret" not in str(refused.value) + "".join(capfd.readouterr())


async def test_a_command_that_waits_for_somebody_is_ended() -> None:
    waits = command("import signal; signal.pause()")
    with pytest.raises(ConfigurationError, match=r"did not end within 0\.2 s"):
        await MasterKeySource(command=waits, timeout=timedelta(seconds=0.2)).read()


async def test_two_places_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not more"):
        await MasterKeySource(text=written(ONE), file=tmp_path / "master").read()


def test_neither_keys_nor_their_places_are_shown() -> None:
    source = MasterKeySource(text=written(ONE))
    assert written(ONE) not in repr(source) + repr(ONE)
    assert repr(ONE.value) not in repr(ONE)


def test_the_command_prints_a_key_that_is_taken() -> None:
    printed = [CliRunner().invoke(main, ["secrets", "generate"]).output for _ in range(2)]
    assert printed[0] != printed[1]
    assert parse_keys(printed[0], "AGENTAPI_MASTER_KEY")[0].value == base64.b64decode(printed[0])
