"""The errors that are planted to test the tests: slips a developer could make, each a small edit of one module.

Every original occurs exactly once in its module, so that an entry whose original is gone is noticed.
"""

from tests.mutation import Mutation, pairs
from tests.mutations_of_inputs_and_runs import INPUTS, RUN

TRACES, SPECTRUM, ESTIMATORS = (
    "tests/curvature/traces/test_traces.py",
    "tests/curvature/spectra/test_spectrum.py",
    "tests/curvature/traces/test_estimators.py",
)
LIKELIHOODS, LANCZOS, MOMENTS = (
    "tests/curvature/problem/test_likelihoods.py",
    "tests/curvature/linalg/test_lanczos.py",
    "tests/curvature/problem/test_moments.py",
)
DRAWN, QUANTITIES = "tests/curvature/problem/test_drawn_labels.py", "tests/curvature/spectra/test_spectral_summary.py"
BY_SIZE = f"{DRAWN}::test_scores_by_size_count_by_their_odds_as_those_of_the_model"
OVER_ALL_LABELS = f"{DRAWN}::test_over_all_labels_the_balanced_mean_is_the_trace_and_its_variance_errs_upwards"
LAYERS, DRAWS = (
    "tests/curvature/torch_backend/test_transposable_layers.py",
    "tests/curvature/problem/test_counter_based_random.py",
)
TRANSPOSE = (
    "tests/curvature/torch_backend/test_convolution_gradients.py::test_every_geometry_has_the_gradients_of_autograd"
)
ANY, LEDGER = (
    "tests/curvature/gradient_norms/test_any_network.py",
    "tests/curvature/gradient_norms/test_coverage_ledger.py",
)
WRONG_VECTORISATION = "tests/curvature/gradient_norms/test_wrong_vectorisation.py"

# Of slow files the one test that is to catch the error.
ORACLE = f"{TRACES}::test_traces_equal_the_oracle_for_every_parameter"
PRODUCTS_OF_POSITIONS = "tests/curvature/gradient_norms/test_position_products.py"
MEAN_GRADIENT = f"{TRACES}::test_the_mean_gradient_equals_the_oracle"
REFUSED = f"{TRACES}::test_what_cannot_be_measured_is_refused_in_one_line"
NETWORK = f"{ANY}::test_traces_and_eigenvalues_equal_the_oracle"
USES = "tests/curvature/gradient_norms/test_uses_of_parameters.py::test_traces_of_every_tensor_equal_the_oracle"
RECURRENT = "tests/curvature/gradient_norms/test_rules.py::test_recurrent_layers_equal_the_oracle_and_have_a_rule"
RULES = "tests/curvature/gradient_norms/test_rules.py"
PARAMETRIZED = f"{RULES}::test_weights_computed_from_parameters_equal_the_oracle_and_have_a_rule"
BAGS = "tests/curvature/gradient_norms/test_rules.py::test_embeddings_equal_the_oracle_and_have_a_rule"
SEEDS = f"{ESTIMATORS}::test_the_mean_over_many_seeds_is_the_exact_trace"
COPIES = f"{LANCZOS}::test_twenty_copies_of_a_value_are_found_among_two_hundred"
UNCONVERGED = f"{LANCZOS}::test_what_did_not_converge_has_its_true_residuals"
ROUTES = "tests/curvature/spectra/test_solver_choice.py::test_every_route_gives_the_eigenpairs_of_the_dense_matrix"
BATCHES = f"{ESTIMATORS}::test_draws_belong_to_the_example_and_not_to_the_batch"

