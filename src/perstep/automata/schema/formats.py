"""The formats of JSON Schema that a regular expression holds.

Each accepts what its specification does, or less, but for one thing: the labels of a `hostname` are counted (63
characters), the whole is not (253), which would take 30,000 states. `regex`, `uri-template`, the international ones and
names that JSON Schema does not know are not enforced, which `json_schema` says or, with `strict=True`, refuses.
"""

from __future__ import annotations

_MONTH_DAY = "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"  # 0001 to 9999
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE = f"({_YEAR}-{_MONTH_DAY}|{_LEAP_YEAR}-02-29)"
# A leap second ends a day of UTC, so only 23:59:60 at no offset is one whatever the date (RFC 3339, 5.6 and 5.7).
_TIME = (
    r"(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
    r"|23:59:60(\.[0-9]+)?([Zz]|[+-]00:00))"
)
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"({_OCTET}\.){{3}}{_OCTET}"
_HEX = "[0-9A-Fa-f]"
_H16 = f"{_HEX}{{1,4}}"
_LS32 = f"({_H16}:{_H16}|{_IPV4})"
_IPV6 = (
    f"(({_H16}:){{6}}{_LS32}|::({_H16}:){{5}}{_LS32}|({_H16})?::({_H16}:){{4}}{_LS32}"
    f"|(({_H16}:){{0,1}}{_H16})?::({_H16}:){{3}}{_LS32}|(({_H16}:){{0,2}}{_H16})?::({_H16}:){{2}}{_LS32}"
    f"|(({_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}|(({_H16}:){{0,4}}{_H16})?::{_LS32}"
    f"|(({_H16}:){{0,5}}{_H16})?::{_H16}|(({_H16}:){{0,6}}{_H16})?::)"
)
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = rf"{_LABEL}(\.{_LABEL})*"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_EMAIL = rf"{_ATOM}(\.{_ATOM})*@{_HOSTNAME}"

_PCT = f"%{_HEX}{{2}}"
_UNRESERVED_SUB = r"A-Za-z0-9._~!$&'()*+,;=\-"
_PCHAR = f"([{_UNRESERVED_SUB}:@]|{_PCT})"
_NAME = f"([{_UNRESERVED_SUB}]|{_PCT})*"
_USER = f"([{_UNRESERVED_SUB}:]|{_PCT})*"
_HOST = rf"(\[({_IPV6}|[Vv]{_HEX}+\.[{_UNRESERVED_SUB}:]+)\]|{_NAME})"
_AUTHORITY = f"({_USER}@)?{_HOST}(:[0-9]*)?"
_PATH = f"(/{_PCHAR}*)*"
_ABSOLUTE = f"/({_PCHAR}+{_PATH})?"
_TAIL = rf"(\?({_PCHAR}|[/?])*)?(#({_PCHAR}|[/?])*)?"
_URI = f"[A-Za-z][A-Za-z0-9+.-]*:(//{_AUTHORITY}{_PATH}|{_ABSOLUTE}|{_PCHAR}+{_PATH})?{_TAIL}"
_FIRST = f"([{_UNRESERVED_SUB}@]|{_PCT})+"  # a first segment without a colon
_RELATIVE = f"(//{_AUTHORITY}{_PATH}|{_ABSOLUTE}|{_FIRST}{_PATH})?{_TAIL}"

_DAY_TIME = "T([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)"
_DURATION = (
    f"P([0-9]+W|([0-9]+Y([0-9]+M([0-9]+D)?)?|[0-9]+M([0-9]+D)?|[0-9]+D)({_DAY_TIME})?|{_DAY_TIME})"  # RFC 3339, A
)
_POINTER = "(/([^~/]|~[01])*)*"

FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[Tt]{_TIME}",
    "duration": _DURATION,
    "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "hostname": _HOSTNAME,
    "email": _EMAIL,
    "uri": _URI,
    "uri-reference": f"({_URI}|{_RELATIVE})",
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(0|[1-9][0-9]*)(#|{_POINTER})",
}
"""The formats that are enforced."""
