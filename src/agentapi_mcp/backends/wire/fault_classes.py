"""Tell which fault a provider's error is: by its code, else by its status, and then by its words where they know more.

Many servers answer with one status, or one code, whatever the reason; the words of the error tell them apart.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from agentapi_mcp.backends.wire.reasons import ProviderError
from agentapi_mcp.base.errors import BackendFault

_BY_CODE: dict[str, BackendFault] = {
    # OpenRouter's error_type
    "rate_limit_exceeded": BackendFault.RATE_LIMIT,
    "provider_overloaded": BackendFault.OVERLOADED,
    "provider_unavailable": BackendFault.UPSTREAM,
    "payment_required": BackendFault.PAYMENT,
    "context_length_exceeded": BackendFault.CONTEXT_LENGTH,
    "content_policy_violation": BackendFault.CONTENT_POLICY,
    "server": BackendFault.UPSTREAM,
    "timeout": BackendFault.UPSTREAM,
    # OpenAI's code and type
    "invalid_api_key": BackendFault.AUTH,
    "authentication_error": BackendFault.AUTH,
    "insufficient_quota": BackendFault.PAYMENT,
    "billing_hard_limit_reached": BackendFault.PAYMENT,
    "billing_not_active": BackendFault.PAYMENT,
    "model_not_found": BackendFault.NOT_FOUND,
    "string_above_max_length": BackendFault.CONTEXT_LENGTH,
    "content_filter": BackendFault.CONTENT_POLICY,
    "permission_error": BackendFault.PERMISSION,
    "rate_limit_error": BackendFault.RATE_LIMIT,
    "overloaded_error": BackendFault.OVERLOADED,
    "server_error": BackendFault.UPSTREAM,
    # Azure's code, within `innererror`, and for a model that is not deployed
    "responsibleaipolicyviolation": BackendFault.CONTENT_POLICY,
    "deploymentnotfound": BackendFault.NOT_FOUND,
    # Anthropic's type; its "api_error" is less specific than the status, which claude-code-router adds
    "billing_error": BackendFault.PAYMENT,
    "not_found_error": BackendFault.NOT_FOUND,
    "request_too_large": BackendFault.CONTEXT_LENGTH,
    "timeout_error": BackendFault.UPSTREAM,
    # claude-code-router's code
    "provider_not_found": BackendFault.NOT_FOUND,
    # Google's status, and the reason of its ErrorInfo
    "unauthenticated": BackendFault.AUTH,
    "permission_denied": BackendFault.PERMISSION,
    "resource_exhausted": BackendFault.RATE_LIMIT,
    "not_found": BackendFault.NOT_FOUND,
    "unavailable": BackendFault.OVERLOADED,
    "deadline_exceeded": BackendFault.UPSTREAM,
    "api_key_invalid": BackendFault.AUTH,
    # Amazon Bedrock's exceptions
    "throttlingexception": BackendFault.RATE_LIMIT,
    "accessdeniedexception": BackendFault.PERMISSION,
    "resourcenotfoundexception": BackendFault.NOT_FOUND,
    "unrecognizedclientexception": BackendFault.AUTH,
    "modelnotreadyexception": BackendFault.OVERLOADED,
    "serviceunavailableexception": BackendFault.OVERLOADED,
    # DashScope's codes
    "invalidapikey": BackendFault.AUTH,
    "arrearage": BackendFault.PAYMENT,
    "datainspectionfailed": BackendFault.CONTENT_POLICY,
    "data_inspection_failed": BackendFault.CONTENT_POLICY,
    "allocationquota.freetieronly": BackendFault.PAYMENT,
    # Moonshot's, Volcengine's, Novita's and StepFun's
    "exceeded_current_quota_error": BackendFault.PAYMENT,
    "accountoverdueerror": BackendFault.PAYMENT,
    "not_enough_balance": BackendFault.PAYMENT,
    "censorship_blocked": BackendFault.CONTENT_POLICY,
    # Zhipu's codes, which come with the statuses 400 and 429 alike
    "1113": BackendFault.PAYMENT,
    "1211": BackendFault.NOT_FOUND,
    "1261": BackendFault.CONTEXT_LENGTH,
    "1301": BackendFault.CONTENT_POLICY,
    # MiniMax's codes, in `base_resp` of a reply with status 200
    "base_resp 1002": BackendFault.RATE_LIMIT,
    "base_resp 1004": BackendFault.AUTH,
    "base_resp 1008": BackendFault.PAYMENT,
    "base_resp 1026": BackendFault.CONTENT_POLICY,
    "base_resp 1027": BackendFault.CONTENT_POLICY,
    "base_resp 1039": BackendFault.RATE_LIMIT,
    "base_resp 2013": BackendFault.BAD_REQUEST,
    "base_resp 2049": BackendFault.AUTH,
}
_BY_STATUS: dict[int, BackendFault] = {
    401: BackendFault.AUTH,
    402: BackendFault.PAYMENT,
    403: BackendFault.PERMISSION,
    404: BackendFault.NOT_FOUND,
    405: BackendFault.NOT_FOUND,  # an address of something else
    408: BackendFault.UPSTREAM,
    410: BackendFault.NOT_FOUND,  # a model that is no more
    413: BackendFault.CONTEXT_LENGTH,
    424: BackendFault.UPSTREAM,
    429: BackendFault.RATE_LIMIT,
    451: BackendFault.CONTENT_POLICY,
    498: BackendFault.OVERLOADED,  # Groq's capacity
    499: BackendFault.UPSTREAM,  # a proxy gave up
    503: BackendFault.OVERLOADED,
    529: BackendFault.OVERLOADED,
}
_FIRST_SERVER_ERROR, _FIRST_CLIENT_ERROR = 500, 400


@dataclass(frozen=True)
class _Words:
    """Words that tell a fault, where code and status told one of `instead_of`."""

    fault: BackendFault
    patterns: tuple[str, ...]
    instead_of: frozenset[BackendFault]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """All of the patterns; compiled with the first fault, since that takes 10 ms and most programs meet none."""
        return re.compile("|".join(self.patterns), re.IGNORECASE)


def _words(fault: BackendFault, instead_of: set[BackendFault], *patterns: str) -> _Words:
    return _Words(fault, patterns, frozenset(instead_of))


_VAGUE = {BackendFault.BAD_REQUEST, BackendFault.UPSTREAM}
_A_MODEL = r"model:?(?: (?:id|name))?:?(?: [`'\"]?[^\s`'\"]+[`'\"]?,?)?"

# The first that fits counts. What may stand between two words has a bound: without one, a text of many first words
# takes the square of its length.
_BY_WORDS = (
    _words(
        BackendFault.CONTENT_POLICY,
        _VAGUE | {BackendFault.PERMISSION},
        r"content[ _-]?(?:filter|management policy|policy|moderation)",
        r"flagged (?:as|for|by)|moderation",
        r"responsible ai|safety (?:system|filter|reason|polic|setting)|us(?:e|age) (?:polic|guideline)",
        r"content exists risk|considered high risk",  # DeepSeek, Kimi
        r"(?:prohibited|inappropriate|unsafe|sensitive|harmful) (?:content|words?|information)|new_sensitive|敏感内容",
    ),
    _words(
        BackendFault.CONTEXT_LENGTH,
        _VAGUE,
        r"context ?(?:length|window|size|limit)|context_length_exceeded|maximum context",
        r"(?:prompt|input|inputs|request|messages?|conversation|query)(?: text)?(?: (?:is|are))? too (?:long|large)",
        r"too many (?:input |prompt )?tokens(?!,? please wait)",
        r"token count .{0,300}(?:exceeds|only supports)|size limit exceeded by \d+ tokens",
        r"exceed(?:s|ed)? the (?:maximum|available) (?!.{0,300}(?:output|completion) tokens).{0,300}(?:tokens|context)",
        r"exceed(?:s|ed)? (?:the )?(?:model|context|input|prompt) token limit|exceed(?:s|ed)? max(?:imum)? length",
        r"(?:maximum|max) (?:prompt|input|sequence|model) (?:length|tokens)|max_model_len",
        r"range of input length|(?:input|prompt) length .{0,300}exceeds",
        r"`?inputs`? (?:tokens? )?(?:\+ .{1,40} )?must (?:be <=|have less than) \d+",
        r"reduce (?:the |your )?(?:length of )?(?:the |your )?(?:messages?|prompt|input)\b(?! size)",
    ),
    # A request that is larger than the whole limit of a minute is never accepted.
    _words(BackendFault.CONTEXT_LENGTH, {BackendFault.RATE_LIMIT}, r"request too large|reduce your message size"),
    _words(
        BackendFault.AUTH,
        _VAGUE,
        r"(?:invalid|incorrect|wrong|expired|missing) (?:api|access|auth\w*)[ _-]?(?:key|token)",
        r"api[ _-]?key (?:is )?(?:not valid|not found|invalid|expired|missing|required)",
        r"login fail|authentication (?:failed|fails)",
    ),
    _words(BackendFault.AUTH, {BackendFault.PERMISSION}, r"api key (?:was|has been) (?:reported as )?leaked"),
    _words(
        BackendFault.PAYMENT,
        _VAGUE | {BackendFault.PERMISSION, BackendFault.RATE_LIMIT},
        r"credit balance is too low|insufficient[ _](?:account )?(?:quota|balance|funds?|credits?)",
        r"(?:key|spend(?:ing)?|budget|billing|credit) (?:hard )?limit (?:was |has been )?(?:exceeded|reached)",
        r"budget (?:has been |was )?exceeded|exceeded ?budget|requires more credits|out of credits",
        r"(?:n[o\W]t have|no|not enough) (?:any |enough |sufficient )?(?:credits?|balance)\b|overdue balance",
        r"balance is (?:insufficient|not enough)|used all (?:available |your )?credits|out of call volume quota",
        r"reached (?:its|your) (?:\w+ ){0,2}(?:spending|usage|credit|budget) limit|extra usage is required",
        r"free (?:tier|quota)\b.{0,40} exhausted|limited to \d+ api calls / month",
        r"check your billing|account is (?:not active|overdue|in arrears)|余额不足",
    ),
    _words(
        BackendFault.NOT_FOUND,
        _VAGUE,
        rf"{_A_MODEL} (?:(?:is|was|does|has|have|been|id) )*not (?:found|exist|supported|available)\b",
        rf"{_A_MODEL} doesn'?t exist",
        rf"{_A_MODEL} (?:(?:is|was|has|been) )*(?:decommissioned|deprecated|retired|shut down|unknown)\b",
        r"model identifier is invalid|model id .{1,100} isn\Wt supported|模型不存在",  # Bedrock, Zhipu
        r"unexpected endpoint or method",  # LM Studio, with status 200
        r"not a valid model|(?:unknown|invalid|unsupported|no such) model\b|404 (?:not[ _]found|page not found)",
    ),
    _words(
        BackendFault.PERMISSION,
        _VAGUE,
        r"location is not supported|organization (?:must be verified|has been disabled)",
    ),
    _words(
        BackendFault.RATE_LIMIT,
        _VAGUE,
        r"rate[ _-]?limit|too many requests|throttl|quota exceeded|too many tokens,? please wait",
    ),
    _words(
        BackendFault.OVERLOADED,
        {BackendFault.UPSTREAM},
        r"overloaded|(?:over|at) capacity|capacity exceeded|high (?:demand|load|traffic)|temporarily unavailable",
        r"(?:engine|server|service|system|model) is (?:currently )?(?:busy|unavailable)|no healthy upstream",
    ),
)
# Google says "exceeded your current quota" of the limit of a minute too, and then when to retry.
_QUOTA = re.compile(r"exceeded your current quota", re.IGNORECASE)
_OF_A_DAY = re.compile(r"per[ _-]?day", re.IGNORECASE)
_OF_A_MINUTE = re.compile(r"per[ _-]?minute|retry in \d", re.IGNORECASE)


def fault_of(error: ProviderError, status: int | None) -> BackendFault:
    """Return the fault of an error; `status` is that of the reply, or else the one that the error names."""
    if error.moderated:
        return BackendFault.CONTENT_POLICY
    fault = _by_code(error.codes) or _by_status(status)
    said = "\n".join(error.words)
    if fault is BackendFault.RATE_LIMIT and _is_used_up(error, said):
        return BackendFault.PAYMENT
    found = (each.fault for each in _BY_WORDS if fault in each.instead_of and each.pattern.search(said))
    return next(found, fault)


def _by_code(codes: tuple[str, ...]) -> BackendFault | None:
    # OpenAI reports a wrong key as "invalid_request_error", so codes outside of the table are ignored.
    known = [_BY_CODE[code] for code in codes if code in _BY_CODE]
    return next((fault for fault in known if fault is not BackendFault.UPSTREAM), known[0] if known else None)


def _is_used_up(error: ProviderError, said: str) -> bool:
    """Tell a quota that is used up, by what Google names or by OpenAI's words, from a rate that is limited."""
    if error.limits:
        return any(map(_OF_A_DAY.search, error.limits))
    return bool(_QUOTA.search(said)) and (bool(_OF_A_DAY.search(said)) or not _OF_A_MINUTE.search(said))


def _by_status(status: int | None) -> BackendFault:
    if status is None or status >= _FIRST_SERVER_ERROR:
        return _BY_STATUS.get(status or 0, BackendFault.UPSTREAM)
    if status < _FIRST_CLIENT_ERROR:
        return BackendFault.BAD_REPLY
    return _BY_STATUS.get(status, BackendFault.BAD_REQUEST)
