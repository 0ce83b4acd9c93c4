"""Blots secrets out of text before anybody sees or keeps it. Standard library only."""

from __future__ import annotations

import re

_SECRET_WORDS = r"password|passwd|secret|token|credential|api_?key|access_?key"
_SECRET_KEY = re.compile(f"({_SECRET_WORDS})", re.IGNORECASE)
# A password may hold slashes, and pathlib folds the two after the scheme into one. In `models:/x@champion`
# the @ stands before an alias.
_URL_USER = re.compile(r"(?<=:/)(?<!\bmodels:/)(/?)(?:[^/\s:@]*:[^\s]*@|[^/\s]*@)")
_URL_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]+")
_SECRET_QUERY = re.compile(
    rf"://[^\s?]*\?(?:[^\s]*&)?[^=&\s]*(?:{_SECRET_WORDS}|sig|key)[^=&\s]*=", re.IGNORECASE
)


def redacted(key: str, value: str) -> str:
    """Return `value` without secrets: values of telling keys, and users, passwords and queries of URLs."""
    return "***" if _SECRET_KEY.search(key) else blotted(value)


def blotted(text: str) -> str:
    """Return a text with the users, passwords and queries of all URLs in it left out."""
    return _URL_QUERY.sub(r"\1?***", _URL_USER.sub(r"\1", text))


def has_secret_query(address: str) -> bool:
    """Tell whether the query of a URL looks as if it held a secret."""
    return bool(_SECRET_QUERY.search(address))
