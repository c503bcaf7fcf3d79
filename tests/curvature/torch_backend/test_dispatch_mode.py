"""Operations are seen without torch's compiler."""

import subprocess
import sys

CODE = """
import sys
import torch
from fisher_cli.curvature.torch_backend.dispatch_mode import DispatchMode

class Names(DispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        print(function)
        return function(*args, **(kwargs or {}))

with Names():
    torch.ones(2) + 1
print("torch._dynamo" in sys.modules)
"""


def test_operations_are_seen_and_no_compiler_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    *operations, is_imported = done.stdout.splitlines()
    assert operations == ["aten.ones.default", "aten.add.Tensor"]
    assert is_imported == "False"
