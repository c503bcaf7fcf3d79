"""Errors planted in what reads checkpoints and data, and in what makes rows and tables of the numbers."""

NORMALIZATION = "tests/inputs/data/test_normalization.py"
TIMELINE = "tests/inputs/checkpoints/test_timeline.py"
LABELS = "tests/inputs/data/test_labels.py"
DATASETS = "tests/inputs/data/test_datasets.py"
WEIGHTS = "tests/inputs/checkpoints/test_weights.py"
FITTING = "tests/inputs/networks/test_fitting.py"
PRUNED = "tests/inputs/checkpoints/test_pruned.py"
ARRAYS = "tests/inputs/data/test_array_files.py"
INSPECT = "tests/cli/test_inspect.py"
KINDS = "tests/inputs/networks/test_layer_kinds.py"
GRAYSCALE = "tests/inputs/data/test_grayscale.py"
RESIZING = "tests/inputs/data/test_resizing.py"
FOLDERS = "tests/inputs/data/test_image_folders.py"
DUPLICATES = "tests/inputs/checkpoints/test_duplicates.py"
CONTAINERS = "tests/inputs/formats/test_containers.py"
TRAJECTORY = "tests/tables/test_trajectory.py"
TABLES = "tests/tables/test_tables.py"
EXAMPLES = "tests/run/test_per_example.py"
LONG = "tests/tables/test_long_form.py"
RECORDS = "tests/storage/test_journal.py"
KEPT, REPORTS = "tests/storage/test_kept.py", "tests/storage/test_report_attacks.py"
MOVEMENT = "tests/run/test_movement.py"
DIVERGENCE = "tests/curvature/kl/test_divergence.py"
RESUME = "tests/run/test_resume.py"
ROW_OF_THE_ORACLE = f"{EXAMPLES}::test_every_row_is_that_of_the_oracle"
GROUPS = f"{EXAMPLES}::test_groups_add_up_and_their_means_are_those_of_their_rows"
STEPS = f"{MOVEMENT}::test_the_columns_are_their_definitions"

