"""The values of `format` that are enforced, as expressions over the characters of the string; others are annotations.

Stated choices: years are 0001 to 9999; a leap second is accepted where UTC is 23:59 and the offset is of hours or half
hours; host names hold no label that starts with `xn--` (whether one is valid depends on tables of Unicode), and have
at most 3 labels of 63 characters, 7 of 31, 15 of 15 or 31 of 7 (253 characters is the limit of all together). What a
choice leaves out is accepted by `not` no more than by the format. Beside `minLength`, `maxLength` or `pattern`, host
names have at most 63 characters, and hosts of email addresses and of URIs are no addresses in brackets.

Sources: RFC 3339 (date, time, date-time, duration), RFC 5321 (email), RFC 1123 (hostname), RFC 2673 and 4291 (ipv4,
ipv6), RFC 9562 (uuid), RFC 3986 (uri, uri-reference), RFC 3987 (iri, iri-reference), RFC 6570 (uri-template), RFC 6901
(json-pointer, relative-json-pointer).
"""

from functools import cache

from llmanac.generate.constrain._json_strings import Strings, lengths
from llmanac.generate.constrain.regex import parse_regex

_HEX, _LETTER = "[0-9A-Fa-f]", "[A-Za-z0-9]"
_FOURTH = "(?:0[48]|[2468][048]|[13579][26])"
_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_DATE = (
    f"(?:(?:[0-9]{{2}}{_FOURTH}|{_FOURTH}00)-02-29|{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8])))"
)
_FRACTION = "(?:\\.[0-9]+)?"
_LEAP = "|".join(
    f"{h:02}:(?:59:60{_FRACTION}(?:\\+{(h + 1) % 24:02}:00|-{23 - h:02}:00)"
    f"|29:60{_FRACTION}(?:\\+{h:02}:30|-{23 - h:02}:30))"
    for h in range(24)
)
_TIME = (
    f"(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]{_FRACTION}(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
    f"|23:59:60{_FRACTION}(?:[Zz]|-00:00)|{_LEAP})"
)
_CLOCK = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_CALENDAR = "(?:[0-9]+D|[0-9]+M(?:[0-9]+D)?|[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?)"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = f"{_BYTE}(?:\\.{_BYTE}){{3}}"
_GROUP = f"{_HEX}{{1,4}}"
_LAST = f"(?:{_GROUP}:{_GROUP}|{_IPV4})"
_IPV6 = "(?:" + f"(?:{_GROUP}:){{6}}{_LAST}|::(?:{_GROUP}:){{5}}{_LAST}"
_IPV6 += "".join(f"|(?:(?:{_GROUP}:){{0,{n}}}{_GROUP})?::(?:{_GROUP}:){{{4 - n}}}{_LAST}" for n in range(5))
_IPV6 += f"|(?:(?:{_GROUP}:){{0,5}}{_GROUP})?::{_GROUP}|(?:(?:{_GROUP}:){{0,6}}{_GROUP})?::)"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_QUOTED = '"(?:[ !#-\\[\\]-~]|\\\\[ -~])*"'


def _label(most: int | None) -> str:
    """A label of a host name that does not start with xn--."""
    counts = [f"{{0,{most - n}}}" if most else "*" for n in range(6)]
    tail = [f"(?:[A-Za-z0-9-]{count}{_LETTER})" for count in counts]
    return (
        f"(?:[A-WYZa-wyz0-9]{tail[2]}?|[Xx](?:[A-MO-Za-mo-z0-9]{tail[3]}?|-{tail[3]})?"
        f"|[Xx][Nn](?:{_LETTER}{tail[4]}?|-{_LETTER}{tail[5]}?)?)"
    )


_HOST = "|".join(f"{_label(n)}(?:\\.{_label(n)}){{0,{m - 1}}}" for n, m in ((63, 3), (31, 7), (15, 15), (7, 31)))
_DOMAIN = f"{_LETTER}(?:[A-Za-z0-9-]*{_LETTER})?"
_NAMED = f"{_DOMAIN}(?:\\.{_DOMAIN})*"
_MAILBOX = f"(?:{_ATOM}(?:\\.{_ATOM})*|{_QUOTED})@"
_UNICODE = "\\u00a0-\\ud7ff\\uf900-\\ufdcf\\ufdf0-\\uffef" + "".join(
    f"{chr(plane << 16 if plane != 14 else 0xE1000)}-{chr((plane << 16) + 0xFFFD)}" for plane in range(1, 15)
)
_PRIVATE = f"\\ue000-\\uf8ff{chr(0xF0000)}-{chr(0xFFFFD)}{chr(0x100000)}-{chr(0x10FFFD)}"
_PERCENT = f"%{_HEX}{{2}}"


