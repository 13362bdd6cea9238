"""The many ways to ask. Forms for training and forms for evaluation are different sentences, and never meet.

`(a|b)` in a pattern is a choice; `{n}` is the name asked about, `{p}` a parameter, `{s}` a wish ("copy a file").
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from llmanac.recipes.quickstart_facts import Kind

FormSet = Literal["training", "held_out"]
_CHOICE = re.compile(r"\(([^()]*)\)")

TRAINING: Mapping[Kind, Sequence[str]] = {
    "what": (
        "What (does|will|would|can) {n} do?",
        "What is {n}?",
        "What's {n}?",
        "What is {n} (for|good for|used for|meant for|about|all about)?",
        "(Explain|Describe|Define|Summarize|Introduce) {n}(.|, please.| to me.| in a few words.)",
        "(Tell|Teach|Inform) me (about|something about|what) {n}.",
        "What (happens|is done|takes place) (when|if|after) I (call|use|run) {n}?",
        "(Purpose|Meaning|Description|Summary|Explanation|Job|Task|Role) of {n}",
        "{n}",
        "{n}: what is (it|that|this)?",
        "{n}, what (does|will|would) it do?",
        "(Give|Show|Read) me (a description|a summary|the documentation|the docs|an overview) (of|for|on) {n}.",
        "(Why|When|For what|Where) (would|should|do|can) I use {n}?",
        "How does {n} (work|behave)?",
        "I (do not know|have never seen|am new to|forgot) {n}(, explain it.|. What is it?|, what does it do?)",
        "(I see|I found|There is|My code has) {n}(, what does that do?|. What is it for?|. Explain.)",
        "What do people (use|need) {n} for?",
        "(What|Which thing|Which task) (does|is) {n} (do|accomplish|achieve|for)?",
        "(Do you know|Can you say|Please say) what {n} (is|does)(?|.)",
        "(docs|help|documentation|info) {n}",
        "What (idea|thought|intention) is behind {n}?",
        "(In short|Briefly|Shortly|In plain words), what (is|does) {n}?",
        "(Please |)(give|write|say) (a|one) (sentence|line|summary) (about|on) {n}.",
        "(I want to understand|Let me understand|I try to understand) {n}.",
        "(Can|Will|Would) you (describe|summarize|explain|introduce) (the function |the class |)(to me |){n}?",
        "What (is|was) the (idea|use|aim|goal|job|reason|sense) of {n}?",
        "(What do I get|What do I achieve) by (calling|using|running) {n}?",
        "(Please |)explain (the function|the class|the method|the thing) {n} (briefly|shortly|to a beginner|).",
        "(Calling|Using|Running) {n} (does|will do) what?",
        "(What for|Why) (is|was) {n} (there|made|written)?",
        "I (met|read|saw) {n} (in some code|somewhere|in a script)(, what is it?|. What does it do?|, explain.)",
    ),
    "arguments": (
        "(What|Which) (arguments|parameters|inputs|args) (does|can|must|will) {n} (take|accept|have|need|get|expect)?",
        "What is the (signature|call signature|argument list|parameter list|prototype) of {n}?",
        "(Which|What|How many) (arguments|parameters|args) (can|may|should|do) I (pass|give|hand) to {n}?",
        "(List|Show|Give|Print|Write) (me |)(the |all |)(arguments|parameters|signature|inputs|args) (of|for) {n}.",
        "How (do|can|should|may|would) I (call|invoke) {n}?",
        "{n} (arguments|parameters|signature|args|params|call|inputs)",
        "(Arguments|Parameters|Signature|Inputs|Argument list|Call syntax) (of|for|to) {n}(?|)",
        "What does (the signature|the call|a call|the definition) of {n} look like?",
        "What (do|should|can) I (pass|give|supply|feed) to {n}?",
        "{n} takes (which|what) (arguments|parameters|inputs)?",
        "With (what|which) (arguments|inputs|parameters) is {n} (called|invoked|used)?",
        "What goes into {n}?",
        "(I need|I want|Show) the (signature|arguments|parameters) of {n}(.|, please.)",
        "Which (arguments|parameters|inputs) (are there|exist|are possible|are allowed|are needed) (for|in|with) {n}?",
        "(Tell|Remind) me (how to call|the arguments of|the signature of|which arguments go to) {n}.",
        "{n}: (which|what) (arguments|parameters|inputs)?",
        "Does {n} (take|have|need) (arguments|parameters|any argument)?",
        "(What|Which) (are|is) (all |)the (arguments|parameters|inputs|signature) (to|for|in) {n}?",
        "(Calling|Invoking) {n}: (how|with what|with which arguments)?",
        "In {n}, what are the (arguments|parameters)?",
        "How is (the signature|the call|the argument list) of {n} written?",
        "(Order|Names|Number) of the (arguments|parameters) of {n}",
        "(Please |)(name|list|enumerate) (the|its|every) (arguments|parameters|inputs) of {n}.",
        "(What|Which) arguments (are accepted|are taken|are required|do I need|must I give) (by|for|with) {n}?",
        "(I want|I have|I try) to call {n}(, how?|, with which arguments?|: signature?)",
        "(Can|Could|Would) you (list|give|print|write down) the (parameters|arguments|signature) of {n}?",
        "How does one call {n}(?| correctly?)",
        "(The|Full|Complete|Exact) (signature|call signature|parameter list|arguments) of {n}(, please.|?|.)",
        "What (has|have) to be (given|handed|passed) (to|into) {n}?",
        "How (is|are) {n} (invoked|used in a call|to be called)?",
    ),
    "returns": (
        "What (does|will|can|would) {n} (return|give back|hand back|evaluate to|yield|output|give me)?",
        "What is the (return value|result|output|returned value|return type|outcome) of {n}?",
        "(What|Which) (value|object|result|type|thing) does {n} (return|produce|give|create)?",
        "{n} returns what?",
        "(Describe|Explain|Tell me|Give me) (what is returned by|the result of|the return value of|the output of) {n}.",
        "{n} (return value|returns|return|result|output|gives back|return type)",
        "What (do|will|would) I (get back from|get from|receive from|obtain from) {n}?",
        "(Which|What) (value|result|object) comes (back|out) (when|if|after) I call {n}?",
        "(Return value|Result|Output|Returned object|Return) (of|from) {n}(?|)",
        "After (calling|running|using) {n}, what do I (have|get|hold)?",
        "Does {n} return (anything|something|a value|None)?",
        "What will {n} (return|give back) to me?",
        "What (is|gets|was) (returned|given back|handed back|produced) (when|if) I (call|run) {n}?",
        "{n}: (what is returned|return value|which result)?",
        "(Tell|Remind) me what {n} (returns|gives back|results in).",
        "What (can|should) I do with the (result|return value|output) of {n}, what is it?",
        "x = {n}(...): what is x(?| then?)",
        "(In|On) return, what does {n} (give|hand over|provide)?",
        "Which type (has|is) the (result|return value) of {n}?",
        "What (ends up|is) in the variable (when|if) I assign {n}?",
        "(I want|I need) to know what {n} (returns|gives back).",
        "(Calling|I ran|I used) {n}(: what do I get back?|; what comes back?|, what is the returned value?)",
        "What (type|kind|sort) of (object|thing|result) does {n} (return|give back)?",
        "(Can|Could) you (say|tell me) what {n} (returns|gives back)?",
        "What (should|can|will) I (get|see|receive) as the (result|output) of {n}?",
        "(If all goes well|When it works|Normally), what does {n} return?",
        "{n}: what (comes back|do I get back|is the result)?",
        "The (result|return value|returned value) of {n} is (what|which)?",
    ),
    "raises": (
        "(What|Which) (exceptions|errors|exception|error) (does|can|will|may) {n} (raise|throw|give|cause)?",
        "What (does|can|will|may) {n} (raise|throw)?",
        "(When|Why|If what) (does|will|would|can) {n} (raise an exception|raise an error|fail|raise|throw an error)?",
        "{n} raises what?",
        "(Which|What) (error|exception) (comes from|is raised by|is thrown by|can come from) {n}?",
        "{n} (exceptions|errors|raises|raise|throws|failure|error)",
        "(Exceptions|Errors|Failures|Exception|Raises) (of|from|in|by) {n}(?|)",
        "(Can|Does|Will|May) {n} (raise|throw) (an exception|an error|something|errors)?",
        "What (can|could|may|might) (go wrong|fail|break) (with|in|inside) {n}?",
        "(Tell me|Explain|Describe) (which exceptions|what errors|when exceptions|which error) {n} (raises|throws).",
        "What (should|must|do) I (catch|handle|except) (around|when I call|after) {n}?",
        "(try|wrap) {n}: (except what|which exception|which error)?",
        "{n}: (which exceptions|what errors|which error)?",
        "My call of {n} (fails|raises|crashed), (when|why|with which error) can that be?",
        "Is there an (error|exception) (in|from|out of) {n}?",
        "(How|Where) (does|can) {n} (fail|go wrong|raise)?",
        "(On|In case of) (failure|error|trouble), what does {n} raise?",
        "(I get|There is) an (exception|error) from {n}, (when|why) (is it raised|does it happen)?",
        "Which (failures|problems|exceptions) (are|get) (raised|reported|thrown) by {n}?",
        "What kinds of (errors|exceptions) come out of {n}?",
        "(Which|What) (exceptions|errors) (could|might|would) {n} (raise|throw|produce)?",
        "(Under what|In what|On which) (conditions|condition|occasion) (does|will) {n} (raise|fail|throw)?",
        "(List|Name|Show) (the |all |)(exceptions|errors) (of|from|that come from) {n}.",
        "{n}: what (can it raise|errors are there|exceptions are there)?",
        "(Calling|When I call) {n}(: which errors are possible?|, which exceptions can happen?|; what can be raised?)",
        "(Should|Must) I (expect|fear|watch for) (an exception|errors|an error) from {n}?",
        "Is (anything|something|any exception|an error) raised by {n}?",
        "(When|If) {n} (fails|goes wrong), (what|which exception) is raised?",
    ),
    "default": (
        "What is the default (value of|of|for|value for) {p} in {n}?",
        "What does {p} default to (in|for|with) {n}?",
        "In {n}, what is the default (of|value of|for) {p}?",
        "(Tell|Show|Give) me the default (value |)(of |for |){p} (of|in) {n}.",
        "{n} {p} (default|default value|by default)",
        "(Default|Default value|The default) (of|for) {p} (in|of) {n}(?|)",
        "If I (leave out|omit|skip|do not give|forget) {p}, what does {n} (use|take|assume)?",
        "(Which|What) value does {p} (have|get|take) by default in {n}?",
        "What is {p} (set to|equal to|initially) by default in {n}?",
        "Which default has the (argument|parameter) {p} of {n}?",
        "{n}: default (of|for|value of) {p}?",
        "(Without|When I leave out) {p}, (which|what) (value|default) is used in {n}?",
        "Does {p} of {n} have a default(?|, and which?)",
        "I (call|use) {n} without {p}(, what is it then?|. Which value has it?|; default?)",
        "(Which|What) (is|would be) {p} if it is (omitted|left out|missing) in {n}?",
        "By default, {p} (in|of) {n} is (what|which value)?",
        "What (happens to be|is) the (preset|standard|usual|initial) value of {p} (in|of) {n}?",
        "(Say|Tell me) (what|which) default {p} has in {n}.",
        "(Look up|Find) the default (value |)(of|for) {p} in {n}.",
        "When I (call|use) {n} and (skip|do not pass|leave out) {p}, what is (used|it)?",
        "What (default|default value) (does|will) {n} (use|take|assume) for {p}?",
        "(What|Which) is the (default|standard) of {p} when calling {n}?",
        "For {n}, (what|which value) is {p} by default?",
        "(Can|Could) you (tell me|give me|find) the default of {p} in {n}?",
    ),
    "parameter": (
        "What (is|does) the (argument|parameter|option|keyword) {p} (of|in) {n} (mean|do|for)?",
        "What is {p} (in|of|for|with) {n}?",
        "What does {p} (do|mean|control|change|stand for) (in|for) {n}?",
        "(Explain|Describe|Define) the (parameter|argument|option|keyword) {p} (of|in) {n}.",
        "What is the {p} (argument|parameter|option|keyword) of {n} (for|about|good for)?",
        "In {n}, what (does|is) {p} (mean|do|for)?",
        "{n} {p}",
        "(The |){p} (argument|parameter|option) (of|in|to) {n}",
        "(Tell|Teach) me (about|what is) {p} (in|of) {n}.",
        "How (is|do I use|should I use|can I use) {p} in {n}?",
        "What (should|can|do|must) I (pass|give|write|put) (as|for) {p} (to|in) {n}?",
        "{n}: what is {p}?",
        "(Explain|Describe) {p} (of|in|for) {n}.",
        "(Purpose|Meaning|Description|Effect|Use) of {p} in {n}",
        "I do not (know|understand) {p} (of|in) {n}(.|, what is it?|, explain it.)",
        "What (kind of thing|object|value) is {p} (of|in|for) {n}?",
        "Why (is there|do I need|would I set) {p} in {n}?",
        "What (changes|happens) (if|when) I (set|pass|give) {p} in {n}?",
        "(Can|Could) you (describe|tell me about) (the argument |the parameter |){p} (of|in) {n}?",
        "What (role|part|function) (has|does) {p} (have |play |)in {n}?",
        "(What|Which) (effect|influence|meaning) does {p} have (in|for) {n}?",
        "(I want to understand|Let me understand) (the parameter |the option |){p} of {n}.",
        "(When I call|Calling) {n}, what (is|should be) {p}?",
        "(Say|Write) what {p} (means|is|does) in {n}.",
        "The (parameter|option|argument) {p} of {n} (means|is|controls) what?",
    ),
    "which": (
        "How (do|can|would|could|should) (I|you|one|we) {s}?",
        "(Which|What) (function|call|method) (will|can|do I use to|would|could) {s}?",
        "What (function|call|method) do I need to {s}?",
        "I (want|need|have|would like|try) to {s}.",
        "Is there a (function|method|call|way) to {s}?",
        "(Find|Look for|Search) a (function|method|call) to {s}.",
        "{s}",
        "(Name|Show me|Tell me|Give me) a (function|method|call) to {s}.",
        "What (can|should|could|do) I use to {s}?",
        "(function|method|call) to {s}",
        "how to {s}",
        "With which (function|method|call) (can|do) I {s}?",
        "(Does|Can) (Python|the library|something) {s}?",
        "I am (searching|asking) for a (function|method) to {s}.",
        "What (helps|is used) to {s}?",
        "(My|Our|This) (code|program|script) (should|needs to|must|wants to) {s}(.|; how?|, with what function?)",
        "(Tell|Show) me how (I|to|one can) {s}.",
        "(Can|Could) (I|you|one) {s}(?| in Python?| somehow?)",
        "(Looking|Searching) for (a function|something|a way|a tool|code) to {s}.",
        "What is (there|available) to {s}?",
        "(Help|Please help) me to {s}.",
        "(What|Which) (would|should|might) I call (if I want|in order|when I need) to {s}?",
        "(The|A) (name|function) (for|of the function) to {s}?",
        "(Something|Anything) to {s}?",
    ),
}

HELD_OUT: Mapping[Kind, Sequence[str]] = {
    "what": (
        "Could you explain what {n} is doing?",
        "What's the point of {n}?",
        "Give a short explanation of {n}.",
        "I came across {n}; what is that for?",
        "Say in one sentence what {n} does.",
        "What is the purpose of {n}?",
        "Please summarize the function {n}.",
        "What would calling {n} do for me?",
        "Help me understand {n}.",
        "{n} does what?",
    ),
    "arguments": (
        "Which parameters are accepted by {n}?",
        "Can you show the signature for {n}?",
        "I need to call {n}: what are its arguments?",
        "What are the parameters of {n}?",
        "Name all arguments that {n} takes.",
        "How is {n} called?",
        "What must be passed to {n}?",
        "Tell me the call signature of {n}.",
        "To use {n}, which arguments do I give?",
        "The argument list of {n}, please.",
    ),
    "returns": (
        "What kind of value is returned from {n}?",
        "When {n} is called, what does it give back?",
        "What gets returned by {n}?",
        "I call {n}; what is the result?",
        "Say what {n} returns.",
        "What should I expect as the return value from {n}?",
        "Could you tell me what comes back from {n}?",
        "On success, what does {n} return?",
        "The output of {n} is what?",
        "{n}: what does it return?",
    ),
    "raises": (
        "Under what circumstances does {n} raise an error?",
        "Which exceptions might be raised by {n}?",
        "When will {n} throw?",
        "What kind of exception could {n} raise?",
        "I call {n}; which errors can occur?",
        "Does {n} ever raise anything?",
        "List the exceptions raised in {n}.",
        "What errors should I expect from {n}?",
        "In which case is an exception raised by {n}?",
        "{n}: what does it raise?",
    ),
    "default": (
        "When {p} is not given, which default does {n} take?",
        "Which value is the default for the {p} parameter of {n}?",
        "Calling {n} without {p}: what is its default?",
        "Say what {p} is by default when {n} is called.",
        "What default value does {n} give {p}?",
        "For {n}, the default of {p} is what?",
        "Could you look up the default value for {p} in {n}?",
        "What would {p} be by default for {n}?",
    ),
    "parameter": (
        "Can you explain what {p} means for {n}?",
        "What role does the {p} argument play in {n}?",
        "What is the meaning of the parameter {p} in {n}?",
        "When calling {n}, what do I give as {p}?",
        "Say what the {p} parameter of {n} does.",
        "Help me understand the option {p} of {n}.",
        "The argument {p} of {n} does what?",
        "Which effect has {p} on {n}?",
    ),
    "which": (
        "What should I call to {s}?",
        "I am looking for a way to {s}.",
        "What is the name of the function to {s}?",
        "Can you tell me how to {s}?",
        "Is it possible to {s}? With what?",
        "Which call lets me {s}?",
        "Help me {s}.",
        "My program has to {s}; what do I use?",
    ),
}

OPENERS: Mapping[FormSet, Sequence[str]] = {
    "training": (
        "In Python, ",
        "Please: ",
        "Hi, ",
        "Hello there! ",
        "Question: ",
        "Quick question, ",
        "Another question: ",
        "I want to know: ",
        "Tell me, ",
        "Can you help me? ",
        "For a program of mine, ",
        "I wonder: ",
        "Sorry, ",
        "Now, ",
    ),
    "held_out": ("Hey there, ", "One more thing: ", "For my script, ", "Could you help? ", "Python question: "),
}
CLOSERS: Mapping[FormSet, Sequence[str]] = {
    "training": (
        " Thanks.",
        " in python",
        " Please answer.",
        " (Python)",
        " Be brief.",
        " Thanks a lot!",
        " I am on Python 3.11",
        " Please",
        " in the library",
        " Bye",
    ),
    "held_out": (" Thank you!", " I use Python 3.", " Cheers", " in the standard library"),
}
OFF_TOPIC: Mapping[FormSet, Sequence[str]] = {
    "training": (
        "What is the (capital|population|currency|flag) of (France|Japan|Brazil|Egypt|Norway|Peru)?",
        "Will it (rain|snow) (today|tomorrow|on Sunday)?",
        "Who (wrote|painted|composed) (Hamlet|the Mona Lisa|the Ninth Symphony|Faust)?",
        "Tell me a (joke|story|secret).",
        "What is the best (pizza|restaurant|hotel) in (Rome|Paris|Chicago)?",
        "How (tall|old|heavy) is (the Eiffel Tower|an elephant|the moon|my dog)?",
        "Who won the (election|match|world cup) in (1998|2006|2014)?",
        "What should I (eat|cook|wear) (tonight|tomorrow)?",
        "How do I (bake bread|grow tomatoes|tie a tie|learn to swim|lose weight)?",
        "(Do you love me|Are you alive|Who are you|How are you)?",
        "When (was|did) (the second world war|Napoleon|Mozart) (end|die|born)?",
        "What (is|are) (photosynthesis|black holes|volcanoes|vitamins)?",
        "Translate (good morning|thank you|cheese) into (German|Spanish|Latin).",
        "Which (team|horse|party) will win?",
        "What is the (meaning|purpose) of life?",
        "Recommend me a (film|novel|song).",
        "How far is (Berlin from Madrid|the sun|the next station)?",
        "What did the (president|pope|queen) say?",
        "Is (chocolate|coffee|sugar) healthy?",
        "Play some (jazz|music).",
    ),
    "held_out": (
        "How is the weather in London?",
        "Who is the king of Sweden?",
        "Where can I buy cheap shoes?",
        "Which planet is the largest?",
        "What time does the train to Vienna leave?",
        "How many legs does a spider have?",
        "Write a poem about autumn.",
        "Why is the sky blue?",
        "What is the recipe for pancakes?",
        "Should I invest in gold?",
        "Who discovered penicillin?",
        "What is my name?",
        "Do cats dream?",
        "How much does a house cost in Denver?",
        "Who scored the most goals last season?",
        "Sing me a lullaby.",
        "What language do they speak in Chile?",
        "Is there life on Mars?",
        "How long should I boil an egg?",
        "Which airline is the safest?",
    ),
}
FORMS: Mapping[FormSet, Mapping[Kind, Sequence[str]]] = {"training": TRAINING, "held_out": HELD_OUT}


def expand(pattern: str, rng: random.Random) -> str:
    """One sentence of a pattern, its choices drawn."""
    return _CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), pattern)


def every(pattern: str) -> Iterator[str]:
    """All sentences of a pattern."""
    match = _CHOICE.search(pattern)
    if match is None:
        yield pattern
        return
    for choice in match.group(1).split("|"):
        yield from every(pattern[: match.start()] + choice + pattern[match.end() :])


def plain(form: str) -> str:
    """A form without case and punctuation: two forms are the same sentence when these are equal."""
    return " ".join(re.findall(r"[a-z{}]+", form.lower()))


@functools.cache
def form_words() -> frozenset[str]:
    """The words that training questions are made of, in lower case: they say what is asked, not what about."""
    return frozenset(_kinds_of_words()) | _SMALL


@functools.cache
def asking_words() -> frozenset[str]:
    """Those of them that serve several kinds of questions: they say nothing that a passage could hold."""
    return frozenset(word for word, kinds in _kinds_of_words().items() if len(kinds) > 1) | _SMALL


def _kinds_of_words() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    extra = {"openers": OPENERS["training"], "closers": CLOSERS["training"]}
    for kind, patterns in [*TRAINING.items(), *extra.items()]:
        for word in re.findall(r"[a-z']+", re.sub(r"\{\w\}", " ", " ".join(patterns)).lower()):
            found.setdefault(word, set()).add(kind)
    return found


_SMALL_WORDS = """
a an the and or of in on at to for from with by as is are was be been it its this that these those there here
i me my you your we us our they he she do does did can could will would shall should may might must not no yes
so if then
"""
_SMALL = frozenset(_SMALL_WORDS.split())