# By module: name, the file or test that is to catch it, and texts original, replacement, original, replacement, ….
TABLE: dict[str, list[tuple[str, ...]]] = {
    "problem.moments": [
        ("N in the standard deviation instead of N − 1", MOMENTS,
         "squares / (count - 1) / count", "squares / count / count"),
        ("standard error without the root", MOMENTS,
         "math.sqrt(max(0.0, own))", "max(0.0, own)"),
        ("an uneven last batch weighs as much as the others", MOMENTS,
         "    count: int = 0\n", "    count: int = 0\n    batches: int = 0\n",
         "self.mean = self.mean + shift * (count / total)",
         "self.batches += 1\n        self.mean = self.mean + shift / self.batches"),
        ("spread between batches forgotten", MOMENTS,
         "self.squares + squares + shift**2 * (self.count * count / total)", "self.squares + squares"),
        ("error of a ratio without the covariance", MOMENTS,
         "in ratio_of_means: numerator.double() - ratio * _A", "numerator.double()"),
        ("estimator variance not taken out of the standard error", MOMENTS,
         "squares / (count - 1) / count - variance", "squares / (count - 1) / count"),
        ("estimator variance of a mean divided by N instead of N²", MOMENTS,
         "max(statements) / count**2", "max(statements) / count"),
        ("error of the estimator halved", MOMENTS, "math.sqrt(variance)", "math.sqrt(variance) / 2"),
        ("the smallest statement of the variance holds", MOMENTS,
         "max(statements) / count**2", "min(statements) / count**2"),
        ("hidden error measured from zero", MOMENTS, "max(statements) - statements[0]", "max(statements)"),
        ("ratio without the error of a drawn denominator", MOMENTS,
         "math.hypot(error, ratio * added / below)", "error"),
    ],
    "problem.likelihoods": [
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
         "labels = draws.classes(p, samples)", "labels = (draws.classes(p, samples) + 1).clamp_max(p.shape[1] - 1)"),
        ("yes-or-no labels drawn with p and 1 − p exchanged", f"{SEEDS}[one logit-sampled]",
         "torch.where(uniform < torch.sigmoid(z), -torch.sigmoid(-z)",
         "torch.where(uniform > torch.sigmoid(z), -torch.sigmoid(-z)"),
        ("accuracy of several labels all or nothing", LIKELIHOODS,
         "> 0.5)).double().mean(dim=1)", "> 0.5)).all(dim=1).double()"),
        ("constant of a Gaussian of one dimension", LIKELIHOODS,
         "- 0.5 * outputs.shape[1] * math.log(2 * math.pi)", "- 0.5 * math.log(2 * math.pi)"),
    ],
    "problem.output_scores": [
        ("sampled labels not divided by their number", f"{SEEDS}[linear-sampled]",
         "squares / samples", "squares * 1"),
        ("draws numbered within the batch", BATCHES,
         "draws.of_examples(seed, purpose, start, _A, _B)", "draws.of_examples(seed, purpose, 0, _A, _B)"),
        ("amplitude of a score not rooted", f"{ROUTES}[mlp]",
         "return root.directions, root.weights.sqrt()", "return root.directions, root.weights"),
        ("a score of zero divided by its scale", LIKELIHOODS,
         "vectors / torch.where(scale > 0, scale, torch.ones_like(scale)).unsqueeze(-1)",
         "vectors / scale.unsqueeze(-1)"),
    ],
    "problem.drawn_labels": [
        ("labels by size without their probability",
         f"{DRAWN}::test_classes_by_size_have_the_chances_of_their_squared_scores",
         "p * _squares(p, complement)", "_squares(p, complement)"),
        ("a label by size that is not turned", BY_SIZE, "noughts.expand(_A, _B, _C)", "ones.expand(_A, _B, _C)"),
        ("a radius with one degree of freedom more", BY_SIZE, "normals[:, :, size:]", "normals[:, :, size + 1 :]"),
        ("odds not divided by the trace", BY_SIZE, "in odds: scores.square().sum(2) / _A", "scores.square().sum(2)"),
        ("balance as if one label were drawn", OVER_ALL_LABELS, "1 / (count + found)", "1 / (1 + found)"),
        ("variance of the labels about zero", OVER_ALL_LABELS, "terms - balanced.unsqueeze(-2)", "terms"),
        ("variance of one term for that of the mean", OVER_ALL_LABELS, "variance / count, balanced",
         "variance, balanced"),
    ],
    "problem.counter_based_random": [
        ("a shift that repeats the sign", DRAWS,
         " & ((1 << (_BITS - by)) - 1)", ""),
        ("every example with the same stream", DRAWS,
         "indices * _GAMMA + int", "indices * 0 + int"),
        ("normal numbers without half a step", DRAWS,
         "(_shifted(words, 12).double() + 0.5)", "_shifted(words, 12).double()"),
        ("a class without a chance at the number zero", DRAWS,
         "within, right=True)", "within)"),
        ("a bit used for all 64 signs of a word", DRAWS,
         "torch.arange(_BITS, device=words.device)", "torch.zeros(_BITS, dtype=torch.long)"),
    ],
    "traces.deflation": [
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
         "= -coins[:, columns:-1:2]", "= coins[:, columns:-1:2]"),
        ("a target held for the variance alone", f"{ESTIMATORS}::test_a_target_holds_for_the_error_that_is_stated",
         "off_diagonal + paired", "off_diagonal - paired"),
        ("columns predicted for the examples that turn them",
         f"{ESTIMATORS}::test_the_error_of_columns_is_predicted_for_examples_that_have_not_turned_them",
         "kernels[other] if len(kernels[other]) else kernels", "kernels"),
        ("predicted variance a sixteenth", f"{ESTIMATORS}::test_the_target_error_is_kept_or_what_was_reached_is_said",
         "_A.square() / MIXTURES**2", "_A.square() / MIXTURES**6"),
        ("signs numbered within the batch", BATCHES,
         'of_examples(seed, "signs", start, len(outputs)', 'of_examples(seed, "signs", 0, len(outputs)'),
        ("one column neither exact nor mixed", f"{SEEDS}[sequence-deflated]",
         "r[:, :, found.columns :], signs[:, :, found.columns :]",
         "r[:, :, found.columns + 1 :], signs[:, :, found.columns + 1 :]"),
        ("one column both exact and mixed", f"{ESTIMATORS}::test_the_closed_form_root_is_a_root_over_all_signs",
         "tail[:, :columns] = 0", "tail[:, : columns - 1] = 0"),
        ("smallest columns taken exactly instead of the largest",
         f"{ESTIMATORS}::test_turned_columns_are_orthogonal_and_carry_less_and_less",
         "scaled @ turned.flip(2)", "scaled @ turned"),
        ("allowed variance with the share not squared",
         f"{ESTIMATORS}::test_no_more_columns_are_taken_exactly_than_the_error_asks_for",
         "SHARE_OF_STANDARD_ERROR**2 * spread", "SHARE_OF_STANDARD_ERROR * spread"),
        ("scale of a root forgotten", f"{ESTIMATORS}::test_the_turned_root_is_a_root",
         "turned.flip(2)) * scale", "turned.flip(2))"),
        ("later classes with the wrong sign in the closed form",
         f"{ESTIMATORS}::test_the_closed_form_root_is_a_root_over_all_signs",
         "-below[:, column + 1 :] * factor", "below[:, column + 1 :] * factor"),
    ],
    "gradient_norms.grad_factors": [
        ("positions with the same id taken as different rows", f"{ORACLE}[sequence-float64]",
         "summed = same.to(self.cotangents.dtype) @ self.cotangents\n        return (summed",
         "summed = self.cotangents * self.counted.unsqueeze(2)\n        return (summed"),
        ("positions folded into the wrong examples", f"{NETWORK}[Windows-3]",
         "ExplicitGradients(_split(self.values, 1, times).sum(2))",
         "ExplicitGradients(self.values.unflatten(1, (times, -1)).sum(1))"),
        ("sum of a transposed convolution's gradients not turned", f"{MEAN_GRADIENT}[grouped]",
         "return (gradient.transpose(1, 2) if self.transposed else gradient).reshape(shape)\n\n    def gradients",
         "return gradient.reshape(shape)\n\n    def gradients"),
        ("ids folded into the wrong examples", f"{NETWORK}[PaddedLater-3]",
         "delta = _split(self.cotangents, 1, times).flatten(2, 3)",
         "delta = self.cotangents.unflatten(1, (times, -1)).transpose(1, 2).flatten(2, 3)"),
    ],
    "gradient_norms.joint_norms": [
        ("cross term of a reused layer missing", f"{ORACLE}[sequence-float64]",
         "return one.squared_norms(deferred_checks)",
         "return torch.stack([part.squared_norms() for part in parts]).sum(0)"),
        ("cross term of a tied embedding counted once", f"{ORACLE}[sequence-float64]",
         "return total + 2 * (picked", "return total + (picked"),
        ("bias of a reused layer averaged over its uses", f"{ORACLE}[sequence-float64]",
         "torch.stack([part.values for part in vectors]).sum(0)",
         "torch.stack([part.values for part in vectors]).mean(0)"),
        ("padding row in the cross term of a tied embedding", f"{ORACLE}[sequence-float64]",
         ".gather(2, ids) * together.counted.unsqueeze(2)", ".gather(2, ids)"),
        ("kernels of a convolution and of a transposed one joined as they are", f"{USES}[there_and_back_by_a_square-3]",
         "return part.transposed, part", "return False, part"),
    ],
    "gradient_norms.attribution": [
        ("nodes entered from aside taken for the call's own", f"{USES}[a_view_scaled_in_place-3]",
         "if layout is None or call.nodes in graph.entered_aside or", "if layout is None or"),
        ("uses without a rule left out", f"{NETWORK}[SharedTwice-3]",
         "() if leaf in reached else", ""),
        ("weights that depend on data taken for parametrized ones", f"{NETWORK}[Windows-3]",
         "lambda node: graph.owners[node] in serving", "lambda node: False"),
    ],
    "gradient_norms.streamed_vjp": [
        ("a rule's own fault taken for one of the backward pass", "tests/curvature/gradient_norms/test_streamed_vjp.py",
         "            if stream.is_receiving:\n                raise\n", ""),
    ],
    "gradient_norms.rules.recurrent": [
        ("cotangents of states not multiplied by the reset gate", f"{RECURRENT}[GRU-3]",
         "cotangents[..., 2 * width :] * r", "cotangents[..., 2 * width :]"),
        ("states after the step in place of those before", f"{RECURRENT}[LSTM-3]",
         "torch.stack(before, 1)", "torch.stack([*before[1:], state[0].detach()], 1)"),
        ("the way back not turned around", f"{RECURRENT}[LSTM, deep, both ways-3]",
         "reversed(states) if direction else states", "states"),
    ],
    "gradient_norms.reparametrization": [
        ("norms along v counted in its own gradient", f"{PARAMETRIZED}[weight norm-3]",
         "(a.square().sum(1, keepdim=True) - along)", "a.square().sum(1, keepdim=True)"),
        ("direct uses of a parametrized weight left out", f"{USES}[both_orientations-3]",
         "(found + total)", "(found + 0 * total)"),
        ("gradients pulled back together whatever torch has wrong", WRONG_VECTORISATION,
         "refuse_wrong_vectorisation(edge.node for edge in edges)\n", "\n"),
    ],
    "torch_backend.convolutions": [
        ("kernel not turned around", TRANSPOSE,
         "range(seen[-1], -1, -(stride // apart))", "range(seen[0], seen[-1] + 1, stride // apart)"),
        ("dilation forgotten between taps", TRANSPOSE, "seen else 0\n", "seen else 0\n        dilation = apart\n"),
        ("phases one position late", TRANSPOSE, "slice(one.residue, None, s)", "slice((one.residue + 1) % s, None, s)"),
    ],
    "gradient_norms.deferred_checks": [
        ("doubts never asked",
         "tests/curvature/gradient_norms/test_deferred_checks.py::test_what_cancels_is_noted_and_taken_again",
         "if answer}", "if answer and not owner}"),
    ],
    "gradient_norms.position_products": [
        ("norms summed in float32", ORACLE,
         "return norms.double().square()", "return norms.float().square().double()"),
        ("only the positions' own terms of the Gram form", f"{ORACLE}[residual-float64]",
         "return terms.sum(3).double()", "return terms.diagonal(dim1=2, dim2=3).double()"),
        ("cancellation guard removed", f"{ANY}::test_cancellation_in_float32_stays_that_of_autograd",
         "return found if bool(exact.all()) and not underflowing else None",
         "return found if not underflowing else None"),
        ("underflow of the products of positions", f"{TRACES}::test_inputs_whose_squares_underflow_lose_nothing",
         "and not underflowing else None", "else None"),
        ("squares in float32 that underflow",
         f"{TRACES}::test_gradients_whose_squares_underflow_in_float32_keep_their_traces",
         "largest >= SAFE_NORM", "largest >= 0"),
        ("only the positions' own terms where rows lie side by side", PRODUCTS_OF_POSITIONS,
         "return torch.bmm(gram, delta).mul_(delta).sum(2).double().sum(1), own", "return own, own"),
        ("weight gradient of the wrong examples", PRODUCTS_OF_POSITIONS,
         "first = low // self.groups", "first = 0"),
    ],
    "gradient_norms.rules.convolution": [
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
    "gradient_norms.rules.linear": [
        ("last position only in the bias of a linear layer", f"{ORACLE}[positions-float64]",
         "delta.squeeze(2).sum(3)", "delta.squeeze(2)[..., -1]"),
    ],
    "gradient_norms.rules.normalization": [
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
         '"bias": ExplicitGradients(delta.sum(3))', '"bias": ExplicitGradients(delta.mean(3))'),
    ],
    "gradient_norms.rules.embedding": [
        ("bags divided by their padded length", BAGS,
         "counted.sum(1, keepdim=True).clamp_min(1)", "counted.shape[1]"),
        ("padding row given a gradient", f"{ORACLE}[sequence-float64]",
         "~_is_padding(arguments, ids) if is_padded else", ""),
        ("padding row counted from the end not found", f"{NETWORK}[PaddedFromTheEnd-3]",
         'arguments["padding_idx"] % len(arguments["weight"])', 'arguments["padding_idx"]'),
    ],
    "gradient_norms.rules.broadcast": [
        ("factor of a scaling parameter forgotten", f"{NETWORK}[Windows-3]",
         '_reduced(arguments["parameter"], cotangents * inputs)', '_reduced(arguments["parameter"], cotangents)'),
        ("bare parameter averaged over what it was spread over", f"{NETWORK}[Windows-3]",
         "gradient.sum(dimension + 1, keepdim=True)", "gradient.mean(dimension + 1, keepdim=True)"),
    ],
    "gradient_norms.per_example_gradients": [
        ("directions of the first examples used for all", f"{ANY}::test_vectorised_gradients_equal_those_one_by_one",
         "directions[first : first + columns, some]", "directions[first : first + columns, : some.stop - some.start]"),
        ("vectorised over examples whatever torch has wrong", WRONG_VECTORISATION,
         "            refuse_wrong_vectorisation([found.grad_fn])\n", ""),
    ],
    "gradient_norms.call_recorder": [
        ("factors taken after they were changed in place", f"{USES}[data_scaled_in_place-3]",
         "before = (args[0].detach().clone(), *_A)", "before = (args[0].detach(), *_A)"),
        ("outputs looked up after in-place operations", f"{ORACLE}[residual-float64]",
         "import dataclass, field", "import dataclass, field, replace",
         "    depth: int = 0\n", "    depth: int = 0\n    outputs: list[Tensor] = field(default_factory=list)\n",
         "        self.calls.append(call)\n", "        self.outputs.append(output)\n        self.calls.append(call)\n",
         "            yield recorder.calls\n",
         "            yield recorder.calls\n"
         "            recorder.calls[:] = [\n"
         "                replace(call, edge=get_gradient_edge(output))\n"
         "                for call, output in zip(recorder.calls, recorder.outputs, strict=True)\n"
         "            ]\n"),
    ],
    "gradient_norms.batch_dim": [
        ("any layout accepted without the test", f"{NETWORK}[Sorted-3]",
         "in _fits: bool((_A <= limits).all())", "True"),
        ("positions before examples not exchanged", f"{NETWORK}[Windows-3]",
         "tensor = apart.transpose(skip, skip + 1).flatten(skip, skip + 1)", "tensor = apart.flatten(skip, skip + 1)"),
    ],
    "gradient_norms.autograd_graph": [
        ("indexing not taken as dependent on the data",
         f"{ANY}::test_what_the_first_batch_shows_is_not_taken_for_granted",
         "    Abs AccumulateGrad", "    Index Abs AccumulateGrad"),
        ("distances vectorised as torch has them", WRONG_VECTORISATION,
         '{"Cdist", "MaskedSelect"}', '{"MaskedSelect"}'),
        ("masks vectorised as torch has them", WRONG_VECTORISATION, '{"Cdist", "MaskedSelect"}', '{"Cdist"}'),
    ],
    "torch_backend.network_state": [
        ("buffers not put back", f"{ANY}::test_buffers_that_the_network_writes_are_put_back",
         "module._buffers[key] = self._buffers[name][key]", "pass"),
    ],
    "torch_backend.differentiable_kernels": [
        ("batch norm evaluated without eps", f"{ORACLE}[residual-float64]",
         "scale = torch.rsqrt(variance + eps)", "scale = torch.rsqrt(variance)"),
    ],
    "linalg.sums": [
        ("square of the sum for the sum of squares", "tests/curvature/linalg/test_sums.py",
         "return dot(values, values)", "return values.double().sum().square()"),
        ("scale of the cotangents not given back", SPECTRUM,
         "add_(values[low : low + ADDED_AT_ONCE], alpha=scale)", "add_(values[low : low + ADDED_AT_ONCE])"),
        ("second piece of a large gradient forgotten", "tests/curvature/linalg/test_sums.py",
         "range(0, len(flat), ADDED_AT_ONCE)", "range(0, min(len(flat), ADDED_AT_ONCE), ADDED_AT_ONCE)"),
    ],
    "problem.problem": [
        ("network left in training mode", f"{TRACES}::test_what_no_rule_covers_goes_through_per_example_gradients",
         "    model.eval()\n", ""),
        ("uneven last batch dropped", ORACLE,
         "share(-(-self.examples // size))", "share(self.examples // size)"),
        ("labels of the examples before", ORACLE,
         "return self.inputs[start:stop], self.labels[start:stop]",
         "return self.inputs[start:stop], self.labels.roll(1, 0)[start:stop]"),
        ("training mode of a part accepted", f"{TRACES}::test_a_part_that_stays_in_training_mode_is_refused_by_name",
         "        if module.training:\n", "        if module.training is None:\n"),
    ],
    "torch_backend.evaluation": [
        ("inputs given to a network that changes them", f"{NETWORK}[FirstInPlace-3]",
         "in evaluated: with _A: return model(inputs.clone())", "with _A: return model(inputs)"),
    ],
    "traces.gradient_statistics": [
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
        ("the check content with one norm that agrees", REFUSED,
         "((ours[name] - theirs[name]).abs() <= limits[name]).all()",
         "((ours[name] - theirs[name]).abs() <= limits[name]).any()"),
    ],
    "problem.batch_independence": [
        ("coupling looked for in the first example alone", "tests/curvature/problem/test_batch_independence.py",
         "(differences > SUSPICIOUS[problem.dtype])", "(differences > 1e9)"),
    ],
    "traces.coverage_ledger": [
        ("layers not added up", LEDGER,
         "if not _agree(layers, total):", "if not _agree(total, total):"),
        ("terms of the examples summed and not averaged", LEDGER,
         "mean = math.fsum(terms[matrix]) / examples", "mean = math.fsum(terms[matrix])"),
    ],
    "traces.traces": [
        ("one parameter left out", ORACLE,
         "zip(totals.names, _A, _B, _C, strict=True)", "zip(totals.names[1:], _A[1:], _B[1:], _C[1:], strict=True)"),
        ("error over examples from the drawn terms",
         f"{DRAWN}::test_the_error_over_examples_of_drawn_labels_is_that_of_the_exact_trace",
         "in _with_balanced: balanced.standard_error", "found.standard_error"),
        ("labels that agree state an error of zero",
         f"{DRAWN}::test_labels_that_all_agree_with_the_one_by_size_leave_the_error_empty_and_say_so",
         "found.estimator_error or _A", "found.estimator_error"),
        ("mean gradient not divided by N", MEAN_GRADIENT,
         "totals.gradient.complete()", "problem.process_group.sum(totals.gradient.whole())"),
        ("empirical coefficient not squared", ORACLE,
         "layers * scores.observed**2", "layers * scores.observed"),
        ("variance of a sum of draws without their number",
         f"{ESTIMATORS}::test_the_claimed_error_is_the_spread_on_many_examples",
         "return count * draws.var(dim=-2)", "return draws.var(dim=-2)"),
    ],
    "products.fisher_products": [
        ("product not divided by N", SPECTRUM,
         "return problem.process_group.sum(total) / problem.examples", "return problem.process_group.sum(total)"),
        ("product summed in float32", SPECTRUM,
         "torch.zeros(problem.size, dtype=torch.float64", "torch.zeros(problem.size, dtype=torch.float32"),
        ("empirical product centred", SPECTRUM,
         "score = likelihood.observed_score(outputs, labels)",
         "score = likelihood.observed_score(outputs, labels)\n        score = score - score.mean(0)"),
        ("empirical product with another example's label", SPECTRUM,
         "likelihood.observed_score(outputs, labels)", "likelihood.observed_score(outputs, labels.roll(1, 0))"),
    ],
    "products.jvp": [
        ("forward mode not compared with backward mode", f"{ROUTES}[NoSecondDerivative]",
         "return abs(forth - backward) <= ADJOINT_TOLERANCE[problem.dtype] * scale", "return True"),
    ],
    "torch_backend.transposable_layers": [
        ("a convolution's transpose without the weight's tangent", LAYERS,
         "ctx.geometry.of(x, weight_dot, bias_dot)", "ctx.geometry.of(x, torch.zeros_like(weight_dot), bias_dot)"),
        ("a convolution's transpose without what comes through it", LAYERS,
         "total = through if total is None else through + total", "total = through if total is None else total"),
        ("a batch norm's transpose without its mean", LAYERS,
         "total - (mean * slope).reshape(shape)", "total"),
    ],
    "spectra.spectral_summary": [
        ("effective rank without the square", QUANTITIES, "trace**2 / squared_norm", "trace / squared_norm"),
        ("effective dimension with the damping squared", QUANTITIES,
         "positive / (positive + damping)", "positive / (positive + damping**2)"),
        ("overlap over the larger space", QUANTITIES,
         "min(vectors.shape[1], others.shape[1])", "max(vectors.shape[1], others.shape[1])"),
        ("norm from the probes alone", QUANTITIES, "exact + float(found.mean())", "float(found.mean())"),
        ("bootstrap of equal weights", QUANTITIES, "torch.ones_like(weights)",
         "torch.ones_like(weights).roll(1, 0) / 2"),
        ("share of the gradient not squared", QUANTITIES,
         "(vectors.double().T @ gradient.double()).square().sum() / length",
         "(vectors.double().T @ gradient.double()).abs().sum() / length"),
    ],
    "linalg.krylov": [
        ("no reorthogonalisation", COPIES,
         "        shares = ", "        found[:-2] = 0\n        shares = "),
        ("one pass of reorthogonalisation instead of two", COPIES,
         "    second = rows.remove(work)\n", "    second = torch.zeros_like(first)\n"),
        ("a new chain not orthogonal to what was found", COPIES,
         "        rows.remove(vector)\n        vector /=", "        vector /="),
    ],
    "spectra.factors": [
        ("inner products of score gradients not divided by N", f"{ROUTES}[mlp]",
         "total *= self.amplitudes / self.problem.examples", "total *= self.amplitudes"),
        ("a bias that shares its layer's cotangents forgotten", f"{ROUTES}[mlp]",
         "part.add_inner_products(total, biases[name])", "part.add_inner_products(total)"),
    ],
    "spectra.eigensystems": [
        ("residual from a Gram matrix squared",
         f"{SPECTRUM}::test_residuals_from_a_gram_matrix_are_those_of_the_vectors_it_stands_for",
         "(squares[:rank] / lengths[:rank]).sqrt()", "(squares[:rank] / lengths[:rank])"),
    ],
    "linalg.lanczos": [
        ("no search for overlooked copies", COPIES,
         "and ritz.values[0] > 0 and", "and ritz.values[0] < 0 and"),
        ("residual squared", UNCONVERGED,
         "(dot(image, image) / dot(vector, vector)).sqrt()", "dot(image, image) / dot(vector, vector)"),
        ("residuals and values in the scale of the operator", COPIES,
         "torch.stack(pairs).cpu().T * space.operator.scale", "torch.stack(pairs).cpu().T"),
        ("converged whatever the residuals", UNCONVERGED,
         "or bool((residuals > tolerance * max(float(values[0]), 0.0)).any())", ""),
    ],
    "linalg.subspace": [
        ("eigenvalues by their absolute values",
         f"{LANCZOS}::test_a_matrix_with_negative_eigenvalues_is_refused_by_name",
         "values, coordinates = values.flip(0), coordinates.flip(1)",
         "values, coordinates = values.flip(0).abs(), coordinates.flip(1)"),
        ("residual estimate without the coordinates",
         "tests/curvature/linalg/test_lanczos_search.py::test_a_second_copy_behind_a_dense_bulk_is_found",
         "residuals = (self.outside.unsqueeze(1) * coordinates).norm(dim=0)", "residuals = self.outside.clone()"),
    ],
}  # fmt: skip

# What of the package a module belongs to: all else of the curvature package to the engine.
_PLACES = {
    "scores": ("problem.likelihoods", "problem.output_scores", "problem.drawn_labels", "problem.counter_based_random"),
    "estimator": (
        "problem.moments",
        "traces.deflation",
        "traces.traces",
        "traces.gradient_statistics",
        "traces.coverage_ledger",
    ),
    "eigenvalues": (
        *("products.fisher_products", "products.jvp", "torch_backend.transposable_layers", "spectra.spectral_summary"),
        *("linalg.krylov", "spectra.factors", "spectra.eigensystems", "linalg.lanczos", "linalg.subspace"),
    ),
}
_PLACE_OF = {module: place for place, modules in _PLACES.items() for module in modules}

MUTATIONS = [
    Mutation(name, _PLACE_OF.get(module, "engine"), f"curvature.{module}", pairs(texts), tests)
    for module, entries in TABLE.items()
    for name, tests, *texts in entries
] + [
    Mutation(name, place, module, pairs(texts), tests)
    for place, modules in (("inputs", INPUTS), ("run", RUN))
    for module, entries in modules.items()
    for name, tests, *texts in entries
]