def _identifier(more: str, private: str, literal: str, *, relative: bool) -> str:
    """A URI, or an IRI with more characters; `literal` is a host in brackets; with `relative` a reference too."""
    plain = f"A-Za-z0-9._~!$&'()*+,;={more}"
    char = f"(?:[{plain}:@-]|{_PERCENT})"
    host = f"(?:{literal}(?:[{plain}-]|{_PERCENT})*)"
    authority = f"(?:(?:[{plain}:-]|{_PERCENT})*@)?{host}(?::[0-9]*)?"
    paths = f"//{authority}(?:/{char}*)*|/(?:{char}+(?:/{char}*)*)?"
    tail = f"(?:\\?(?:[{plain}:@/?{private}-]|{_PERCENT})*)?(?:#(?:[{plain}:@/?-]|{_PERCENT})*)?"
    absolute = f"[A-Za-z][A-Za-z0-9+.-]*:(?:{paths}|{char}+(?:/{char}*)*)?{tail}"
    if not relative:
        return absolute
    first = f"(?:[{plain}@-]|{_PERCENT})+"
    return f"(?:{absolute}|(?:{paths}|{first}(?:/{char}*)*)?{tail})"


def _with_hosts(address: str, literal: str) -> dict[str, str]:
    """The formats that hold hosts; where they may be addresses in brackets, `address` and `literal` say so."""
    return {
        "email": f"{_MAILBOX}(?:{address}{_NAMED})",
        "uri": _identifier("", "", literal, relative=False),
        "uri-reference": _identifier("", "", literal, relative=True),
        "iri": _identifier(_UNICODE, _PRIVATE, literal, relative=False),
        "iri-reference": _identifier(_UNICODE, _PRIVATE, literal, relative=True),
    }


_FUTURE = "[Vv][0-9A-Fa-f]+\\.[A-Za-z0-9._~!$&'()*+,;=:-]+"
_VARIABLE = f"(?:[A-Za-z0-9_]|{_PERCENT})(?:\\.?(?:[A-Za-z0-9_]|{_PERCENT}))*(?::[1-9][0-9]{{0,3}}|\\*)?"
_TEMPLATE = (
    f"(?:[!#$&-;=?-\\[\\]_a-z~{_UNICODE}{_PRIVATE}]|{_PERCENT}|\\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\\}})*"
)
_POINTER = "(?:/(?:[^~/]|~[01])*)*"

FORMATS = {
    **_with_hosts(f"\\[(?:{_IPV4}|[Ii][Pp][Vv]6:{_IPV6})\\]|", f"\\[(?:{_IPV6}|{_FUTURE})\\]|"),
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[Tt]{_TIME}",
    "duration": f"P(?:{_CALENDAR}(?:{_CLOCK})?|{_CLOCK}|[0-9]+W)",
    "hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uuid": f"{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}",
    "uri-template": _TEMPLATE,
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})",
}


# beside minLength and maxLength, where each state is needed for each length
SHORT = {**_with_hosts("", ""), "hostname": f"{_label(None)}(?:\\.{_label(None)})*"}
# more than the strings that a choice leaves out
_DOUBT = {
    "date": "0000-[^~]*",
    "time": "[^~]*:60[^~]*",
    "date-time": "0000-[^~]*|[^~]*:60[^~]*",
    "hostname": "[^~]*[Xx][Nn]--[^~]*|[A-Za-z0-9.-]{30,}",
}


BASE64 = Strings.of(parse_regex("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}(?:==|[A-Za-z0-9+/]=))?"))


@cache
def strings(name: str, *, short: bool = False) -> Strings:
    """The strings of a format.

    Args:
        name: one of FORMATS.
        short: whether those of few states are enough, as the docstring of the module says.
    """
    doubt = (parse_regex(_DOUBT[name]),) if name in _DOUBT else ()
    if not short or name not in SHORT:
        return Strings.of(parse_regex(FORMATS[name]), doubt)
    if name != "hostname":
        doubt = (*doubt, parse_regex("[^\\[]*\\[(?:.|\\n)*"))
    found = Strings.of(parse_regex(SHORT[name]), doubt)
    return found & lengths(0, 63) if name == "hostname" else found