INPUTS: dict[str, list[tuple[str, ...]]] = {
    "inputs.data.normalization": [
        ("pixels not divided by the largest", NORMALIZATION, "in Normalization.apply: scaled / largest", "scaled"),
        ("mean not taken out of the pixels", NORMALIZATION, "(scaled - mean) / std", "scaled / std"),
        ("pixels times the standard deviation", NORMALIZATION, "(scaled - mean) / std", "(scaled - mean) * std"),
        (
            "constants of the channels in the opposite order",
            NORMALIZATION,
            "return tuple(numbers)\n",
            "return tuple(numbers)[::-1]",
        ),
        (
            "mean and standard deviation exchanged where they are typed",
            NORMALIZATION,
            'Normalization("custom", mean, std)',
            'Normalization("custom", std, mean)',
        ),
        (
            "standard deviations of another dataset's constants",
            f"{NORMALIZATION}",
            "(0.229, 0.224, 0.225)",
            "(0.2470, 0.2435, 0.2616)",
        ),
        (
            "constants with the highest loss chosen",
            NORMALIZATION,
            "in choose_normalization: min(finite, key=_A)",
            "max(finite, key=_A)",
        ),
    ],
    "inputs.data.datasets": [
        ("labels of a file ignored", LABELS, "own_labels if labels is None else new_labels", "own_labels"),
        (
            "examples the first of the data and not of a permutation",
            DATASETS,
            "order[:limit].sort().values",
            "torch.arange(limit)",
        ),
        (
            "selection without its seed",
            DATASETS,
            "torch.Generator().manual_seed(seed)",
            "torch.Generator().manual_seed(0)",
        ),
        (
            "labels of the batch before",
            "tests/inputs/data/test_datasets.py",
            "self.labels[start:stop]",
            "self.labels.roll(1)[start:stop]",
        ),
        ("identity without the labels", DATASETS, "(indices, inputs, labels)", "(indices, inputs)"),
    ],
    "inputs.user_code": [
        (
            "modules of the working folder for every library",
            "tests/inputs/test_user_code.py::test_no_library_gets_a_module_of_the_working_folder",
            "self._is_own(_importing())",
            "True",
        ),
    ],
    "inputs.networks.shapes": [
        (
            "a side of an image held against all numbers of the file",
            "tests/inputs/networks/test_network_attacks.py::test_numbers_that_any_network_may_have_can_be",
            "4 * math.isqrt(numbers)",
            "4 * numbers",
        ),
    ],
    "inputs.data.digits": [
        ("digits' labels not permuted with their images", DATASETS, "labels[order]", "labels[: len(order)]"),
        ("test examples taken for training", DATASETS, 'split == "train"', 'split == "test"'),
        ("digits divided by 255", DATASETS, "pixel_maximum=16.0", "pixel_maximum=255.0"),
    ],
    "inputs.data.labels": [
        (
            "labels in order of the file and not of the examples",
            LABELS,
            "[rows[index] for index in indices]",
            "list(rows.values())[: len(indices)]",
        ),
        (
            "label and index of a line exchanged",
            LABELS,
            "int(cells[0]), _Row(line, int(cells[1]), noisy)",
            "int(cells[1]), _Row(line, int(cells[0]), noisy)",
        ),
    ],
    "inputs.data.folders": [
        ("classes in the order of the file system", FOLDERS, "in _folders_in: sorted(_A)", "list(_A)[::-1]"),
    ],
    "inputs.data.resizing": [
        (
            "height and width of an image exchanged",
            RESIZING,
            "image.resize((width, height), _A)",
            "image.resize((height, width), _A)",
        ),
        (
            "crop from the corner and not from the centre",
            RESIZING,
            "round((height - high) / 2), round((width - wide) / 2)",
            "0, 0",
        ),
        ("longer side resized to the number", RESIZING, "height <= width", "height > width"),
    ],
    "inputs.data.grayscale": [
        ("colours left out unasked", GRAYSCALE, "not is_asked and not _is_grey(each)", "False"),
        ("grey images have one channel whatever the network takes", GRAYSCALE, "not takes_one_channel(_A)", "False"),
    ],
    "inputs.networks.tensor_summaries": [
        (
            "deviation by one value less",
            INSPECT,
            "math.sqrt(squares / count)",
            "math.sqrt(squares / max(1, count - 1))",
        ),
    ],
    "inputs.networks.layer_kinds": [
        (
            "inputs and outputs of a layer exchanged",
            KINDS,
            'f"linear, {weight[1]:,}→{weight[0]:,}"',
            'f"linear, {weight[0]:,}→{weight[1]:,}"',
        ),
    ],
    "inputs.data.arrays": [
        ("channels first taken as channels last", ARRAYS, "stored.transpose(1, 2, 0)", "stored.transpose(2, 1, 0)"),
    ],
    "inputs.checkpoints.timeline": [
        (
            "epoch taken for the step",
            TIMELINE,
            "_first_match([_STEP_NAME], parts) or _A or _NOTHING",
            "_first_match([_EPOCH_NAME], parts) or _NOTHING",
        ),
        ("a setting of the training taken for a place in it", TIMELINE, 'not found.get("setting")', "True"),
        ("a date taken for a step", TIMELINE, "not _DATE.fullmatch(digits)", "True"),
        ("thousands of steps taken for steps", TIMELINE, '(found.get("scale") or "").lower()', '""'),
        (
            "length of a run read off its folder",
            TIMELINE,
            "_first_match(_EPOCHS_NAME, [own])",
            "_first_match(_EPOCHS_NAME, parts)",
        ),
        ("step of the folder before that of the file", TIMELINE, 'name.split("/")[::-1]', 'name.split("/")'),
        ("steps sorted as text", TIMELINE, "natural(row[0])", "row[0]"),
        ("order by the epoch where there are steps", TIMELINE, "in in_training_order: (1, 2)", "(2, 1)"),
        (
            "name believed before the file",
            TIMELINE,
            "if step is None:\n    step, step_source = _first_match([_STEP_NAME], parts) or _A or _NOTHING",
            "step, step_source = _first_match([_STEP_NAME], parts) or _NOTHING",
        ),
    ],
    "inputs.checkpoints.weights": [
        (
            "wrapper left before the names",
            WEIGHTS,
            "split[index][depth] != _PARALLEL_WRAPPER or len(split[index]) == depth + 1",
            "True",
        ),
        (
            "counter of averaging kept as a weight",
            WEIGHTS,
            "[key for key in tensors if key not in averaged]",
            "list(tensors)",
        ),
        (
            "names of the weights out of step with the tensors",
            WEIGHTS,
            "(tensors[key] for key in kept)",
            "(tensors[key] for key in kept[::-1])",
        ),
    ],
    "inputs.checkpoints.pruning": [
        ("mask not applied to its weight", PRUNED, "tensor.where(masks[stem], torch.zeros_like(tensor))", "tensor"),
        (
            "mask turned",
            PRUNED,
            "tensor.where(masks[stem], torch.zeros_like(tensor))",
            "tensor.where(~masks[stem], torch.zeros_like(tensor))",
        ),
    ],
    "inputs.checkpoints.duplicates": [
        (
            "hash of weights without their names",
            DUPLICATES,
            'f"{name}\\0{tensor.dtype}\\0{tuple(tensor.shape)}\\0"',
            'f"{tensor.dtype}\\0{tuple(tensor.shape)}\\0"',
        ),
    ],
    "inputs.formats.torch_files": [
        (
            "bytes of another machine's order not swapped",
            CONTAINERS,
            'is_little_endian != (sys.byteorder == "little")',
            "False",
        ),
    ],
    "inputs.formats.storages": [
        (
            "offset of a view in its storage forgotten",
            CONTAINERS,
            "offset + storage.start * storage.kind.itemsize // kind.itemsize",
            "storage.start * storage.kind.itemsize // kind.itemsize",
        ),
    ],
    "inputs.networks.fitting": [
        (
            "weights of a network not loaded",
            FITTING,
            "module.load_state_dict(weights, strict=False)",
            "module.load_state_dict({}, strict=False)",
        ),
    ],
}

