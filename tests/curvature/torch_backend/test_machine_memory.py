"""The memory that a process may use: the machine's, or the least limit of its control groups and of those above."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from fisher_cli.curvature.problem import batching
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.spectra import solver_choice
from fisher_cli.curvature.torch_backend import machine_memory
from fisher_cli.inputs.formats import files
from tests.cases import mlp

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
GIBIBYTE = 2**30
NO_LIMIT = 9223372036854771712  # what version 1 shows where none was set
V1 = "36 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory"
OTHER_V1 = "33 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
ROOT_MOUNT = "23 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"


def memory_with(root: Path, groups: str, mounts: list[str], files: Mapping[str, object]) -> tuple[int, str]:
    """What is found in a tree of files such as the kernel shows."""
    files = {"proc/self/cgroup": groups, "proc/self/mountinfo": "\n".join([ROOT_MOUNT, *mounts]), **files}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return machine_memory.total_memory(root)


@pytest.mark.parametrize(
    ("limits", "least"),
    [
        ({"a/b/memory.max": GIBIBYTE}, GIBIBYTE),
        ({"a/b/memory.max": 3 * GIBIBYTE, "a/b/memory.high": 2 * GIBIBYTE}, 2 * GIBIBYTE),
        ({"a/b/memory.max": "max", "a/b/memory.high": "max", "a/memory.max": GIBIBYTE}, GIBIBYTE),
        ({"a/b/memory.max": 2 * GIBIBYTE, "a/memory.high": GIBIBYTE}, GIBIBYTE),
        ({"a/b/memory.max": GIBIBYTE, "a/memory.max": 2 * GIBIBYTE}, GIBIBYTE),
        ({"memory.max": GIBIBYTE}, GIBIBYTE),  # a container with a name space of its own sees its group as the root
        ({"a/other/memory.max": GIBIBYTE}, None),  # of a group beside
        ({"a/b/memory.max": "max", "a/b/memory.high": "max"}, None),
        ({"a/b/memory.max": 2 * PHYSICAL}, None),
        ({}, None),
    ],
)
def test_the_least_limit_of_a_group_of_version_2_and_of_those_above_counts(
    limits: dict[str, object], least: int | None, tmp_path: Path
) -> None:
    found = memory_with(tmp_path, "0::/a/b", [V2], {f"sys/fs/cgroup/{name}": value for name, value in limits.items()})
    assert found == ((PHYSICAL, "the machine's memory") if least is None else (least, "the control group's limit"))


@pytest.mark.parametrize(
    ("limits", "least"),
    [
        ({"a/b": GIBIBYTE, "a": NO_LIMIT, "": NO_LIMIT}, GIBIBYTE),
        ({"a/b": NO_LIMIT, "a": GIBIBYTE, "": NO_LIMIT}, GIBIBYTE),
        ({"a/b": NO_LIMIT, "a": NO_LIMIT, "": NO_LIMIT}, None),
    ],
)
def test_the_least_limit_of_a_group_of_version_1_and_of_those_above_counts(
    limits: dict[str, int], least: int | None, tmp_path: Path
) -> None:
    files = {f"sys/fs/cgroup/memory/{name}/memory.limit_in_bytes": value for name, value in limits.items()}
    files["sys/fs/cgroup/cpu/a/b/memory.limit_in_bytes"] = 1
    found = memory_with(tmp_path, "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/a/b", [OTHER_V1, V1], files)
    assert found == ((PHYSICAL, "the machine's memory") if least is None else (least, "the control group's limit"))


def test_both_versions_side_by_side_count(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": 2 * GIBIBYTE,
        "sys/fs/cgroup/unified/u/memory.max": GIBIBYTE,
    }
    mounts = [V1, V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")]
    assert memory_with(tmp_path, "4:memory:/a\n0::/u", mounts, files)[0] == GIBIBYTE


@pytest.mark.parametrize("group", ["/docker/1f", "/docker/1f/inner", "/../elsewhere"])
def test_a_container_that_sees_its_own_group_only_is_limited_by_it(group: str, tmp_path: Path) -> None:
    """The group is named as outside of the container, and is the root of what is mounted."""
    mount = V1.replace("0:32 / ", "0:32 /docker/1f ")
    files = {"sys/fs/cgroup/memory/memory.limit_in_bytes": GIBIBYTE}
    assert memory_with(tmp_path, f"4:memory:{group}", [mount], files)[0] == GIBIBYTE


def test_without_control_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert machine_memory.total_memory(tmp_path) == (PHYSICAL, "the machine's memory")


def test_batches_solvers_and_examples_are_chosen_by_it(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The machine's, where it is less than any limit under which this process could run."""
    request.addfinalizer(machine_memory.total_memory.cache_clear)
    values, one = 10**4, torch.zeros(1)
    sizes, solvers = [], []
    problem = pose(mlp(4, 60, 3), TensorData(torch.randn(9, 4), torch.arange(9) % 3), batch_size=9)
    for limit in (2**27, 2**20):
        monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": limit}.__getitem__)
        machine_memory.total_memory.cache_clear()
        sizes.append(batching.automatic_batch_size(values, one, 10, 10**6))
        solvers.append(solver_choice.vectors_fit(problem, 60))
        assert batching.memory_bytes(torch.device("cpu")) == limit
        assert batching.graph_bytes(torch.device("cpu")) == limit // 8
        assert files.available_memory() == limit // 2
    assert sizes == [13, 1]
    assert solvers == [True, False]
