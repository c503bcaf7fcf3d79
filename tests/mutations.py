"""The errors that are planted to test the tests: slips a developer could make, each a small edit of one module.

Every original text occurs exactly once in its module, so that an entry whose text is gone is noticed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PACKAGE = "fisher_cli.curvature"
# The modules whose `check` looks at every trace as it is made.
CHECKS = ("gradient_norms.verification", "consistency")

TRACES, SPECTRUM, ESTIMATORS = "tests/test_traces.py", "tests/test_spectrum.py", "tests/test_estimators.py"
LIKELIHOODS, LANCZOS, MOMENTS = "tests/test_likelihoods.py", "tests/test_lanczos.py", "tests/test_moments.py"
LAYERS = "tests/test_linear_layers.py"
ANY, LEDGER = "tests/test_any_network.py", "tests/test_ledger.py"

# Of slow files the one test that is to catch the error.
ORACLE = f"{TRACES}::test_traces_equal_the_oracle_for_every_parameter"
MEAN_GRADIENT = f"{TRACES}::test_the_mean_gradient_equals_the_oracle"
REFUSED = f"{TRACES}::test_what_cannot_be_measured_is_refused_in_one_line"
NETWORK = f"{ANY}::test_traces_and_eigenvalues_equal_the_oracle"
SEEDS = f"{ESTIMATORS}::test_the_mean_over_many_seeds_is_the_exact_trace"
COPIES = f"{LANCZOS}::test_twenty_copies_of_a_value_are_found_among_two_hundred"
UNCONVERGED = f"{LANCZOS}::test_what_did_not_converge_has_its_true_residuals"
ROUTES = "tests/test_routes.py::test_every_route_gives_the_eigenpairs_of_the_dense_matrix"
BATCHES = f"{ESTIMATORS}::test_draws_belong_to_the_example_and_not_to_the_batch"

# By module: name, the file or test that is to catch it, and texts original, replacement, original, replacement, ….
TABLE: dict[str, list[tuple[str, ...]]] = {
    "moments": [
        ("N in the standard deviation instead of N − 1", MOMENTS,
         "self.squares / (self.count - 1) / self.count", "self.squares / self.count / self.count"),
        ("standard error without the root", MOMENTS,
         "math.sqrt(max(0.0, spread - variance))", "max(0.0, spread - variance)"),
        ("an uneven last batch weighs as much as the others", MOMENTS,
         "    count: int = 0\n", "    count: int = 0\n    batches: int = 0\n",
         "self.mean += shift * count / total", "self.batches += 1\n        self.mean += shift / self.batches"),
        ("spread between batches forgotten", MOMENTS,
         "self.squares += squares + shift**2 * self.count * count / total", "self.squares += squares"),
        ("error of a ratio without the covariance", MOMENTS,
         "(numerator.double() - ratio * denominator.double()) / below", "numerator.double() / below"),
        ("estimator variance not taken out of the standard error", MOMENTS,
         "max(0.0, spread - variance)", "spread"),
        ("estimator variance of a mean divided by N instead of N²", MOMENTS,
         "self.sampling / self.count**2", "self.sampling / self.count"),
    ],
    "likelihoods": [
        ("weight of a class not divided by the mass before it", LIKELIHOODS,
         "p * (behind / before)", "p * behind"),
        ("mass behind a class by subtraction from one", LIKELIHOODS,
         "from_here = ordered.flip(1).cumsum(1).flip(1)", "from_here = (1 - ordered.cumsum(1) + ordered).clamp_min(0)"),
        ("observed coefficient with the wrong sign", LIKELIHOODS,
         "observed[:, 0] = -behind[:, 0]", "observed[:, 0] = behind[:, 0]"),
        ("complement of a probability computed as 1 − p", LIKELIHOODS,
         "return p, (1 - p).scatter(1, top, others)", "return p, 1 - p"),
        ("log-probabilities by logsumexp, which cancels", LIKELIHOODS,
         "return shifted - others.log1p()", "return shifted - shifted.logsumexp(1, keepdim=True)"),
        ("variance of a yes-or-no label as p(1 − p)", LIKELIHOODS,
         "(torch.sigmoid(z) * torch.sigmoid(-z)).T", "(torch.sigmoid(z) * (1 - torch.sigmoid(z))).T"),
        ("Λ v without the shift that keeps it exact", LIKELIHOODS,
         "        v = v - reference\n", ""),
        ("Λ v without the rank-one term", LIKELIHOODS,
         "return p * (v - (p * v).sum(dim=1, keepdim=True))", "return p * vectors.double()"),
        ("observed label off by one", LIKELIHOODS,
         "p.scatter(1, first.unsqueeze(1), 2.0)", "p.scatter(1, (first.unsqueeze(1) - 1) % p.shape[1], 2.0)"),
        ("observed score with the wrong sign at the label", LIKELIHOODS,
         "return p.scatter(1, index, -complement.gather(1, index))",
         "return p.scatter(1, index, complement.gather(1, index))"),
        ("residual of a regression with the wrong sign", f"{MEAN_GRADIENT}[regression]",
         "return outputs.double() - _targets(outputs, labels)", "return _targets(outputs, labels) - outputs.double()"),
        ("drawn label one class too far", f"{SEEDS}[linear-sampled]",
         "torch.searchsorted(p[0].cumsum(0), uniform)", "(torch.searchsorted(p[0].cumsum(0), uniform) + 1)"),
        ("yes-or-no labels drawn with p and 1 − p exchanged", f"{SEEDS}[one logit-sampled]",
         "torch.where(uniform < torch.sigmoid(z), -torch.sigmoid(-z)",
         "torch.where(uniform > torch.sigmoid(z), -torch.sigmoid(-z)"),
        ("accuracy of several labels all or nothing", LIKELIHOODS,
         "> 0.5)).double().mean(dim=1)", "> 0.5)).all(dim=1).double()"),
        ("constant of a Gaussian of one dimension", LIKELIHOODS,
         "- 0.5 * outputs.shape[1] * math.log(2 * math.pi)", "- 0.5 * math.log(2 * math.pi)"),
    ],
    "scores": [
        ("sampled labels not divided by their number", f"{SEEDS}[linear-sampled]",
         "scale**2 / samples, range", "scale**2, range"),
        ("draws numbered within the batch", BATCHES,
         'generator_of(seed, "labels", start + n)', 'generator_of(seed, "labels", n)'),
        ("amplitude of a score not rooted", f"{ROUTES}[mlp]",
         "return root.directions, root.weights.sqrt()", "return root.directions, root.weights"),
        ("a score of zero divided by its scale", LIKELIHOODS,
         "vectors / torch.where(scale > 0, scale, torch.ones_like(scale)).unsqueeze(-1)",
         "vectors / scale.unsqueeze(-1)"),
    ],
    "deflation": [
        ("weight of a mixture forgotten", f"{SEEDS}[sequence-deflated]",
         "        weights[found.columns :] /= MIXTURES\n", ""),
        ("first mixture not weighted", f"{SEEDS}[sequence-deflated]",
         "weights[found.columns :] /= MIXTURES", "weights[found.columns + 1 :] /= MIXTURES"),
        ("both mixtures with the same signs", f"{SEEDS}[sequence-deflated]",
         "torch.stack([first, first * turned])", "torch.stack([first, first])"),
        ("mixtures independent of each other",
         f"{ESTIMATORS}::test_the_claimed_error_holds_where_few_examples_carry_the_trace",
         "torch.stack([first, first * turned])", "torch.stack([first, coins])"),
        ("neighbours turned together", f"{ESTIMATORS}::test_the_claimed_error_is_the_spread_on_many_examples",
         "= -coins[columns:-1:2]", "= coins[columns:-1:2]"),
        ("a target held for the variance alone", f"{ESTIMATORS}::test_a_target_holds_for_the_error_that_is_stated",
         "off_diagonal + paired", "off_diagonal - paired"),
        ("signs numbered within the batch", BATCHES,
         'generator_of(seed, "signs", start + n)', 'generator_of(seed, "signs", n)'),
        ("one column neither exact nor mixed", f"{SEEDS}[sequence-deflated]",
         "r[:, :, found.columns :], signs[:, :, found.columns :]",
         "r[:, :, found.columns + 1 :], signs[:, :, found.columns + 1 :]"),
        ("one column both exact and mixed", f"{ESTIMATORS}::test_the_closed_form_root_is_a_root_over_all_signs",
         "tail[:, :columns] = 0", "tail[:, : columns - 1] = 0"),
        ("smallest columns taken exactly instead of the largest",
         f"{ESTIMATORS}::test_variance_per_pass_is_far_below_that_of_sampled_labels",
         "half @ turned.flip(2)", "half @ turned"),
        ("allowed variance with the share not squared",
         f"{ESTIMATORS}::test_no_more_columns_are_taken_exactly_than_the_error_asks_for",
         "SHARE_OF_STANDARD_ERROR**2 * spread", "SHARE_OF_STANDARD_ERROR * spread"),
        ("scale of a root not rooted", f"{ESTIMATORS}::test_the_turned_root_is_a_root",
         "half @ turned.flip(2)) * scale.sqrt()", "half @ turned.flip(2)) * scale"),
        ("later classes with the wrong sign in the closed form",
         f"{ESTIMATORS}::test_the_closed_form_root_is_a_root_over_all_signs",
         "-below[:, column + 1 :] * factor", "below[:, column + 1 :] * factor"),
    ],
    "gradient_norms.contributions": [
        ("cross term of a reused layer missing", f"{ORACLE}[sequence-float64]",
         "return one.squared_norms()", "return torch.stack([part.squared_norms() for part in parts]).sum(0)"),
        ("cross term of a tied embedding counted once", f"{ORACLE}[sequence-float64]",
         "total = total + 2 * (picked", "total = total + (picked"),
        ("bias of a reused layer averaged over its uses", f"{ORACLE}[sequence-float64]",
         "torch.stack([part.values for part in vectors]).sum(0)",
         "torch.stack([part.values for part in vectors]).mean(0)"),
        ("positions with the same id taken as different rows", f"{ORACLE}[sequence-float64]",
         "summed = same.to(self.cotangents.dtype) @ self.cotangents\n        return (summed",
         "summed = self.cotangents * self.counted.unsqueeze(2)\n        return (summed"),
        ("norms summed in float32", ORACLE,
         "return norms.double().square()", "return norms.float().square().double()"),
        ("only the positions' own terms of the Gram form", f"{ORACLE}[residual-float64]",
         "products = terms.sum(3)", "products = terms.diagonal(dim1=2, dim2=3)"),
        ("cancellation guard removed", f"{ANY}::test_cancellation_in_float32_stays_that_of_autograd",
         "return products if bool(exact.all()) and not underflowing else None",
         "return products if not underflowing else None"),
        ("underflow of the products of positions", f"{TRACES}::test_inputs_whose_squares_underflow_lose_nothing",
         "and not underflowing else None", "else None"),
        ("positions folded into the wrong examples", f"{NETWORK}[Windows-3]",
         "Vectors(_split(self.values, 1, times).sum(2))", "Vectors(self.values.unflatten(1, (times, -1)).sum(1))"),
        ("squares in float32 that underflow",
         f"{TRACES}::test_gradients_whose_squares_underflow_in_float32_keep_their_traces",
         "largest >= SAFE_NORM", "largest >= 0"),
        ("sum of a transposed convolution's gradients not turned", f"{MEAN_GRADIENT}[grouped]",
         "oriented = gradient.transpose(1, 2) if self.transposed else gradient", "oriented = gradient"),
        ("ids folded into the wrong examples", f"{NETWORK}[PaddedLater-3]",
         "delta = _split(self.cotangents, 1, times).flatten(2, 3)",
         "delta = self.cotangents.unflatten(1, (times, -1)).transpose(1, 2).flatten(2, 3)"),
        ("padding row in the cross term of a tied embedding", f"{ORACLE}[sequence-float64]",
         ".gather(2, ids) * row.counted.unsqueeze(2)", ".gather(2, ids)"),
    ],
    "gradient_norms.convolution": [
        ("grouped convolution as if ungrouped", f"{ORACLE}[grouped-float64]",
         'groups, kernel = arguments["groups"]', "groups, kernel = 1"),
        ("channels dealt to groups in turn instead of in blocks", f"{ORACLE}[grouped-float64]",
         "grid).reshape(examples, groups, -1, math.prod(grid))",
         "grid).reshape(examples, -1, groups, math.prod(grid)).transpose(1, 2)"),
        ("dilation ignored", f"{ORACLE}[norms-float64]",
         "*(s * d for s, d in zip(spatial, dilation, strict=True))", "*spatial"),
        ("stride ignored", f"{ORACLE}[residual-float64]",
         "*(s * d for s, d in zip(spatial, stride, strict=True))", "*spatial"),
        ("uneven padding of an even kernel on the wrong side", f"{NETWORK}[unevenly_padded-3]",
         "(total // 2, total - total // 2)", "(total - total // 2, total // 2)"),
        ("padding of the first dimension given to the last", f"{NETWORK}[unevenly_padded-3]",
         "for pair in reversed(pairs)", "for pair in pairs"),
        ("dilation ignored in the reach of a transposed convolution", f"{ORACLE}[norms-float64]",
         "+ dilation[index] * (kernel[index] - 1) + 1", "+ kernel[index]"),
    ],
    "gradient_norms.linear": [
        ("last position only in the bias of a linear layer", f"{ORACLE}[positions-float64]",
         "delta.squeeze(2).sum(3)", "delta.squeeze(2)[..., -1]"),
    ],
    "gradient_norms.normalization": [
        ("batch norm without eps", f"{ORACLE}[residual-float64]",
         'arguments["running_var"] + arguments["eps"]', 'arguments["running_var"]'),
        ("batch norm without the scale", f"{ORACLE}[residual-float64]",
         '["running_mean"].reshape(shape)) * scale', '["running_mean"].reshape(shape))'),
        ("layer norm over the last dimension only", f"{NETWORK}[unusually_normalised-3]",
         "normalized.shape[normalized.dim() - dimensions :].numel()", "normalized.shape[-1]"),
        ("layer norm with the default eps", f"{NETWORK}[unusually_normalised-3]",
         'functional.layer_norm(inputs, shape, eps=arguments["eps"])', "functional.layer_norm(inputs, shape)"),
        ("group norm as if of one group", f"{ORACLE}[norms-float64]",
         'functional.group_norm(inputs, arguments["num_groups"], ', "functional.group_norm(inputs, 1, "),
        ("instance norm always by the example's own statistics", f"{NETWORK}[unusually_normalised-3]",
         'use_input_stats=arguments["use_input_stats"]', "use_input_stats=True"),
        ("bias averaged over positions", f"{ORACLE}[residual-float64]",
         '"bias": Vectors(delta.sum(3))', '"bias": Vectors(delta.mean(3))'),
    ],
    "gradient_norms.embedding": [
        ("padding row given a gradient", f"{ORACLE}[sequence-float64]",
         'counted = ids != (padding if padding >= 0 else padding + len(arguments["weight"]))',
         "counted = torch.ones_like(ids, dtype=torch.bool)"),
        ("padding row counted from the end not found", f"{NETWORK}[PaddedFromTheEnd-3]",
         '(padding if padding >= 0 else padding + len(arguments["weight"]))', "padding"),
    ],
    "gradient_norms.broadcast": [
        ("factor of a scaling parameter forgotten", f"{NETWORK}[Windows-3]",
         '_reduced(arguments["parameter"], cotangents * inputs)', '_reduced(arguments["parameter"], cotangents)'),
        ("bare parameter averaged over what it was spread over", f"{NETWORK}[Windows-3]",
         "gradient.sum(dimension + 1, keepdim=True)", "gradient.mean(dimension + 1, keepdim=True)"),
    ],
    "gradient_norms.per_example": [
        ("directions of the first examples used for all", f"{ANY}::test_vectorised_gradients_equal_those_one_by_one",
         "directions[first : first + columns, some]", "directions[first : first + columns, : some.stop - some.start]"),
    ],
    "gradient_norms.capture": [
        ("outputs looked up after in-place operations", f"{ORACLE}[residual-float64]",
         "import dataclass, field", "import dataclass, field, replace",
         "    depth: int = 0\n", "    depth: int = 0\n    outputs: list[Tensor] = field(default_factory=list)\n",
         "        self.calls.append(Call(", "        self.outputs.append(output)\n        self.calls.append(Call(",
         "            yield recorder.calls\n",
         "            yield recorder.calls\n"
         "            recorder.calls[:] = [\n"
         "                replace(call, edge=get_gradient_edge(output))\n"
         "                for call, output in zip(recorder.calls, recorder.outputs, strict=True)\n"
         "            ]\n"),
    ],
    "gradient_norms.layouts": [
        ("any layout accepted without the test", f"{NETWORK}[Sorted-3]",
         "if float(difference.abs().amax()) <= limit:", "if difference.numel():"),
        ("positions before examples not exchanged", f"{NETWORK}[Windows-3]",
         "tensor = apart.transpose(skip, skip + 1).flatten(skip, skip + 1)", "tensor = apart.flatten(skip, skip + 1)"),
    ],
    "gradient_norms.graph": [
        ("uses of a parameter counted once", f"{TRACES}::test_every_method_of_the_ledger_is_the_expected_one",
         "uses[id(variable)] += 1", "uses[id(variable)] = 1"),
        ("indexing not taken as dependent on the data",
         f"{ANY}::test_what_the_first_batch_shows_is_not_taken_for_granted",
         '("Index", "Gather"', '("Gather"'),
    ],
    "substitution": [
        ("buffers not put back", f"{ANY}::test_buffers_that_the_network_writes_are_put_back",
         "            module._buffers.update(held)\n", "            del held\n"),
    ],
    "kernels": [
        ("batch norm evaluated without eps", f"{ORACLE}[residual-float64]",
         "scale = torch.rsqrt(running_var + eps)", "scale = torch.rsqrt(running_var)"),
    ],
    "backward": [
        ("square of the sum for the sum of squares", f"{NETWORK}[ExtraParameter-3]",
         "return values.double().square().sum()", "return values.double().sum().square()"),
        ("scale of the cotangents not given back", SPECTRUM,
         "add_(values[low : low + PIECE], alpha=scale)", "add_(values[low : low + PIECE])"),
        ("second piece of a large gradient forgotten", "tests/test_backward.py::test_sums_in_pieces",
         "range(0, len(flat), PIECE)", "range(0, min(len(flat), PIECE), PIECE)"),
    ],
    "problem": [
        ("network left in training mode", f"{TRACES}::test_what_no_rule_covers_goes_through_per_example_gradients",
         "    model.eval()\n", ""),
        ("uneven last batch dropped", ORACLE,
         "share(-(-self.examples // size))", "share(self.examples // size)"),
        ("labels of the examples before", ORACLE,
         "return self.inputs[start:stop], self.labels[start:stop]",
         "return self.inputs[start:stop], self.labels.roll(1, 0)[start:stop]"),
        ("training mode of a part accepted", f"{TRACES}::test_a_part_that_stays_in_training_mode_is_refused_by_name",
         "        if module.training:\n", "        if module.training is None:\n"),
        ("inputs given to a network that changes them", f"{NETWORK}[FirstInPlace-3]",
         "return as_outputs(self.model(inputs.clone()), len(inputs))",
         "return as_outputs(self.model(inputs), len(inputs))"),
    ],
    "gradients": [
        ("biased signal-to-noise ratio",
         f"{SPECTRUM}::test_the_signal_to_noise_ratio_of_few_examples_equals_its_definition",
         "value = squared / spread", "value = m / covariance"),
        ("influence on a ratio with the wrong sign",
         f"{SPECTRUM}::test_the_error_of_the_signal_to_noise_ratio_is_its_spread_over_draws_of_data",
         "moved_m * e - m * moved_e", "moved_m * e + m * moved_e"),
        ("covariance of the gradient not centred", f"{SPECTRUM}::test_gradient_statistics_equal_their_definitions",
         "covariance = e - m", "covariance = e"),
    ],
    "gradient_norms.verification": [
        ("the check content with one parameter that agrees", REFUSED,
         "if not bool((excess <= TOLERANCE[problem.dtype]).all()):",
         "if not bool((excess <= TOLERANCE[problem.dtype]).any()):"),
        ("coupling looked for in the first example alone", REFUSED,
         "for example in {0, len(batch) - 1}:", "for example in (0,):"),
    ],
    "gradient_norms.engine": [
        ("uncovered parameters left out", f"{NETWORK}[SharedTwice-3]",
         "by_example.append(name)", "pass"),
    ],
    "consistency": [
        ("layers not added up", LEDGER,
         "if not _agree(layers, total):", "if not _agree(total, total):"),
        ("terms of the examples summed and not averaged", LEDGER,
         "mean = math.fsum(terms[matrix]) / examples", "mean = math.fsum(terms[matrix])"),
    ],
    "traces": [
        ("one parameter left out", ORACLE,
         "for name, summed in totals.true_layers.items()", "for name, summed in list(totals.true_layers.items())[1:]"),
        ("mean gradient not divided by N", MEAN_GRADIENT,
         "problem.world.sum(totals.gradient).div_(problem.examples)", "problem.world.sum(totals.gradient)"),
        ("empirical coefficient not squared", ORACLE,
         "values * scores.observed**2", "values * scores.observed"),
        ("variance of a sum of draws without their number",
         f"{ESTIMATORS}::test_the_claimed_error_is_the_spread_on_many_examples",
         "len(draws) * draws.var(dim=0)", "draws.var(dim=0)"),
    ],
    "products": [
        ("product not divided by N", SPECTRUM,
         "return problem.world.sum(total) / problem.examples", "return problem.world.sum(total)"),
        ("product summed in float32", SPECTRUM,
         "torch.zeros(problem.size, dtype=torch.float64", "torch.zeros(problem.size, dtype=torch.float32"),
        ("empirical product centred", SPECTRUM,
         "score = likelihood.observed_score(outputs, labels)",
         "score = likelihood.observed_score(outputs, labels)\n        score = score - score.mean(0)"),
        ("empirical product with another example's label", SPECTRUM,
         "likelihood.observed_score(outputs, labels)", "likelihood.observed_score(outputs, labels.roll(1, 0))"),
    ],
    "tangents": [
        ("forward mode not compared with backward mode", f"{ROUTES}[NoSecondDerivative]",
         "return abs(forth - backward) <= ADJOINT_TOLERANCE[problem.dtype] * scale", "return True"),
    ],
    "linear_layers": [
        ("a convolution's transpose without the weight's tangent", LAYERS,
         "ctx.geometry.of(x, weight_dot, bias_dot)", "ctx.geometry.of(x, torch.zeros_like(weight_dot), bias_dot)"),
        ("a convolution's transpose without what comes through it", LAYERS,
         "total = through if total is None else through + total", "total = through if total is None else total"),
        ("a batch norm's transpose without its mean", LAYERS,
         "total - (mean * slope).reshape(shape)", "total"),
    ],
    "krylov": [
        ("no reorthogonalisation", COPIES,
         "        shares = ", "        found[:-2] = 0\n        shares = "),
        ("one pass of reorthogonalisation instead of two", COPIES,
         "    second = rows.remove(work)\n", "    second = torch.zeros_like(first)\n"),
        ("a new chain not orthogonal to what was found", COPIES,
         "        rows.remove(vector)\n        vector /=", "        vector /="),
    ],
    "factors": [
        ("inner products of score gradients not divided by N", f"{ROUTES}[mlp]",
         "total *= self.amplitudes / self.problem.examples", "total *= self.amplitudes"),
        ("a bias that shares its layer's cotangents forgotten", f"{ROUTES}[mlp]",
         "part.add_inner_products(total, biases[name])", "part.add_inner_products(total)"),
    ],
    "eigensystems": [
        ("residual from a Gram matrix squared",
         f"{SPECTRUM}::test_residuals_from_a_gram_matrix_are_those_of_the_vectors_it_stands_for",
         "(squares[:rank] / lengths[:rank]).sqrt()", "(squares[:rank] / lengths[:rank])"),
    ],
    "lanczos": [
        ("no search for overlooked copies", COPIES,
         "and ritz.values[0] > 0 and", "and ritz.values[0] < 0 and"),
        ("residual squared", UNCONVERGED,
         "(dot(image, image) / dot(vector, vector)).sqrt()", "dot(image, image) / dot(vector, vector)"),
        ("residuals and values in the scale of the operator", COPIES,
         "torch.stack(pairs).cpu().T * space.operator.scale", "torch.stack(pairs).cpu().T"),
        ("converged whatever the residuals", UNCONVERGED,
         "or bool((residuals > tolerance * max(float(values[0]), 0.0)).any())", ""),
    ],
    "subspace": [
        ("eigenvalues by their absolute values",
         f"{LANCZOS}::test_a_matrix_with_negative_eigenvalues_is_refused_by_name",
         "values, coordinates = values.flip(0), coordinates.flip(1)",
         "values, coordinates = values.flip(0).abs(), coordinates.flip(1)"),
        ("residual estimate without the coordinates",
         "tests/test_lanczos_search.py::test_a_second_copy_behind_a_dense_bulk_is_found",
         "residuals = (self.outside.unsqueeze(1) * coordinates).norm(dim=0)", "residuals = self.outside.clone()"),
    ],
}  # fmt: skip


class StaleMutationError(Exception):
    """The text that an edit replaces does not occur exactly once."""


@dataclass(frozen=True)
class Mutation:
    """A planted error: edits (original, replacement) of one module, and the file or test that is to catch it."""

    name: str
    module: str
    edits: tuple[tuple[str, str], ...]
    tests: str

    @property
    def is_in_a_check(self) -> bool:
        """Whether the error is in one of the run-time checks, which must then be on."""
        return self.module in CHECKS

    def applied(self, source: str) -> str:
        """The source with the error in it.

        Raises:
            StaleMutationError: an original text is gone, or there are several of it.
        """
        for original, replacement in self.edits:
            if source.count(original) != 1:
                msg = f"{self.name}: {source.count(original)} times in {self.module}: {original!r}"
                raise StaleMutationError(msg)
            source = source.replace(original, replacement)
        return source


def _pairs(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(texts[::2], texts[1::2], strict=True))


MUTATIONS = [
    Mutation(name, module, _pairs(texts), tests) for module, entries in TABLE.items() for name, tests, *texts in entries
]
