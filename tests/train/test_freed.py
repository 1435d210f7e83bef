import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import torch
from anabranch.train.freed import keep_freed_memory

if {keeps}:
    keep_freed_memory()

def page_faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(12_000_000) for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(*[page_faults_of_a_step() for _ in range(12)])
"""


def page_faults(*, keeps: bool) -> list[int]:
    """Of twelve steps, each of which allocates 144 MB in three tensors and frees them."""
    done = subprocess.run([sys.executable, "-c", STEPS.format(keeps=keeps)], capture_output=True, text=True, check=True)
    return [int(count) for count in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the GNU C library")
def test_memory_that_a_step_frees_serves_the_next_without_page_faults():
    assert min(page_faults(keeps=False)) > 60, "otherwise there is nothing to keep"
    assert max(page_faults(keeps=True)[-3:]) < 60, "once the heap holds a step"
