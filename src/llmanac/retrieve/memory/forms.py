"""Forms of statements with a subject of their own: where the user lives, works, what they are called, and the like."""

from __future__ import annotations

import re

from llmanac.evaluate._english import FUNCTION

_V = r"(?P<v>(?:\b(?:St|Mt|Ft|Dr|Mr|Mrs)\. |[^,;.!?]|[.,](?=\w))*)"  # up to punctuation that ends a part
NOW = r"(?:(?:finally|just|recently|now|currently|also|actually|really|mostly|usually|still|only)\s+)*"
_I = r"(?:i|we)"
_AM = r"(?:i(?:['’]m| am|['’]ve been| have been)|we(?:['’]re| are))"
_NO_JOB = (  # "a beginner in", "a fast reader" name no job
    r"(?!(?:[\w-]+ ){0,2}(?:beginner|newcomer|loser|winner|reader|writer of|lover|liar|hater|supporter|believer"
    r"|follower|member"
    r"|user|owner|speaker|smoker|drinker|sleeper|eater|learner|riser|teenager|foreigner|stranger|mother|father"
    r"|brother|sister"
    r"|customer|number|matter|bit|Scorpio|outsider|\w+er than)\b|(?:big|huge|fast|slow|good|bad|great|heavy|avid"
    r"|light|poor|real)\b)"
)
_NO_TRADE = (  # "I work as hard as I can", "as quickly as possible", "as usual"
    r"(?!(?:(?!an?\b|the\b)[\w-]+ as\b|[\w-]+ly\b|(?:hard|much|many|little|few|long|often|well|fast|late|early|quick"
    r"|if|usual|always|before|normal|planned|expected|intended|needed|required|possible|of)\b|an? (?:team|group|pair"
    r"|unit|couple)\b))"
)
_HAVE = r"(?:i|we)(?:['’]ve| have)?"

