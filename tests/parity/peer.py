"""A publisher's code in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from parity import environments

SCRIPTS = Path(__file__).parent / "peers"
# publisher -> its environment, and the script that speaks for it there
SPEAKERS = {
    "paddleclas": ("paddleclas", ["paddle_zoo.py"]),
    "timm": ("torch", ["torch_zoos.py", "timm"]),
    "torchvision": ("torch", ["torch_zoos.py", "torchvision"]),
    "mmpretrain": ("torch", ["torch_zoos.py", "mmpretrain"]),
}


class Peer:
    """Answers what `peers/conversation.py` describes."""

    def __init__(self, name: str):
        self.name = name
        environment, (script, *words) = SPEAKERS[name]
        python = environments.python(environment)
        # open until close()
        self.said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [python, SCRIPTS / script, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            text=True,
        )
        self.introduction = self.ask("introduce")

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Raises RuntimeError with the publisher's own words where it cannot."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps({"do": do, **what}), file=self.process.stdin, flush=True)
            reply: dict[str, Any] = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.process.wait()
            self.said.seek(0)
            reply = {"error": f"ended with {self.process.returncode}:\n{self.said.read()[-4000:]}"}
        if "error" in reply:
            raise RuntimeError(f"{self.name} could not {do} {what}: {reply['error']}")
        return reply

    def close(self) -> None:
        self.process.communicate()  # it ends when nobody asks any more
        self.said.close()
