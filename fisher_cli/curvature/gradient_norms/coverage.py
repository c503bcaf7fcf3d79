"""The ledger: which parameter's norms come from which method, decided on the graph and not on module names."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from fisher_cli.curvature.gradient_norms.capture import recorded_calls
from fisher_cli.curvature.gradient_norms.rules import Rule, rule_for
from fisher_cli.curvature.problem import Problem, reproducible_kernels

PER_EXAMPLE = "per-example"
UNUSED = "unused"

# Examples in the planning passes. A layer that sees the batch in another place than first, or folded with
# positions, shows it by the size of its first dimension, which cannot equal two different batch sizes.
PROBE_EXAMPLES = (3, 2)


@dataclass(frozen=True)
class Coverage:
    """What each analysed parameter goes through.

    layers: the watched layers with their rules; covered: (layer, local name) → parameter name;
    methods: parameter name → rule name, `per-example` or `unused` (no path to the outputs: its trace is zero).
    """

    layers: Mapping[str, tuple[nn.Module, Rule]]
    covered: Mapping[tuple[str, str], str]
    methods: Mapping[str, str]

    @property
    def per_example(self) -> tuple[str, ...]:
        """Names of the parameters that need per-example gradients."""
        return tuple(name for name, method in self.methods.items() if method == PER_EXAMPLE)


def uses_in_graph(outputs: Tensor) -> Counter[int]:
    """How many operations of the graph read each leaf tensor, by the leaf's id.

    A leaf used twice (tied weights, a reused module, functional use beside the module) has two edges into
    its accumulation node, whatever the modules say.
    """
    uses: Counter[int] = Counter()
    root = outputs.grad_fn
    seen, waiting = {root}, [root]
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        for successor, _ in node.next_functions:
            if successor is None:
                continue
            variable = getattr(successor, "variable", None)
            if variable is not None:
                uses[id(variable)] += 1
            if successor not in seen:
                seen.add(successor)
                waiting.append(successor)
    return uses


def _owners(model: nn.Module, wanted: set[int]) -> dict[int, list[tuple[str, nn.Module, str]]]:
    """Every place that holds each wanted parameter: (layer name, layer, local name)."""
    owners: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for layer_name, layer in model.named_modules():
        for local_name, parameter in layer.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in wanted:
                owners.setdefault(id(parameter), []).append((layer_name, layer, local_name))
    return owners


def plan(problem: Problem) -> Coverage:
    """Decide each parameter's method by running a few examples forward and walking the graph.

    A rule covers a parameter when one layer alone owns it, that layer has a rule, was called once with the
    examples in its first dimension, and the graph reads the parameter exactly once.
    """
    model = problem.model
    owners = _owners(model, {id(parameter) for parameter in problem.parameters.values()})
    candidates: dict[str, tuple[nn.Module, Rule]] = {}
    for places in owners.values():
        layer_name, layer, _ = places[0]
        rule = rule_for(layer)
        if len(places) == 1 and rule is not None:
            candidates[layer_name] = (layer, rule)
    watched = {name: layer for name, (layer, _) in candidates.items()}
    regular = set(watched)
    for examples in PROBE_EXAMPLES:
        batch = problem.slice(0, min(examples, problem.examples))
        with reproducible_kernels(), recorded_calls(watched) as calls:
            outputs = problem.forward(batch.inputs)
        regular = {name for name in regular if calls.called_once(name, len(batch))}
    uses = uses_in_graph(outputs)

    methods: dict[str, str] = {}
    covered: dict[tuple[str, str], str] = {}
    for name, parameter in problem.parameters.items():
        layer_name, _, local_name = owners[id(parameter)][0]
        if uses[id(parameter)] == 0:
            methods[name] = UNUSED
        elif len(owners[id(parameter)]) == 1 and layer_name in regular:
            if uses[id(parameter)] == 1:
                methods[name] = candidates[layer_name][1].name
                covered[layer_name, local_name] = name
            else:
                methods[name] = PER_EXAMPLE
        else:
            methods[name] = PER_EXAMPLE
    used = {layer_name for layer_name, _ in covered}
    return Coverage({name: pair for name, pair in candidates.items() if name in used}, covered, methods)
