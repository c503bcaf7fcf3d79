"""A model of the cost on a cluster: compute, loading, sums over ranks and memory of a run, in plain arithmetic.

    python -m benchmarks.cluster

Every assumption is a field with its default; nothing here was measured on a GPU.
"""

from dataclasses import dataclass

SINGLE, DOUBLE = 4, 8
GIB, TERA = 2**30, 10**12


@dataclass(frozen=True)
class Workload:
    """A run over checkpoints of a transformer classifier, traces without eigenvalues.

    `kept` times `width` values are the outputs of one layer's modules for a token, by which the engine's batches are
    chosen; `directions` are backward passes per example (six of the deflated estimator). `itemsize` is of the weights;
    in bfloat16 there is no movement, which float32 has. A layer has `tensors` parameters.
    """

    parameters: float = 7e9
    layers: int = 32
    width: int = 4096
    kept: float = 16.0
    tokens: int = 512
    examples: int = 1000
    directions: int = 6
    checkpoints: int = 100
    itemsize: int = 2
    batch: int = 1
    movement: bool = False
    tensors: int = 9

    @property
    def network_passes(self) -> float:
        """Passes through the network, in forward passes, in the type of the weights: see docs/scaling.md.

        One forward; per direction one backward pass to the inputs; one forward and one backward pass for the inner
        products of the mean gradient with every example's; J Δ of the movement three.
        """
        return 1 + self.directions + 2 + 3 * self.movement

    @property
    def rule_passes(self) -> float:
        """What layers' rules multiply, in forward passes, in float32: norms, the mean gradient, those inner products.

        A norm costs no more than the product of cotangents and inputs.
        """
        return self.directions + 2


@dataclass(frozen=True)
class Cluster:
    """GPUs in nodes; rates are what is reached, not what is printed on the box.

    `flops` per GPU in the type of the weights, `float32` those in float32 without TF32; `storage` bytes per second that
    a node reads from the file system, `host` from host memory to one GPU, `fabric` from one GPU to others of its node.
    `meeting` is what it takes the ranks of a node to tell each other a number, in seconds.
    """

    gpus: int = 64
    gpus_per_node: int = 8
    flops: float = 300 * TERA
    float32: float = 40 * TERA
    memory: int = 80 * GIB
    host_memory: int = 2048 * GIB
    storage: float = 2e9
    host: float = 20e9
    fabric: float = 100e9
    meeting: float = 2e-4

    @property
    def nodes(self) -> int:
        """How many."""
        return self.gpus // self.gpus_per_node


@dataclass(frozen=True)
class Layout:
    """How memory is laid out; the defaults are what is built today.

    `gradient_shares` is over how many ranks the float64 mean gradient is divided, None: all that share the examples,
    1: every rank has it whole; `weight_shares` the same of the weights.
    """

    gradient_shares: int | None = None
    weight_shares: int = 1
    gradient_itemsize: int = DOUBLE


@dataclass(frozen=True)
class Cost:
    """Seconds of one measurement by cause, of the run; bytes on a GPU by cause, and on a node's host."""

    seconds: tuple[tuple[str, float], ...]
    measurements_each: float
    gpu: tuple[tuple[str, float], ...]
    node: tuple[tuple[str, float], ...]
    fits_gpu: bool
    fits_node: bool

    @property
    def total_seconds(self) -> float:
        """Of the run, all shards going on at once."""
        return self.measurements_each * sum(seconds for _, seconds in self.seconds)

    @property
    def gpu_bytes(self) -> float:
        """On one GPU."""
        return sum(size for _, size in self.gpu)


