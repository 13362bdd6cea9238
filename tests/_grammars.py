"""An independent reader of the trees of constraints (by spans, to a fixed point), and random trees."""

from __future__ import annotations

from llmanac.generate.constrain import expressions as ex


class Spans:
    """Which texts a grammar matches: for each node and place the ends it may have, grown until nothing changes.

    An end is `(place, texts of the scope)`.
    """

    def __init__(self, grammar, text):
        self.grammar, self.text = grammar, text
        self.found, self.asked = {}, set()

    def matches(self):
        start = ("rule", self.grammar.start, 0, frozenset())
        self.asked.add(start)
        while True:
            before = (len(self.asked), sum(map(len, self.found.values())))
            for key in list(self.asked):
                _, name, place, texts = key
                self.found[key] = self.found.get(key, frozenset()) | self.ends(self.grammar.rules[name], place, texts)
            if before == (len(self.asked), sum(map(len, self.found.values()))):
                return any(place == len(self.text) for place, _ in self.found[start])

    def ends(self, node, i, texts):
        match node:
            case ex.Chars(ranges):
                inside = i < len(self.text) and any(a <= ord(self.text[i]) <= b for a, b in ranges)
                return frozenset([(i + 1, texts)]) if inside else frozenset()
            case ex.Concat(items) | ex.Concatenation(items):
                found = frozenset([(i, texts)])
                for item in items:
                    found = frozenset().union(*(self.ends(item, *at) for at in found))
                return found
            case ex.Union(items) | ex.Choice(items):
                return frozenset().union(*(self.ends(item, i, texts) for item in items))
            case ex.Repeat(item, least, most) | ex.Many(item, least, most):
                found, now, count = frozenset(), frozenset([(i, texts)]), 0
                while now and (most is None or count <= most):
                    if count >= least:
                        if now <= found:
                            break
                        found |= now
                    now = frozenset().union(*(self.ends(item, *at) for at in now))
                    count += 1
                return found
            case ex.And(items):
                return frozenset.intersection(*(self.ends(item, i, texts) for item in items))
            case ex.Not(item):
                rest = frozenset((j, texts) for j in range(i, len(self.text) + 1))
                return rest - self.ends(item, i, texts)
            case ex.Terminal(regex):
                return self.ends(regex, i, texts)
            case ex.Fresh(regex):
                ends = [(j, self.text[i:j]) for j, _ in self.ends(regex, i, texts)]
                return frozenset((j, texts | {own}) for j, own in ends if own not in texts)
            case ex.Scope(inner):
                return frozenset((j, texts) for j, _ in self.ends(inner, i, frozenset()))
            case ex.Ref(name):
                key = ("rule", name, i, texts)
                self.asked.add(key)
                return self.found.get(key, frozenset())
        raise AssertionError(node)


def letters(text):
    return ex.Chars(tuple((ord(c), ord(c)) for c in text))


def random_regex(rng, depth, alphabet="ab", logic=True):
    """A random tree over an alphabet, with And and Not where `logic` says so."""
    kind = rng.integers(0, 8 if logic else 6) if depth else 0
    part = lambda: random_regex(rng, depth - 1, alphabet, logic)  # noqa: E731
    if kind <= 1:
        return letters(rng.choice(list(alphabet), rng.integers(1, 3)))
    if kind == 2:
        return ex.Concat(tuple(part() for _ in range(rng.integers(0, 4))))
    if kind in (3, 4):
        return ex.Union(tuple(part() for _ in range(rng.integers(1, 4))))
    if kind == 5:
        least = int(rng.integers(0, 3))
        return ex.Repeat(part(), least, [None, least, least + 2][rng.integers(0, 3)])
    return ex.And((part(), part())) if kind == 6 else ex.Not(part())


def random_node(rng, depth, rules, fresh=False):
    """A random node of a grammar over the letters a and b."""
    kind = rng.integers(0, 9) if depth else rng.integers(0, 3)
    part = lambda: random_node(rng, depth - 1, rules, fresh)  # noqa: E731
    if kind == 0:
        return ex.Ref(str(rng.choice(rules)))
    if kind <= 2:
        regex = random_regex(rng, 1, logic=False)
        return ex.Fresh(regex) if fresh and rng.random() < 0.7 else ex.Terminal(regex)
    if kind <= 5:
        return ex.Concatenation(tuple(part() for _ in range(rng.integers(1, 4))))
    if kind == 6 and fresh:
        return ex.Scope(part())
    if kind <= 7:
        return ex.Choice(tuple(part() for _ in range(rng.integers(1, 4))))
    least = int(rng.integers(0, 2))
    return ex.Many(part(), least, [None, least + 1][rng.integers(0, 2)])
