"""Text without what is nobody's business: passwords, tokens, and for readers of topics user names too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_KEYS = "pas|pw|psw|token|secret|auth|key|sig|cred|jwt|session|access"  # loginpas=, pwd= and user-pw= are among them
_USERS = "user|usr|login|account"
_AT = "[@\uff20\ufe6b]"  # as some keyboards write it, too


def redact(text: str) -> str:
    """``text``, a URL, with its user part and its parameters that look like secrets masked, however malformed."""
    text = re.sub(rf"(://)[^\n]*{_AT}", rf"\1{MASK}@", text)
    text = re.sub(rf"(?i)^((?:rtsps?|https?|mqtts?)[:;/]+)[^\n]*{_AT}", rf"\1{MASK}@", text)  # of what should be a URL
    text = re.sub(rf"^[^\s:/]+:[^\s:/]+{_AT}", f"{MASK}@", text)  # and without a scheme
    text = re.sub(rf"(?i)([?&;](?!keyfile=)[^=&;\s]*(?:{_KEYS})[^=&\s]*=)[^&\n]+", rf"\1{MASK}", text)
    # And those that cameras want in the path.
    return re.sub(rf"(?i)(://[^?\s]*/[^/?\s]*?(?:{_KEYS})[\w-]*=)[^/?\s]+", rf"\1{MASK}", text)


def redact_all(value: Any) -> Any:
    """What JSON can hold, each of its texts redacted."""
    if isinstance(value, Mapping):
        return {key: redact_all(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact_all(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def without_secrets(source: str) -> str:
    """``source`` without user names, passwords and tokens, for eyes that may read topics but not the camera.

    What is no Unicode, as a file's name may be, is escaped.
    """
    source = source.encode("utf-8", "backslashreplace").decode()
    # What stands before an @; where a password begins (:), a / in it may not have been escaped.
    source = re.sub(r'://(?:[^/\s"]*@|[^/\s":]+:[^"\s]*@)', "://", source)
    source = re.sub(r"""((?:rtsps?|https?)://[^/\s"']*)(/[^\s"']*)""", _without_tokens, source)
    return re.sub(rf'(?i)\b([\w-]*(?:{_USERS}|{_KEYS})[\w-]*)=(?:"(?:[^"\\]|\\.)*"|[^\s&!]+)', r"\1=...", source)


def _without_tokens(url: re.Match[str]) -> str:
    """A network camera's URL without words that look drawn at random: some cameras have no other password."""
    return url[1] + re.sub(r"[A-Za-z0-9]{12,}", lambda word: "..." if _random(word[0]) else word[0], url[2])


def _random(word: str) -> bool:
    mixed = re.search("[a-z]", word) and re.search("[A-Z]", word)
    return bool(re.search("[0-9]", word) and (mixed or re.fullmatch("[0-9a-f]{16,}|[0-9A-F]{16,}", word)))


def is_utf8(text: str) -> bool:
    """Whether ``text`` can be sent; what the environment holds in another encoding cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def secrets_of(url: str) -> list[str]:
    """Values of a URL's parameters that look like secrets, also of those that cameras want in the path."""
    path, _, query = url.partition("?")
    return [
        value
        for part, ends in ((path, "/"), (query, "&"))
        for _, value in re.findall(rf"(?i)([\w-]*(?:{_KEYS})[\w-]*)=([^{ends}\s]+)", part)
    ]