def cost(work: Workload, cluster: Cluster, layout: Layout | None = None) -> Cost:
    """One shard of the checkpoints per node, the examples shared out among the GPUs of the node.

    With movement a run of T checkpoints in n shards takes T + n − 1 measurements, else T. Every rank reads every
    checkpoint that it measures from the node's page cache, which is filled once from storage.
    """
    layout = layout or Layout()
    p, ranks = work.parameters, cluster.gpus_per_node
    shares = layout.gradient_shares or ranks
    one = 2 * p * work.tokens * work.examples / ranks
    weights = p * work.itemsize
    gradient = p * layout.gradient_itemsize / shares
    seconds = (
        ("passes through the network", one * work.network_passes / cluster.flops),
        ("rules of the layers", one * work.rule_passes / cluster.float32),
        ("storage", weights / cluster.storage),
        ("to the GPU", weights / cluster.host),
        ("sum over ranks", _over_ranks(work, cluster, layout.gradient_itemsize, shares)),
    )
    values = work.layers * work.tokens * work.width * work.kept
    gpu = (
        ("weights", weights / layout.weight_shares),
        ("mean gradient", gradient),
        ("step of the movement", work.movement * weights / layout.weight_shares),
        ("batch", work.batch * values * (work.directions + 6) * work.itemsize),
    )
    # The file's bytes, the weights that were read from it, and the network, which is built in float32.
    node = (
        ("checkpoints being read", ranks * (2 * weights + SINGLE * p)),
        ("networks of the row before", work.movement * ranks * weights),
    )
    return Cost(
        seconds,
        (work.checkpoints + work.movement * (cluster.nodes - 1)) / cluster.nodes,
        gpu,
        node,
        sum(size for _, size in gpu) <= cluster.memory,
        sum(size for _, size in node) <= cluster.host_memory,
    )


def _over_ranks(work: Workload, cluster: Cluster, itemsize: int, shares: int) -> float:
    """Seconds of the mean gradient: one sum at the end, or what is shared out batch by batch and read in a second pass.

    A batch's sums, and what is read for one, are float32. Of both a rank has its own share. Before each parameter of a
    batch the ranks meet twice, to agree on it and to begin; the second pass takes half a batch at once.
    """
    p, ranks = work.parameters, cluster.gpus_per_node
    if ranks == 1 or shares == 1:
        return 2 * p * itemsize / cluster.fabric * (ranks > 1)  # a ring moves every byte twice
    times = work.examples / ranks * (1 / work.batch + 1 / max(1, work.batch // 2))
    return times * (p * SINGLE * (1 - 1 / ranks) / cluster.fabric + 2 * work.layers * work.tensors * cluster.meeting)


def lines(work: Workload, cluster: Cluster) -> list[str]:
    """The prediction as Markdown: time, and memory today, as it would be otherwise, and with what could be changed."""
    today = cost(work, cluster)
    layouts = {
        "mean gradient whole on every rank": Layout(gradient_shares=1),
        "today: shared out among a node's ranks": Layout(),
        "the same in float32": Layout(gradient_itemsize=SINGLE),
        "weights as well (FSDP)": Layout(weight_shares=cluster.gpus_per_node),
    }
    shown = [
        f"| {name} | {seconds:,.1f} s | {seconds * today.measurements_each / 3600:,.2f} h |"
        for name, seconds in today.seconds
    ]
    total = sum(seconds for _, seconds in today.seconds)
    node = sum(size for _, size in today.node)
    rows = ["| cause | one measurement | the run |", "|---|---:|---:|", *shown]
    rows += [f"| all | {total:,.1f} s | {today.total_seconds / 3600:,.2f} h |", ""]
    rows += ["| on each GPU | GiB by cause | GiB | fits |", "|---|---|---:|---|"]
    for name, layout in layouts.items():
        found = cost(work, cluster, layout)
        causes = ", ".join(f"{cause} {size / GIB:,.1f}" for cause, size in found.gpu if size)
        rows.append(f"| {name} | {causes} | {found.gpu_bytes / GIB:,.0f} | {'yes' if found.fits_gpu else 'no'} |")
    rows += ["", f"On each node while checkpoints are read: {node / GIB:,.0f} of {cluster.host_memory / GIB:,.0f} GiB."]
    return rows


def predicted() -> list[str]:
    """The run of docs/scaling.md: 100 checkpoints of seven billion parameters on 64 GPUs."""
    return lines(Workload(), Cluster())


if __name__ == "__main__":
    print("\n".join(predicted()))
