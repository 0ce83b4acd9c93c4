"""Blots secrets out of text before anybody sees or keeps it. Standard library only."""

from __future__ import annotations

import re

_SECRET_WORDS = r"password|passwd|secret|token|credential|api_?key|access_?key"
_SECRET_KEY = re.compile(f"({_SECRET_WORDS})", re.IGNORECASE)
# A password may hold slashes, and pathlib folds the two after the scheme into one. In `models:/x@champion`
# the @ stands before an alias.
_URL_USER = re.compile(r"(?<=:/)(?<!\bmodels:/)(/?)(?:[^/\s:@]*:[^\s]*@|[^/\s]*@)")
_URL_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]+")
# What libraries tell of an address without its scheme, such as urllib3's "with url: /path?sig=...".
_PATH_QUERY = re.compile(r"(\burl: /[^\s?'\"]*)\?[^\s'\"]+")
_SECRET_PAIR = re.compile(
    rf"([?&;#][^=?&;#\s'\"]{{0,60}}(?:{_SECRET_WORDS}|sig(?==|nature))[^=?&;#\s'\"]{{0,60}}=)[^&\s'\"]+",
    re.IGNORECASE,
)
# In JSON slashes may be escaped.
_ESCAPED_USER = re.compile(r"(:\\/\\/)[^\s\"']*@")
_HEADER = re.compile(r"(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:\w+ )?)[^\s'\",]+", re.IGNORECASE)
_SECRET_QUERY = re.compile(
    rf"://[^\s?]*\?(?:[^\s]*&)?[^=&\s]*(?:{_SECRET_WORDS}|sig|key)[^=&\s]*=", re.IGNORECASE
)


def redacted(key: str, value: str) -> str:
    """Return `value` without secrets: values of telling keys, and users, passwords and queries of URLs."""
    return "***" if _SECRET_KEY.search(key) else blotted(value)


def blotted(text: str) -> str:
    """Return a text without users, passwords and queries of addresses, and credentials of requests."""
    text = _ESCAPED_USER.sub(r"\1", _URL_USER.sub(r"\1", text))
    text = _PATH_QUERY.sub(r"\1?***", _URL_QUERY.sub(r"\1?***", text))
    return _HEADER.sub(r"\1***", _SECRET_PAIR.sub(r"\1***", text))


def has_secret_query(address: str) -> bool:
    """Tell whether the query of a URL looks as if it held a secret."""
    return bool(_SECRET_QUERY.search(address))
