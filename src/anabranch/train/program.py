"""A program that answers about batches, in a process of its own and in whatever it is written.

It first writes a line of JSON to its standard output, which says what it is:

    {"classes": ["ant", ...], "mean": [0.485, ...], "std": [0.229, ...], "identity": "a hash of its weights, say"}

Each batch then comes to its standard input as a line {"shape": [n, 3, S, S]} and so many float32, little-endian, RGB,
from which `mean` is taken and which are divided by `std`, 1 being white. It answers by a line {"shape": [n, K]} and so
many logits, float32 and little-endian. It ends where its input ends. What it prints for people goes to standard error.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shlex
import signal
import subprocess
import threading
import weakref
from collections.abc import Iterator
from typing import IO, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anabranch.errors import RecipeError, shown

_LONGEST_LINE = 1 << 24  # bytes; 100,000 classes with long names
_LONGEST_S = 600.0  # until it has loaded its weights, and for a batch
_GRACE_S = 2.0  # it has nothing to keep
_F32 = np.dtype("<f4")

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Greeting(BaseModel):
    """What a program says of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    mean: tuple[_Finite, _Finite, _Finite]  # of the pixels that it takes, in parts of white
    std: tuple[_Positive, _Positive, _Positive]
    identity: Annotated[str, Field(min_length=1)]  # of all that its answers depend on but the batch


class Program:
    """The started program. With the object, or with this process, its input ends; it is killed if that does not end it.

    Not so where this process itself is killed, and the program does not read. Raises RecipeError where it does not
    start or does not say what it is within ten minutes.
    """

    def __init__(self, command: tuple[str, ...]):
        self.name = shlex.join(command)
        self._late = False
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # or Ctrl-C would end it within the step that is still to be kept
            )
        except (OSError, ValueError) as error:  # a word with a null character
            raise RecipeError(
                f"distil.teacher: {self.name} does not start: {getattr(error, 'strerror', error)}; each word of a "
                'command is one of the list, ["python", "teacher.py"]'
            ) from None
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._asked, self._answered = process, process.stdin, process.stdout
        weakref.finalize(self, _end, process, process.stdin, process.stdout)
        with self._in_time():
            line = self._line()
        try:
            self.greeting = Greeting.model_validate_json(line)
        except ValidationError as error:
            told = error.errors(include_url=False)[0]
            where = ".".join(map(str, told["loc"]))
            raise self._refused(
                f"does not say what it is in its first line, '{_told(line)}' ({where or 'the line'}: "
                f"{told['msg']}); {_ALONE}"
            ) from None

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 3, S, S), normalised as the program wants it -> (n, K), finite. Raises RecipeError."""
        with self._in_time():
            return self._logits(x)

    def _logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = (len(x), len(self.greeting.classes))
        try:
            self._asked.write(json.dumps({"shape": x.shape}).encode() + b"\n")
            self._asked.write(np.ascontiguousarray(x, _F32).data)
            self._asked.flush()
        except BrokenPipeError:
            raise self._ended() from None
        line = self._line()
        try:
            met = json.loads(line)["shape"]
        except (ValueError, TypeError, KeyError):
            met = None
        if met != list(shape):
            raise self._refused(f"answers '{_told(line)}' where '{json.dumps({'shape': shape})}' was wanted; {_ALONE}")
        data = self._answered.read(math.prod(shape) * _F32.itemsize)
        if len(data) < math.prod(shape) * _F32.itemsize:
            raise self._ended()
        answers = np.frombuffer(data, _F32).astype(np.float32).reshape(shape)
        if not np.isfinite(answers).all():
            raise self._refused("answers with values that are not finite")
        return answers

    def _line(self) -> bytes:
        line = self._answered.readline(_LONGEST_LINE)
        if not line:
            raise self._ended()
        return line

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        """Kill the program if it takes too long, so that what waits for it finds its ends closed."""
        timer = threading.Timer(_LONGEST_S, self._kill)
        timer.daemon = True
        try:
            timer.start()
            yield
        finally:
            timer.cancel()
            if timer.ident is not None:  # Ctrl-C may come before it has begun
                timer.join()  # it holds this object

    def _kill(self) -> None:
        self._late = True
        _kill(self._process)

    def _ended(self) -> RecipeError:
        if self._late:
            return self._refused(f"did not answer for {_LONGEST_S / 60:g} minutes, and was ended")
        try:
            status = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return self._refused("closed its standard input or output, and does not answer")
        if status < 0:
            of_memory = ", as the system does where memory runs out" if -status == signal.SIGKILL else ""
            return self._refused(f"does not answer: it was ended by {signal.Signals(-status).name}{of_memory}")
        return self._refused(f"does not answer: it ended with status {status}; see what it said on standard error")

    def _refused(self, what: str) -> RecipeError:
        return RecipeError(f"distil.teacher: {self.name} {what}")


_ALONE = "standard output is for answers alone, print everything else to standard error"


def _told(line: bytes) -> str:
    return shown(line.decode(errors="replace").rstrip("\n"))


def _end(process: subprocess.Popen[bytes], asked: IO[bytes], answered: IO[bytes]) -> None:
    assert isinstance(asked, io.BufferedWriter)
    asked.raw.close()  # what is left of a batch that was broken off would be waited for
    try:
        process.wait(_GRACE_S)
    except BaseException as error:  # Ctrl-C among them
        _kill(process)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
    answered.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """And with it all that it started, where it is but a wrapper of the one that answers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
