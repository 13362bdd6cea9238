"""Ctrl-C ends a command with 130, also where the exception it raises is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from llmanac.tokenizers.load import train_tokenizer

LOST = """
import signal, sys
import llmanac.recipes.vocabulary.stream as shown
from llmanac.core import interrupts
real = shown.facts
def bare(*given):
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        pass
    return real(*given)
class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def destructor(*given):
    Dying()
    return real(*given)
def answered(*given):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        interrupts.answered()
    return real(*given)
def executed(*given):
    exec("signal.raise_signal(signal.SIGINT)")
def raised(*given):
    signal.raise_signal(signal.SIGINT)
shown.facts = globals()[sys.argv.pop(1)]
from llmanac.cli import main
main()
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer("bpe", ["some text"], vocab_size=270).save(folder)
    words = [sys.executable, "-m", "llmanac.cli", "tokenizer", "inspect", str(folder)]
    subprocess.run(
        words, check=True, capture_output=True
    )  # its kernels are compiled: what is said of that is no matter here
    return folder


@pytest.mark.parametrize(
    ("how", "status"), [("bare", 130), ("destructor", 130), ("raised", 130), ("executed", 130), ("answered", 0)]
)
def test_an_interrupt_that_is_lost_is_not_forgotten(tokenizer, how, status):
    words = [sys.executable, "-c", LOST, how, "tokenizer", "inspect", str(tokenizer)]
    done = subprocess.run(words, capture_output=True, text=True)
    said = done.stderr.replace("compiling for this machine; it is done once and kept, and takes up to a minute\n", "")
    assert done.returncode == status and not said, said
    assert bool(done.stdout) == (how not in ("raised", "executed"))


@pytest.mark.parametrize(
    ("module", "call"), [("typer", ""), ("llmanac.cli.ngram", "llmanac.cli.main(['ngram', '--help'])")]
)
def test_an_interrupt_while_the_command_line_is_imported_ends_it_without_a_word(module, call):
    code = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == '{module}':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"import llmanac.cli\n{call}\n"
        "print('here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_outside_of_commands_an_interrupt_is_what_it_was():
    code = (
        "import signal, llmanac.cli as cli\n"
        "try: cli.main(['--version'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.skipif(os.name == "nt", reason="no signals of this kind there")
def test_children_of_tests_hear_an_interrupt_where_the_shell_ignores_it(root):
    """As under `nohup make test &`: this file's own tests pass there, and the process of the tests goes on."""
    inside = (
        "import signal, subprocess, sys\n"
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
        "child = [sys.executable, '-c', 'import signal; signal.raise_signal(signal.SIGINT)']\n"
        "deaf = subprocess.run(child, stderr=subprocess.DEVNULL).returncode\n"
        "from _children import hear_interrupts\n"
        "hear_interrupts()\n"
        "signal.raise_signal(signal.SIGINT)\n"
        "print(deaf, subprocess.run(child, stderr=subprocess.DEVNULL).returncode)\n"
    )
    words = ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, inside]
    done = subprocess.run(words, capture_output=True, text=True, cwd=root / "tests")
    assert done.stdout.split() == ["0", str(-signal.SIGINT)], done.stderr
