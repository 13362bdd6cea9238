import pathlib
import subprocess
import sys
import tempfile

url, name = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, "hello.py")
    file.write_text("print('helo')\n")
    aider = pathlib.Path(sys.executable).with_name("aider")
    done = subprocess.run(
        [aider, "--model", f"openai/{name}", "--openai-api-base", f"{url}/v1", "--openai-api-key", "unused", "--no-git",
         "--yes-always", "--no-check-update", "--analytics-disable", "--no-show-model-warnings", "--no-auto-lint",
         "--edit-format", "whole", "--message", "Change helo to hello.", "hello.py"],
        cwd=folder, capture_output=True, text=True, timeout=500, env={"PATH": "/usr/bin:/bin", "HOME": folder},
    )  # fmt: skip
    assert done.returncode == 0 and "Tokens:" in done.stdout, done.stdout + done.stderr
    own = [line for line in done.stdout.splitlines() if "://" not in line and "host=" not in line]  # its price list's
    assert not any("error" in line.lower() for line in own), done.stdout
print("done: chat, stream")
