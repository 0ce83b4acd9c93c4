"""Blots secrets out of text before anybody sees or keeps it. Standard library only."""

from __future__ import annotations

import re

# Texts come from strangers' files and servers, so a pattern takes time in proportion to their length: where
# it must find an end, the text is cut at the last one, or what was looked through in vain is passed over.
_SECRET_WORDS = r"password|passwd|secret|token|credential|api_?key|access_?key"
_SECRET_KEY = re.compile(f"({_SECRET_WORDS})", re.IGNORECASE)
_WORD = re.compile(r"\S++")
# A password may hold slashes, and pathlib folds the two after the scheme into one. In `models:/x@champion`
# the @ stands before an alias.
_URL_USER = re.compile(r"(?<=:/)(?<!\bmodels:/)(/?)(?:[^/\s:@]*:[^\s]*@|[^/\s]*@)")
_URL_QUERY = re.compile(r"(://[^\s?'\"]*+)(\?[^\s'\"]++)?")
# What libraries tell of an address without its scheme, such as urllib3's "with url: /path?sig=...".
_PATH_QUERY = re.compile(r"(\burl: /[^\s?'\"]*+)\?[^\s'\"]++")
_SECRET_PAIR = re.compile(
    rf"([?&;#][^=?&;#\s'\"]{{0,60}}(?:{_SECRET_WORDS}|sig(?==|nature))[^=?&;#\s'\"]{{0,60}}=)[^&\s'\"]+",
    re.IGNORECASE,
)
# In JSON slashes may be escaped.
_UNQUOTED = re.compile(r"[^\s\"']++")
_ESCAPED_USER = re.compile(r"(:\\/\\/)[^\s\"']*@")
_HEADER = re.compile(r"(\bauthorization['\"]?\s*+[:=]\s*+['\"]?(?:\w++ )?)[^\s'\",]++", re.IGNORECASE)
_QUERY = re.compile(r"://[^\s?]*+(?:\?(\S++))?")
_QUERY_KEY = re.compile(f"{_SECRET_WORDS}|sig|key", re.IGNORECASE)


def redacted(key: str, value: str) -> str:
    """Return `value` without secrets: values of telling keys, and users, passwords and queries of URLs."""
    return "***" if _SECRET_KEY.search(key) else blotted(value)


def blotted(text: str) -> str:
    """Return a text without users, passwords and queries of addresses, and credentials of requests."""
    text = _WORD.sub(lambda word: _without_users(_URL_USER, word[0]), text)
    text = _UNQUOTED.sub(lambda word: _without_users(_ESCAPED_USER, word[0]), text)
    text = _PATH_QUERY.sub(r"\1?***", _URL_QUERY.sub(_without_query, text))
    return _HEADER.sub(r"\1***", _SECRET_PAIR.sub(r"\1***", text))


def _without_users(pattern: re.Pattern[str], word: str) -> str:
    # Up to the last @ the pattern's first try is a match; behind it there is none.
    before, at, behind = word.rpartition("@")
    return pattern.sub(r"\1", before + at) + behind


def _without_query(found: re.Match[str]) -> str:
    return f"{found[1]}?***" if found[2] else found[1]


def has_secret_query(address: str) -> bool:
    """Tell whether the query of a URL looks as if it held a secret."""
    parts = (part for query in _QUERY.findall(address) for part in query.split("&"))
    return any(_QUERY_KEY.search(key) for part in parts for key in _keys(part))


def _keys(part: str) -> list[str]:
    """Return what stands before a `=`; a value may be an address with a query of its own."""
    first, *rest = part.split("=")
    return [first, *(value.partition("?")[2] for value in rest)][:-1]
