from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from anabranch import engines
from anabranch.engines import silenced
from anabranch.errors import MissingExtra


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_openvino_comes_without_its_telemetry_and_without_torch():
    code = """
import sys
from anabranch.engines import openvino
openvino().Core()
print(*[name for name in sys.modules if "telemetry" in name or name in ("torch", "openvino.tools.ovc")], "end")
"""
    assert run(code) == ["end"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system lends no process fewer cores")
def test_cores_lent_to_others_are_not_counted():
    code = """
import os
from anabranch.engines import usable_cores
before = usable_cores()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(before, usable_cores())
"""
    assert run(code) == [str(len(os.sched_getaffinity(0))), "1"]


def test_what_was_left_out_of_openvino_is_there_for_others():
    code = """
from anabranch.engines import openvino
openvino()
import openvino
from openvino.tools.ovc import convert_model
print(openvino.convert_model is convert_model, hasattr(openvino, "nonsense"))
"""
    assert run(code) == ["True", "False"]


def test_an_openvino_that_is_there_already_is_left_as_it_is():
    code = """
import openvino
before = openvino.convert_model
from anabranch import engines
print(engines.openvino() is openvino, openvino.convert_model is before)
"""
    assert run(code) == ["True", "True"]


def test_a_missing_onnxruntime_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'anabranch\[onnxruntime\]'"):
        engines.onnxruntime()


def test_both_outputs_come_back_when_two_threads_were_silent_at_once(capfd) -> None:
    def silent(seconds: float) -> None:
        with silenced():
            os.write(1, b"unheard")
            time.sleep(seconds)

    threads = [threading.Thread(target=silent, args=(seconds,)) for seconds in (0.2, 0.3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(1, b"out")
    os.write(2, b"err")
    assert capfd.readouterr() == ("out", "err")
