"""Words of questions and of documentation, brought together: stems, and groups of words that say much the same.

People ask whether a call "clobbers" a file where the documentation says "overwritten". The groups are general English
of programming, written down once; nothing in them knows a particular name of the documentation.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Container, Iterable

from llmanac.apps.docs_assistant.forms import form_words
from llmanac.retrieve._words import code_words

_STOP = """
a an the this that these those there here of to in on at by for from with without into onto out up down off over
as is are was were be been being am do does did done doing have has had having will would can could should shall may
might must need let lets i me my mine we us our you your he she it its they them their one ones some any all each
and or but if then than so not no nor only just also too very really still yet ever even much more most
what which who whom whose when where why how whats hows wheres anybody somebody someone something anything
please thanks hi hello hey ok okay well hm hmm tell explain describe say show know want wanna like use used using
thing things way get gets got give gives go goes going come comes happen happens mean means work works python
about again back because before after between both during through until while which whether exactly actually
don doesn didn isn aren wasn won can't couldn t s re ve ll d m function method class module call parameter argument
short summary docs documentation purpose good point idea reason role effect meaning part play sense detail brief briefly
came across occur occurs happened understand sentence summarize circumstance condition situation success successful
kind sort example case cases possible possibly ever certain certainly question help cheers simple simply plain plainly
expect expected suppose supposed need needed wonder wondering curious remember forgot believe think guess maybe perhaps
library standard code program my own inside somehow somewhere
"""
QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^'\s]*'(?!\w)")  # an example's text, not what is asked
_PYTHON = re.compile(r"(?i)\bpython ?[\d.]*\d")  # `in Python 3.11`: everything here is
_NEGATIVE = re.compile(r"(?<![\w.)\]-])-\d[\d.]*\b")  # `comb(-1, 2)`
_NUMBER = re.compile(r"(?<![\w.])\d[\d.,]*(?!\w)")  # an example's
STOP = frozenset([*_STOP.split(), *code_words(_STOP)])  # words are looked up without their -s

_GROUPS = """
error exception raise throw fail failure crash traceback complain
invalid illegal malformed garbage bad wrong incorrect incorrectly corrupt broken
missing exist nonexistent absent unknown lack found present such none
overwrite clobber replace destroy existing already
delete remove erase unlink drop discard clean cleanup rid purge
strip trim leading trailing whitespace space indentation indent margin
folder directory dir
create make build generate construct new
return give yield result output produce hand
default initial omit omitted unless unspecified unspecified initially preset left without
otherwise else unless
count number many amount occurrence total frequency often size
frequent common frequency often
tie multiple several many various
core cpu processor
change modify mutate alter edit unchanged affect untouched unaltered original
keep preserve retain remain maintain intact
convert turn transform translate cast
text string str
second once twice again repeat repeatedly
nested recursive recursively within deep deeply
empty blank nothing zero
check verify test determine validate assert enforce
order sort sorted ordering arrange rank ascending descending arbitrary
largest biggest maximum max highest greatest top most
smallest minimum min lowest least
average mean median
wait block blocking sleep pause hang
timeout expire elapse timer
second duration delay timeout timer
password passwd secret token
hidden invisible echo visible
random unguessable unpredictable secure
random shuffle
similar close nearest match fuzzy resemble
ordering permutation arrangement
disk storage space usage
url link uri web
allow permit possible able permission
read load parse
write save store dump persist
save commit flush pending uncommitted transaction
list sequence iterable array collection
item element member entry value
dict dictionary mapping map
function callable callback handler
run execute invoke launch start spawn
stop finish quit exit terminate kill cancel end close
afterward afterwards after done finish later exit upon
begin start beginning initial first
end last final ending
join combine merge concatenate concat append glue
split divide separate break cut chunk
separator sep delimiter delim
equal same identical equivalent
different unequal uneven vary
symlink symbolic link
compress zip archive pack gzip
uncompress decompress unpack extract unzip
copy duplicate clone
duplicate repeated unique distinct
compare difference diff differ
print display show render
user login account owner
email mail smtp message
executable program command binary
character letter char
digit decimal number numeric
integer int whole
boolean bool flag
week weekday day
sum total add plus
find search locate lookup look
lower lowercase uppercase upper capital case
escape quote special
extension suffix ext
import load module
readable writable mode access permission
temporary temp tmp
process subprocess child program
parent ancestor subpath
size length long
path filename pathname file
choice pick choose sample draw
hash digest checksum fingerprint
encode encoding charset unicode utf
reverse reversed backwards
pretty readable nicely formatted format indent
log logging logger
repeat cycle forever loop endless infinite
coroutine async awaitable
thread concurrent parallel background
nan infinity finite
divisor gcd multiple
round truncate floor ceil integer
lock mutex semaphore
group grouped consecutive
timezone utc tz zone
newline linebreak eol
shell terminal tty console
percent quantile percentile cut
entire complete full
environment variable env
fill pad padding
host hostname machine computer platform
version release
cache memoize remember
skip ignore silently ignored suppress
stdin stdout stderr
capture output stdout
queue fifo
docstring comment
bigger greater larger above exceed exceeding
smaller less below fewer short shorter
negative minus
required mandatory must
optional omit
become happen
unit millisecond microsecond
fast quick efficient speed
subfolder subdirectory subfolders recursive tree
redirect send reroute
identifier id uuid
cartesian product pair combination
ceil ceiling
installed available locate
literal expression evaluate
dependency depend prerequisite topological
exclusive lock acquire
cron schedule job
reflow wrap paragraph width
bit binary
composed decomposed combining accent normalize
unsafe dangerous insecure race security
regardless irrelevant
browser webpage web
spreadsheet csv row column
interval range span
flatten chain nested
anonymous lambda
abort cancel interrupt
peek look without
rename move
rotate shift
interleave zip together
sliding pairwise window adjacent successive
accumulate running cumulative total
slice chunk batch part
permission mode chmod
attribute property field
inherit subclass parent base
decorator wrapper wrap
profile measure timing benchmark elapsed
seed reproducible
weighted weight probability
signal handler interrupt
subtract minus remove
approximate close tolerance
plural singular
safe secure
"""


def stem(word: str) -> str:
    """A word without its ending, roughly: `raises`, `raised` and `raising` give `rais`."""
    word = word.lower()
    if len(word) <= 3:
        return word
    for ending, put in (("ies", "y"), ("ied", "y"), ("ing", ""), ("ed", ""), ("ly", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) + len(put) >= 3 and not word.endswith(("ss", "us", "is")):
            word = word[: -len(ending)] + put
            break
    if len(word) >= 7 and word.endswith(("er", "or")):  # `counter` counts
        word = word[:-2]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


@functools.cache
def _groups() -> dict[str, frozenset[str]]:
    """By stem: the stems that say much the same."""
    out: dict[str, set[str]] = {}
    for line in _GROUPS.split("\n"):
        stems = {stem(word) for word in line.split()}
        for one in stems:
            out.setdefault(one, set()).update(stems - {one})
    return {one: frozenset(others) for one, others in out.items()}


def related(one: str) -> frozenset[str]:
    """Stems that say much the same as a stem; not itself."""
    return _groups().get(one, frozenset())


@functools.lru_cache(maxsize=200_000)
def _stems(text: str) -> tuple[str, ...]:
    return tuple(stem(word) for word in code_words(text))


def stems(text: str) -> tuple[str, ...]:
    """Every word of a text, names with their parts, as stems."""
    return _stems(text)


def content(text: str, known: Container[str] | None = None) -> list[str]:
    """The stems of a question that are not among the words every question has, each once.

    Args:
        known: stems of the documentation; a word that is not there, and is a slip away from a word that every question
            has, is taken for that (`hte`).
    """
    text = re.sub(r"(?<=\w)['’](?=\w)", "", _PYTHON.sub(" ", text))
    text = _NUMBER.sub(" ", _NEGATIVE.sub(" negative ", QUOTED.sub(" ", text)))
    words = (word for word in code_words(text) if word not in STOP)
    found = dict.fromkeys((stem(word), word) for word in words)
    return list(dict.fromkeys(s for s, w in found if known is None or s in known or related(s) or not _slip(w)))


@functools.lru_cache(maxsize=10_000)
def _slip(word: str) -> bool:
    """Whether a word is one that every question has, with two neighbouring letters swapped."""
    swapped = (word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1))
    small = STOP | form_words()
    return any(other in small for other in swapped)


def holds(there: Iterable[str], wanted: str, weight: float = 0.6) -> float:
    """1 where a stem is there, `weight` where one that says much the same is, else 0."""
    there = there if isinstance(there, (set, frozenset)) else set(there)
    return 1.0 if wanted in there else weight if related(wanted) & there else 0.0
