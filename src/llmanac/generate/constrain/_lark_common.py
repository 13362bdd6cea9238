r"""The terminals that `%import common.NAME` names, in Lark's form: the languages of Lark's own, in other words.

Lark ends a string or comment at the first place where it can, so these say what may not be inside.
"""

TERMINALS = r"""
DIGIT: /[0-9]/
HEXDIGIT: /[0-9A-Fa-f]/
INT: /[0-9]+/
SIGNED_INT: /[+-]?[0-9]+/
DECIMAL: /[0-9]+\.[0-9]*|\.[0-9]+/
_EXP: /[Ee][+-]?[0-9]+/
FLOAT: INT _EXP | DECIMAL _EXP?
SIGNED_FLOAT: /[+-]?/ FLOAT
NUMBER: INT | FLOAT
SIGNED_NUMBER: /[+-]?/ NUMBER
_STRING_INNER: /.*/
_STRING_ESC_INNER: /([^\\\n]|\\.)*/
ESCAPED_STRING: /"([^"\\\n]|\\.)*"/
LCASE_LETTER: /[a-z]/
UCASE_LETTER: /[A-Z]/
LETTER: /[A-Za-z]/
WORD: /[A-Za-z]+/
CNAME: /[A-Za-z_][A-Za-z0-9_]*/
WS_INLINE: /[ \t]+/
WS: /[ \t\f\r\n]+/
CR: /\r/
LF: /\n/
NEWLINE: /(\r?\n)+/
SH_COMMENT: /#[^\n]*/
CPP_COMMENT: "//" /[^\n]*/
C_COMMENT: "/*" /([^*]|\*+[^*\/])*\*+/ "/"
SQL_COMMENT: /--[^\n]*/
"""
