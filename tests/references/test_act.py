"""Episodes by tool calls: replayed exactly, read by the openai SDK, rarely solved by chance, learned by the loop."""

from __future__ import annotations

import json

import pytest
from _small_models import transformer

from llmanac.act import load_environment
from llmanac.act.episodes import Episode, RandomPolicy, Success, play, replay
from llmanac.act.training import EpisodeRollouts, ModelPolicy, Solution, as_text, demonstrations
from llmanac.cli import main
from llmanac.core import registry
from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.generate.constrain.tools import parse_calls
from llmanac.generate.engine import Engine
from llmanac.train.rollouts import Sampling

TOKENIZER = make_method("tokenizer", "utf8").train([""])
NAMES = sorted(registry.methods("environment"))


@pytest.fixture(scope="module")
def engine():
    return Engine(transformer(vocab_size=TOKENIZER.vocab_size, dim=16, layers=1, max_length=1024), TOKENIZER, rows=16)


@pytest.mark.parametrize("name", NAMES)
def test_calls_at_random_rarely_succeed_and_the_solution_always_does(name):
    world = load_environment(name)
    chance = Success.of(play(world, RandomPolicy(world.tools), range(1500)))
    assert 0 < chance.share < 0.1 and chance.interval[1] < 0.1
    assert Success.of(play(world, Solution(load_environment(name)), range(60))).share == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_is_replayed_exactly(name):
    world = load_environment(name)
    for episode in [*play(world, RandomPolicy(world.tools), range(40)), *play(world, Solution(world), range(10))]:
        again = Episode.from_json(json.loads(json.dumps(episode.as_json())))
        assert replay(world, again) == again.value == episode.value
    again.messages[2]["content"] = "Something else."
    with pytest.raises(DataError, match=r"step 0: the replay gives"):
        replay(world, again)
    again.messages[0]["content"] = "Another task."
    with pytest.raises(DataError, match="begins with"):
        replay(world, again)


@pytest.mark.parametrize("name", NAMES)
def test_a_models_calls_are_those_of_the_tools(engine, name):
    """An untrained model's calls, constrained, are valid ones; the openai SDK reads them; the grammar allows them."""
    types = pytest.importorskip("openai.types.chat")
    world = load_environment(name)
    policy = ModelPolicy(engine, world.tools)
    found = play(world, policy, range(3))
    names = {tool["function"]["name"] for tool in world.tools}
    for episode in found:
        assert episode.rewards and replay(world, episode) == episode.value
        for message in episode.messages:
            if message["role"] == "assistant":
                read = types.ChatCompletionMessage.model_validate(message)
                (call,) = read.tool_calls
                assert call.type == "function" and call.function.name in names
                assert isinstance(json.loads(call.function.arguments), dict)
                (parsed,) = parse_calls(as_text(message["tool_calls"][0]["function"]), "hermes")
                assert parsed.name == call.function.name and parsed.arguments == json.loads(call.function.arguments)
    (alone,) = play(world, policy, [1])
    assert alone.messages == found[1].messages


def test_a_text_that_is_no_call_ends_the_episode(engine):
    world = load_environment("orders")
    (episode,) = play(world, ModelPolicy(engine, world.tools, constrained=False, tokens=6), [0])
    assert episode.done and not episode.rewards and episode.value == 0 and len(episode.turns) == 1
    policy = ModelPolicy(engine, world.tools)
    for text in (
        '{"name": "answer", "arguments": {"total": 41}}',
        '{"name": "answer", "arguments": {}}',
        '{"name": "x"',
    ):
        assert policy._read(f"<tool_call>\n{text}\n</tool_call>") is None
    assert (
        policy._read('<tool_call>\n{"name": "answer", "arguments": {"total": 40}}\n</tool_call>').arguments["total"]
        == 40
    )


