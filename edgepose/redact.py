"""Text without what is nobody's business: passwords, tokens, and for readers of topics user names too."""

from __future__ import annotations

import re

MASK = "***"
_KEYS = "pass|pwd|token|secret|auth|key|sig"
SECRET_KEY = re.compile(_KEYS, re.IGNORECASE)  # in the name of a URL's parameter


def redact(text: str) -> str:
    """``text`` with the user part of a URL and its parameters that look like secrets masked, however malformed.

    Text is a URL, or JSON: there a double quote ends it.
    """
    text = re.sub(r'(://)[^"\n]*@', rf"\1{MASK}@", text)
    return re.sub(rf'(?i)([?&](?!keyfile=)[^=&\s]*(?:{_KEYS})[^=&\s]*=)[^&"\n]+', rf"\1{MASK}", text)


def without_secrets(source: str) -> str:
    """``source`` without user names, passwords and tokens, for eyes that may read topics but not the camera.

    What is no Unicode, as a file's name may be, is escaped.
    """
    source = source.encode("utf-8", "backslashreplace").decode()
    source = re.sub(r"://[^/\s]*@", "://", source)
    return re.sub(r"(?i)\b(user-id|user-pw|user|password|passwd|pwd|token|key)=[^\s&!]+", r"\1=...", source)
