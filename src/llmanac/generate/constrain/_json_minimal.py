"""The smallest automaton of a set of numbers' texts."""

from llmanac.generate.constrain import _patience

Automaton = tuple[list[dict[str, int]], frozenset[int]]  # edges of each state (0 is the start), accepting states


def smallest(edges: list[dict[str, int]], accepting: set[int], alphabet: str) -> Automaton:
    """Without states that reach no accepting one, and with equal states made one (Hopcroft 1971)."""
    sources: dict[int, set[int]] = {}
    for n, out in enumerate(edges):
        for target in out.values():
            sources.setdefault(target, set()).add(n)
    alive, todo = set(accepting), list(accepting)
    while todo:
        for source in sources.get(todo.pop(), ()):
            if source not in alive:
                alive.add(source)
                todo.append(source)
    if 0 not in alive:
        return [{}], frozenset()
    into: dict[tuple[str, int], list[int]] = {}
    for n in alive:
        for symbol, target in edges[n].items():
            into.setdefault((symbol, target), []).append(n)
    blocks = [block for block in (accepting & alive, alive - accepting) if block]
    place = {n: number for number, block in enumerate(blocks) for n in block}
    todo = list(range(len(blocks)))
    waiting = set(todo)
    while todo:
        _patience.check()
        waiting.discard(number := todo.pop())
        splitter = list(blocks[number])
        for symbol in alphabet:
            reaching: dict[int, set[int]] = {}
            for n in splitter:
                for source in into.get((symbol, n), ()):
                    reaching.setdefault(place[source], set()).add(source)
            for number, apart in reaching.items():
                if len(apart) == len(blocks[number]):
                    continue
                blocks[number] -= apart
                new = len(blocks)
                blocks.append(apart)
                place.update(dict.fromkeys(apart, new))
                smaller = new if number in waiting or len(apart) <= len(blocks[number]) else number
                waiting.add(smaller)
                todo.append(smaller)
    seen: dict[int, int] = {}  # the start gets number 0
    part = {n: seen.setdefault(place[n], len(seen)) for n in sorted(alive)}
    count = len(seen)
    result: list[dict[str, int]] = [{} for _ in range(count)]
    for n in alive:
        result[part[n]] = {s: part[t] for s, t in edges[n].items() if t in alive}
    return result, frozenset(part[n] for n in accepting)
