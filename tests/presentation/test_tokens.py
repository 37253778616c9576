"""The estimate of tokens, against what tokenizers count, and the cut of replies by it."""

import base64
import hashlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi_mcp.presentation.text import MAX_REPLY_BYTES, MAX_REPLY_TOKENS, clean, cut
from agentapi_mcp.presentation.tokens import estimate_tokens, fitting

DIGESTS = [hashlib.sha256(str(number).encode()).digest() for number in range(100)]
HEX = "".join(digest.hex() for digest in DIGESTS)
ENGLISH = """A turn is one message and its answer. It goes on when its caller stops waiting, and whoever sends the same
message again gets the same turn, so that nothing is asked twice and nothing is billed twice. What a provider reports is
kept as it came; what it does not report is called unknown, and is never shown as zero.\n\n"""
CODE = '''def total(rows: Sequence[Row], *, currency: str = "USD") -> Decimal:
    """Sum up the amounts of one currency."""
    amounts = [row.amount for row in rows if row.currency == currency and row.amount is not None]
    return sum(amounts, start=Decimal(0)).quantize(Decimal("0.01"))\n\n\n'''
GERMAN = (
    "Der Server beantwortet jede Nachricht genau einmal, und zu jeder Antwort gehört ihre Rechnung. Wer nicht länger\n"
    "wartet, bekommt später dieselbe Antwort: Zwischenergebnisse gehen auch bei einem Neustart nicht verloren. "
)
RUSSIAN = "Сервер отвечает на каждое сообщение один раз, и вместе с ответом приходит настоящий счёт за него. "  # noqa: RUF001  # a sample of Cyrillic
CHINESE = "服务器对每条消息只回答一次,每个回答都附有真实的账单。客户端不再等待时,这一轮会继续运行。"
JAPANESE = "サーバーは各メッセージに一度だけ答え、すべての回答に本当の請求額を付けます。処理は続きます。"
KOREAN = "서버는 모든 메시지에 한 번만 답하고, 모든 답에는 실제 청구서가 붙습니다. 작업은 계속됩니다. "
ARABIC = "يجيب الخادم عن كل رسالة مرة واحدة فقط، ومع كل جواب فاتورته الحقيقية. "
HINDI = "सर्वर हर संदेश का एक ही बार उत्तर देता है और हर उत्तर के साथ सही बिल होता है। "
THAI = "เซิร์ฟเวอร์ตอบแต่ละข้อความเพียงครั้งเดียว และทุกคำตอบมีใบแจ้งหนี้จริง "
ROWS = json.dumps(
    [{"id": n, "name": f"user {n}", "ok": n % 3 == 0, "key": d.hex()[:16]} for n, d in enumerate(DIGESTS)]
)
TABLE = "\n".join(f"| {n} | {n * 7919 % 1000 / 10} | {n * 104729 % 99991} |" for n in range(100))
SAMPLES = {
    "english": ENGLISH * 20, "code": CODE * 20, "german": GERMAN * 20, "russian": RUSSIAN * 20, "chinese": CHINESE * 20,
    "japanese": JAPANESE * 20, "korean": KOREAN * 20, "arabic": ARABIC * 20, "hindi": HINDI * 20, "thai": THAI * 20,
    "hex": HEX, "base64": base64.b64encode(b"".join(DIGESTS)).decode(), "json": ROWS, "indented json":
    json.dumps(json.loads(ROWS), indent=2), "table": TABLE,
}  # fmt: skip
# What the dearest of three counts: o200k and cl100k by gpt-tokenizer 4.0.0, and that of @anthropic-ai/tokenizer 0.0.4.
COUNTED = {
    "english": 1459, "code": 1559, "german": 1341, "russian": 901, "chinese": 960, "japanese": 1040, "korean": 1080,
    "arabic": 1240, "hindi": 1421, "thai": 2560, "hex": 3701, "base64": 3039, "json": 3344, "indented json": 4144,
    "table": 1299,
}  # fmt: skip


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_estimate_is_hardly_below_and_less_than_twice_what_a_tokenizer_counts(kind: str) -> None:
    assert 0.95 * COUNTED[kind] <= estimate_tokens(SAMPLES[kind]) <= 1.85 * COUNTED[kind]


@given(st.text() | st.text('ab 1\n\t\x00."', max_size=200))
@example("a" * 1000)
@example(" " * 1000)
@example("0" * 1000)
def test_the_estimate_of_any_text_has_bounds(text: str) -> None:
    assert len(text) / 20 - 1 <= estimate_tokens(text) <= 3 * len(text)


@given(st.text() | st.sampled_from(list(SAMPLES.values())), st.integers(0, 300))
def test_what_fits_is_the_longest_beginning_that_does(text: str, most: int) -> None:
    end = fitting(text, most)
    assert estimate_tokens(text[:end]) <= most + 1  # pieces may divide anew at the end
    assert end == len(text) or estimate_tokens(text[: end + 41]) >= most


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_long_reply_of_any_kind_fits_what_clients_take(kind: str) -> None:
    whole = SAMPLES[kind] * 100
    start, left_out = cut(whole)
    tokens_each_byte = COUNTED[kind] / len(SAMPLES[kind].encode())
    assert 8_000 <= len(start.encode()) * tokens_each_byte <= 22_000
    assert whole.startswith(start)
    assert left_out == len(whole.encode()) - len(start.encode())


@given(st.text(max_size=5))
@example("\ud800")
@example("é" * 5)
def test_a_reply_that_cannot_have_too_many_tokens_is_whole(end: str) -> None:
    short = "x" * (MAX_REPLY_TOKENS - 20) + end
    assert cut(short) == (clean(short), 0)


@pytest.mark.parametrize("filler", [" ", "\n", "ö \n", "🙂"])
def test_a_reply_of_few_tokens_is_cut_by_its_bytes_at_a_whole_character(filler: str) -> None:
    start, left_out = cut(filler * 200_000)
    assert len(start.encode()) <= MAX_REPLY_BYTES
    assert set(start) <= set(filler)
    assert left_out == len(filler.encode()) * 200_000 - len(start.encode())