OWN = """
class Coin:
    tools = [{"type": "function", "function": {"name": "guess", "parameters": {
        "type": "object", "properties": {"heads": {"type": "boolean"}}, "required": ["heads"]}}}]

    def reset(self, seed):
        self.heads = seed % 2 == 0
        return "Heads or tails?"

    def step(self, name, arguments):
        if arguments["heads"] is None:
            raise ValueError("edge")
        return "right" if arguments["heads"] == self.heads else "wrong", float(arguments["heads"] == self.heads), True


class Broken(Coin):
    def step(self, name, arguments):
        raise KeyError("coin")


class Empty:
    tools = []
"""


def test_an_environment_of_ones_own(tmp_path, engine):
    file = tmp_path / "coin.py"
    file.write_text(OWN)
    world = load_environment(f"{file}:Coin")
    share = Success.of(play(world, RandomPolicy(world.tools), range(200))).share
    assert 0.35 < share < 0.65
    assert all(
        replay(world, episode) == episode.value for episode in play(world, ModelPolicy(engine, world.tools), range(3))
    )
    with pytest.raises(DataError, match=r"step 0 of the episode with seed 0, guess.*KeyError"):
        play(load_environment(f"{file}:Broken"), RandomPolicy(world.tools), [0])
    for name, what in ((f"{file}:Empty", "has no reset"), (f"{file}:Not", "no function"), ("treasur", "treasure")):
        with pytest.raises(SpecError, match=what):
            load_environment(name)


HOSTILE = """
import threading
TOOLS = [{"type": "function", "function": {"name": "go", "parameters": {"type": "object", "properties": {
    "x": {"type": "integer", "minimum": 0, "maximum": 3}}, "required": ["x"]}}}]

class Good:
    tools, most = TOOLS, 3
    def reset(self, seed): return "task"
    def step(self, name, arguments): return ("ok", 1.0, False)

class Changes(Good):
    def step(self, name, arguments): return (str(arguments.pop("x")), 1.0, False)

def made(name, **parts):
    globals()[name] = type(name, (Good,), parts)

def tool(**x):
    return [{"type": "function", "function": {"name": "go", "parameters": {
        "type": "object", "properties": {"x": x}, "required": ["x"]}}}]

def fails(*a): raise ValueError("edge")
def ends(*a): raise SystemExit(4)

made("Init", __init__=fails)
made("Argument", __init__=lambda self, a: None)
made("NoTools", tools=None)
made("Text", tools="abc")
made("Item", tools=["go"])
made("Empty", tools=[])
made("Property", tools=property(fails))
made("Reversed", tools=tool(type="integer", minimum=5, maximum=1))
made("NoChoice", tools=tool(enum=[]))
made("MostText", most="3")
made("MostZero", most=0)
made("Lock", __init__=lambda self: setattr(self, "lock", threading.Lock()))
made("Reset", reset=fails)
made("ResetEnds", reset=ends)
made("Number", reset=lambda self, seed: 5)
made("Half", reset=lambda self, seed: "\\ud800")
made("StepEnds", step=ends)
made("Nan", step=lambda self, n, a: ("a", float("nan"), False))
made("Huge", step=lambda self, n, a: ("a", 1e308, False))
made("DoneText", step=lambda self, n, a: ("a", 1.0, "False"))
made("DoneNone", step=lambda self, n, a: ("a", 1.0, None))
made("RewardText", step=lambda self, n, a: ("a", "1", False))
made("RewardBool", step=lambda self, n, a: ("a", True, False))
made("Two", step=lambda self, n, a: ("a", 1.0))
made("Table", step=lambda self, n, a: ({"a": 1}, 1.0, False))
made("Text3", step=lambda self, n, a: "abc")
made("StepHalf", step=lambda self, n, a: ("\\ud800", 1.0, False))
"""