RUN: dict[str, list[tuple[str, ...]]] = {
    "tables.columns": [
        (
            "error of another quantity in a cell",
            TABLES,
            'f"{source}.standard_error"',
            'f"{source}.estimator_error"',
        ),
        ("eigenvalues counted from zero", TABLES, 'f"{found}.values.{i - 1}"', 'f"{found}.values.{i}"'),
    ],
    "tables.registry": [
        (
            "traces exchanged in a row",
            TABLES,
            'estimate("trace_true", CURVATURE, _A, "trace.true")',
            'estimate("trace_true", CURVATURE, _A, "trace.empirical")',
        ),
        (
            "error of the estimator from the other trace",
            TABLES,
            '"trace.true.estimator_error"',
            '"trace.empirical.estimator_error"',
        ),
    ],
    "tables.rows": [
        (
            "share of a layer by its own trace",
            TABLES,
            "layer.true.value / total",
            "layer.true.value / (layer.empirical.value or 1)",
        ),
        (
            "ranks from the smallest term",
            ROW_OF_THE_ORACLE,
            "terms.argsort(descending=True, stable=True)",
            "terms.argsort(stable=True)",
        ),
        (
            "order of the terms taken for their ranks",
            ROW_OF_THE_ORACLE,
            "ranks[order] = torch.arange(1, len(order) + 1)",
            "ranks[:] = order + 1",
        ),
        (
            "share of an example by the empirical trace",
            ROW_OF_THE_ORACLE,
            "true / total",
            "trace.per_example_empirical[n] / total",
        ),
        (
            "probability of the label from its entropy",
            ROW_OF_THE_ORACLE,
            "math.exp(-found.loss[n])",
            "math.exp(-found.entropy[n])",
        ),
        ("place in the selection taken for that in the data", ROW_OF_THE_ORACLE, "int(found.indices[n])", "n"),
    ],
    "run.per_example": [
        ("clean and noisy exchanged", GROUPS, 'self._group("clean", ~noisy)', 'self._group("clean", noisy)'),
        ("loss of a group over all examples", GROUPS, "mean_of(self.loss[members])", "mean_of(self.loss)"),
    ],
    "tables.trajectory": [
        (
            "peak the last of the largest fit and not the largest value",
            TRAJECTORY,
            "key=lambda i: present[i].value",
            "key=lambda i: i",
        ),
        (
            "one standard error is clear",
            TRAJECTORY,
            "larger.value - smaller.value > CLEAR * error",
            "larger.value - smaller.value > error / 3",
        ),
        (
            "differences not paired",
            TRAJECTORY,
            "in difference_error: np.subtract(one.terms, other.terms)",
            "np.add(one.terms, other.terms)",
        ),
        ("weights by the error and not its square", TRAJECTORY, "1 / error**2", "1 / error**0.25"),
        (
            "length of a step without the two",
            TRAJECTORY,
            "math.sqrt(2 * max(0.0, quadratic))",
            "math.sqrt(max(0.0, quadratic))",
        ),
        ("path that forgets the steps before", TRAJECTORY, "self._lengths.get(measurement.run, 0.0)", "0.0"),
        ("one path of all runs", TRAJECTORY, "self._lengths.get(measurement.run, 0.0)", "sum(self._lengths.values())"),
        (
            "fall measured from the first value",
            TRAJECTORY,
            "_is_material(present[mode], last, peak)",
            "_is_material(present[mode], first, peak)",
        ),
    ],
    "run.previous_row": [
        (
            "movement from the first row",
            STEPS,
            "self.last, self._left, self.missed = self._left, None, 0",
            "self.last, self._left, self.missed = self.last or self._left, None, 0",
        ),
        (
            "rows without numbers not counted",
            f"{MOVEMENT}::test_a_row_that_failed_is_stepped_over_and_said",
            "self.missed += 1",
            "pass",
        ),
    ],
    "curvature.kl.divergence": [
        (
            "divergence from the later to the earlier network",
            f"{DIVERGENCE}::test_movement_is_that_from_the_earlier_network",
            "in movement: divergence(_A, _B, outputs)",
            "divergence(_A, outputs, _B)",
        ),
        (
            "quadratic at the later network",
            f"{DIVERGENCE}::test_movement_is_that_from_the_earlier_network",
            "with exchanged(problem, before.on(problem.device)):\n    quadratic = second_order(problem, step)",
            "quadratic = second_order(problem, step)",
        ),
        (
            "change of the trace with the wrong sign",
            f"{DIVERGENCE}::test_movement_is_that_from_the_earlier_network",
            "mean_of(here - there)",
            "mean_of(there - here)",
        ),
        (
            "hidden errors left out of a difference",
            "tests/curvature/problem/test_drawn_labels.py::test_differences_between_checkpoints_hold_what_the_labels_miss",
            "root_sum_of_squares(change.standard_error, now.hidden_error, before.hidden_error)",
            "change.standard_error",
        ),
    ],
    "storage.journal": [
        (
            "record of the same weights after others found",
            RECORDS,
            "self._places.of.get(key)",
            "self._places.latest.get(key[0]) and self._places.of.get(self._places.latest[key[0]])",
        ),
        ("damaged line believed", RECORDS, "found is None or not is_whole(line)", "found is None"),
        ("another question answered with old numbers", RECORDS, "in changes: before != now", "False"),
        (
            "place of an appended record one byte early",
            RECORDS,
            "self._size += len(line) + 1",
            "self._size += len(line)",
        ),
    ],
    "tables.run_differences": [
        (
            "p-values of many comparisons taken one by one",
            "tests/tables/test_run_differences.py::test_p_values_are_corrected_as_by_holm",
            "p * (len(known) - rank)",
            "p",
        ),
    ],
    "run.sequence": [
        (
            "row held against the last one of another run",
            "tests/run/test_runs.py::test_each_run_is_what_it_is_alone",
            "self._previous.get(file.run, FIRST)",
            "next(reversed(self._previous.values()), FIRST)",
        ),
        (
            "row known by its weights whatever came before",
            "tests/run/test_newcomers.py",
            "self._journal.find(key)",
            "self._journal.of_weights(key[0])",
        ),
        (
            "recalled row under its old name",
            RESUME + "::test_weights_are_known_by_content_not_by_name",
            "in _as_today: replace(known, checkpoint=file.name, step=file.step, epoch=file.epoch)",
            "known",
        ),
    ],
    "tables.long_form": [
        (
            "errors of the quantity before",
            LONG,
            '{f"value{aside}": row[column] for aside, column in beside.items()}',
            '{f"value{aside}": value for aside, column in beside.items()}',
        ),
        ("index of a quantity off by one", LONG, "int(numbered[2])", "int(numbered[2]) - 1"),
    ],
    "storage.report_files": [
        (
            "edited table replaced",
            f"{KEPT}::test_a_table_that_was_edited_is_not_replaced",
            "found in {self.record.tables[name], self.record.replaced.get(name, self.record.tables[name])}",
            "True",
        ),
        (
            "record whose seal does not hold believed",
            f"{KEPT}::test_a_record_that_proves_nothing_lets_no_file_be_replaced_or_deleted",
            "not record.is_whole",
            "False",
        ),
        (
            "tables that are being replaced forgotten",
            f"{KEPT}::test_tables_of_an_earlier_moment_are_known_after_a_kill_at_every_step",
            "found != _digest(contents[path])",
            "False",
        ),
    ],
    "storage.regular_files": [
        (
            "links followed where files are replaced",
            f"{KEPT}::test_what_is_no_regular_file_is_neither_waited_for_nor_replaced",
            "os.stat(path, follow_symlinks=follow)",
            "os.stat(path)",
        ),
    ],
    "storage.readers": [
        (
            "infinite numbers read from tables",
            f"{REPORTS}::test_what_cells_hold_and_how_many_there_are_is_looked_at_first",
            "not math.isfinite(number)",
            "False",
        ),
    ],
    "storage.decoding": [
        (
            "what a file unpacks to not looked at",
            f"{REPORTS}::test_what_cells_hold_and_how_many_there_are_is_looked_at_first",
            "0 <= cells <= 2**22 + 16 * size",
            "True",
        ),
    ],
    "storage.json_codec": [
        (
            "fields of a record in the order of the file",
            "tests/storage/test_json_codec.py",
            "kind(**{name: parts[name](each) for name, each in value.items()})",
            "kind(*(parts[name](each) for name, each in zip(parts, reversed(value.values()))))",
        ),
    ],
    "run.parameters": [
        (
            "excluded parameters kept",
            "tests/run/test_presets.py::test_weights_only_are_those_of_linear_and_convolutional_layers",
            "not settings.weights_only or id(parameter) in weights",
            "True",
        ),
        (
            "head the first layer that is called",
            "tests/run/test_presets.py::test_the_head_is_the_layer_that_is_called_last",
            "layers[called[-1]]",
            "layers[called[0]]",
        ),
    ],
}