# pattern, subject, sentence, cues; {v} is the value, {n} another part
FACTS: tuple[tuple[str, str, str, str], ...] = (
    (rf"(?:i(?:['’]m| am) (?:called|named)|call me|(?:you can|everyone|people) calls? me)"
     rf" (?!(?:an?|the|when|if|back|at|in|on|later|out|by|your|names?)\b){_V}", "name",
     "The user's name is {v}.", "called who am"),
    (rf"{_I} {NOW}(?:live|reside|stay|am based|am living) (?:in|at|on) {_V}", "home", "The user lives in {v}.",
     "live home city town country place address where reside based"),
    (rf"{_AM} {NOW}(?:based|living|staying|located) (?:in|at|on) {_V}", "home", "The user lives in {v}.",
     "live home city town country place address where reside based"),
    (rf"{_HAVE} {NOW}(?:moved|relocated) (?:from .{{1,40}} )?to {_V}", "home", "The user lives in {v}.",
     "live home city town country place address where reside based"),
    (rf"{_AM} {NOW}from {_V}", "origin", "The user is from {v}.", "come grew country hometown where"),
    (rf"{_I} {NOW}(?:work|am working) as {_NO_TRADE}(?:an? |the )?{_V}", "job", "The user works as {v}.",
     "job profession occupation work living career"),
    (rf"{_AM} {NOW}working as {_NO_TRADE}(?:an? |the )?{_V}", "job", "The user works as {v}.",
     "job profession occupation work living career"),
    (rf"{_AM} {NOW}(?:an?) {_NO_JOB}(?P<v>(?:[\w-]+ ){{0,2}}(?-i:[a-z-]{{2,}})(?:er|or|ist|ian|nurse|student|chef"
     rf"|cook|clerk"
     rf"|pilot|judge"
     r"|analyst|architect|attorney|surgeon|accountant|assistant|agent|vet|doctor|lawyer))\b", "job", "The user "
         "works as {v}.",
     "job profession occupation work living career"),
    (rf"{_I} {NOW}(?:work|started working|am working|started|got a job) (?:at|for|with) {_V}", "employer",
     "The user works for {v}.", "employer company work job office where"),
    (rf"{_AM} {NOW}(?:working|employed) (?:at|for|with|by) {_V}", "employer", "The user works for {v}.",
     "employer company work job office where"),
    (rf"(?:{_AM}|i (?:just )?turned) {NOW}(?P<v>\d{{1,3}})(?= years?|[.!]?$|,? (?:and|but|now)\b)(?: years? "
     rf"old)?", "age",
     "The user is {v} years old.", "age old years"),
    (rf"i was born on {_V}", "birthday", "The user was born on {v}.", "birthday birth date born when"),
    (r"i was born in (?P<v>(?:\w+ )?\d{4})", "birthday", "The user was born in {v}.", "birthday birth year born when"),
    (rf"i was born in {_V}", "birthplace", "The user was born in {v}.", "birthplace birth born where"),
    (rf"{_AM} {NOW}(?:very |severely )?allergic to {_V}", "allergy: {v}", "The user is allergic to {v}.",
     "allergy allergies eat food avoid"),
    (rf"{_AM} {NOW}(?:married to|engaged to|dating) {_V}", "partner", "The user's partner is {v}.",
     "spouse husband wife partner married engaged"),
    (rf"{_AM} {NOW}(?P<v>vegan|vegetarian|pescatarian|gluten[- ]free|lactose intolerant|diabetic)", "diet",
     "The user is {v}.", "diet eat food vegetarian vegan"),
    (rf"{_AM} {NOW}(?:learning|studying) {_V}", "study", "The user studies {v}.", "study learn subject course major"),
    (rf"{_I} {NOW}(?:study|major in|am majoring in) {_V}", "study", "The user studies {v}.",
     "study learn subject course major"),
    (rf"{_I} {NOW}drive (?:an? |the )?(?P<v>(?:[\w-]+ )?(?-i:[A-Z])[\w -]*)", "car", "The user drives a {v}.",
     "car drive vehicle"),
    (rf"{_I} {NOW}(?:speak) {_V}", "language: {v}", "The user speaks {v}.", "language languages speak"),
    (rf"{_I} {NOW}play (?:the )?{_V}", "plays: {v}", "The user plays {v}.", "play instrument sport game hobby"),
    (rf"{_I} {NOW}(?:have|own|adopted|got) (?:an?|one|two|three) (?P<n>[\w -]{{2,30}}?),? "
     rf"(?:who is |which is |that is )?(?:named|called) {_V}", "{n}'s name", "The user's {n} is called {v}.",
     "name called pet {n}"),
    (rf"{_I} {NOW}(?:don['’]t|do not) (?:like|enjoy) {_V}", "feeling about {v}", "The user dislikes {v}.",
     "like dislike hate enjoy"),
    (rf"{_I} {NOW}(?:hate|dislike|can['’]t stand|detest) {_V}", "feeling about {v}", "The user dislikes {v}.",
     "like dislike hate enjoy"),
    (rf"{_I} {NOW}(?:like|love|enjoy|adore) {_V}", "feeling about {v}", "The user likes {v}.",
     "like love enjoy hobby interests"),
    (rf"{_I} {NOW}prefer {_V}", "preference: {v}", "The user prefers {v}.", "prefer preference"),
    (rf"{_HAVE} {NOW}(?:upgraded|switched|gone over|went over|changed over|migrated|converted)(?: over)?(?: from "
     rf".{{1,40}}?)? to {_V}",
     "uses: {v}", "The user uses {v}.", "use using tool"),
    (rf"(?:{_AM} {NOW}at|{_I} {NOW}(?:go to|attend|study at)) (?P<v>(?-i:[A-Z])[^,;!?]*(?:School|Academy"
     rf"|University|College|Institute))", "school",
     "The user goes to {v}.", "school study taught university"),
    (rf"{_I} {NOW}(?:go to|attend) (?P<v>(?-i:[A-Z])[^,;!?]*)", "school", "The user goes to {v}.", "school study "
        "taught university"),
    (rf"{_AM} {NOW}(?:at|with) (?P<v>(?-i:[A-Z])[\w&.'’-]*(?: (?-i:[A-Z])[\w&.'’-]*)*)(?= (?:now|since|as|for"
     rf"|in)\b|[,.]|$)", "employer", "The user works for {v}.", "employer "
        "company work job office where"),
    (rf"{_I} {NOW}use (?:an? |the )?{_V}", "uses: {v}", "The user uses {v}.", "use using tool"),
)  # fmt: skip
_NO_NAME = re.compile(
    r"(?i)^(?:not|tomorrow|today|later|soon|again|often|crazy|private|.+(?:ed|ing|ly|ful|ous|ble|ant|ent|ive))$"
)
PERSON = "name home origin job employer age birthday birthplace diet study school"  # what another's end does not end
_NO_PLACE = re.compile(r"(?i)^(?:night|nights|home|weekends?|all|least|it|this)\b")


def names(subject: str, value: str, clause: str) -> bool:
    """Whether a value can be a name or place: "I live in fear" and "call me tomorrow" have none.

    In a clause that begins with a small letter, whose writer cares little for capitals, a word or two may be small.
    """
    if subject == "employer":
        return not _NO_PLACE.match(value)
    if subject not in ("name", "home", "origin") and not subject.endswith("'s name"):
        return True
    if subject != "name" and re.fullmatch(r"[A-Z]\w* \d[\d.]*", value):
        return False  # "we moved to Python 3"
    if value[:1].isupper() or (value[:1].isdigit() and " " in value):
        return True
    words = value.split()
    small = clause[:1].islower() or (len(words) == 1 and subject.endswith("name"))
    return small and len(words) <= 2 and words[0] not in FUNCTION and not _NO_NAME.match(value)