def test_faults_of_a_users_environment_are_named(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(HOSTILE)
    for name, what in (
        ("Init", "making it .* raised ValueError: edge"), ("Argument", "making it .* raised TypeError"),
        ("NoTools", "tools is None"), ("Text", "tools is 'abc'"), ("Item", r"tools\[0\]"), ("Empty", "tools: 0"),
        ("Property", "making it .* raised ValueError"), ("Reversed", r"tools\[0\].*no value"),
        ("NoChoice", r"tools\[0\].*no value"), ("MostText", "most is '3'"), ("MostZero", "most is 0"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=f"own.py:{name}: {what}"):
            load_environment(f"{file}:{name}")
    for name, what in (
        ("Lock", "to copy it .* raised TypeError"), ("Reset", r"reset\(0\) raised ValueError: edge"),
        ("ResetEnds", ".* raised SystemExit: 4"), ("Number", r"reset\(0\) gave 5"),
        ("Half", r"reset\(0\) gave the half"),
        ("StepEnds", "step 0 .*raised SystemExit"), ("Nan", "step 0 .*reward nan"),
        ("Huge", r"step 0 .*reward 1e\+308"),
        ("StepHalf", "step 0 .* gave the half"),
        ("DoneText", r"step 0 .* DoneText.step returned \('a', 1.0, 'False'\); \(text, reward, done\) is needed"),
        ("DoneNone", "step 0 .* DoneNone.step returned"), ("RewardText", r"step 0 .* returned \('a', '1', False\)"),
        ("RewardBool", "step 0 .* returned"), ("Two", r"step 0 .* returned \('a', 1.0\)"),
        ("Table", "step 0 .* returned"), ("Text3", "step 0 .* returned 'abc'"),
    ):  # fmt: skip
        world = load_environment(f"{file}:{name}")
        with pytest.raises(DataError, match=f"environment: {what}"):
            play(world, RandomPolicy(world.tools), [0])
    world = load_environment(f"{file}:Changes")
    (episode,) = play(world, RandomPolicy(world.tools), [0])
    assert "x" in json.loads(episode.calls[0]["arguments"]) and replay(world, episode) == 3.0
    wide = {"type": "integer", "minimum": 0, "maximum": 10**30}
    with pytest.raises(SpecError, match="to be random"):
        play(world, RandomPolicy([{"function": {"name": "go", "parameters": {"properties": {"x": wide}}}}]), [0])


def test_calls_of_episodes_are_rollouts(engine):
    """Every call is one, with its episode's return and the advantage among the episodes of its task; ratio 1."""
    world = load_environment("treasure")
    objective = make_method("objective", {"name": "policy-gradient", "advantage": "rloo"}).build()
    policy = ModelPolicy(engine, world.tools, constrained=False, tokens=5)
    source = EpisodeRollouts(world, policy, range(4), objective, Sampling(prompts=2, samples=3, tokens=5), seed=0)
    rows = next(source)
    assert len(rows) == 6 and all(row.reward == 0 and not row.advantages.any() for row in rows)
    _, units, metrics = objective.loss(engine.model, objective.collate(rows))
    assert float(metrics["largest_gap"] / units) < 1e-5
    shown = demonstrations(world, engine, range(2))
    ids, mask = shown[0]
    call = TOKENIZER.decode(ids[mask].tolist())
    assert call.startswith("<tool_call>") and call.endswith("</tool_call>") and not mask[: int(mask.argmax())].any()
    assert TOKENIZER.decode(ids[~mask].tolist()).startswith("Rooms: ")


def test_line_separators_in_an_episode_are_no_ends_of_lines(tmp_path, capsys):
    (tmp_path / "world.py").write_text(
        "class World:\n    most = 2\n    tools = [{'type': 'function', 'function': {'name': 'go', 'description': 'd',"
        " 'parameters': {'type': 'object', 'properties': {'x': {'type': 'boolean'}}, 'required': ['x']}}}]\n"
        "    def reset(self, seed): return 'task\\u2028two'\n"
        "    def step(self, name, arguments): return ('seen\\x85more', 1.0, True)\n"
    )
    place = f"{tmp_path / 'world.py'}:World"
    world = load_environment(place)
    (episode,) = play(world, RandomPolicy(world.tools), [0])
    file = tmp_path / "episodes.jsonl"
    file.write_text(json.dumps(episode.as_json(), ensure_ascii=False) + "\n", "utf-8")
    with pytest.raises(SystemExit, match="0"):
        main(["act", "none", "--environment", place, "--replay", str(file)])
    assert "1 episodes" in capsys.readouterr().out
