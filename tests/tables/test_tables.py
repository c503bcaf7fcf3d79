"""Tables keep every number and every name, and never harm the program that opens them."""

import csv
import io
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisher_cli.errors import OutputError
from fisher_cli.results import Estimate, LayerTrace, Status, Trace
from fisher_cli.storage.readers import read_table
from fisher_cli.tables.build import frame, frames, rows_text, to_csv, to_json, to_jsonl, to_parquet
from fisher_cli.tables.columns import Kind, eigenvalue_columns
from fisher_cli.tables.dialects import PLAIN, TABS, Dialect, separated
from fisher_cli.tables.registry import LAYERS, MAIN
from fisher_cli.tables.trajectory import PathLength
from fisher_cli.text import encodable, escape, guard, one_line, unescape, unguard
from tests.measurements import HOSTILE, MOVEMENT, TRIGGERS, broken, read_back, sample

DESIGN = """run, checkpoint, order, step, epoch, architecture, weights, parameters, examples, classes, loss, loss_se,
accuracy, accuracy_se, entropy, trace_true, trace_true_se, trace_true_estimator_se, trace_estimator,
trace_empirical, trace_empirical_se, trace_ratio, trace_ratio_se, trace_true_change, trace_true_change_se,
trace_covariance, gradient_norm_squared, gradient_snr, gradient_snr_se, eig_true_method, eig_empirical_method,
effective_rank, effective_dimension, subspace_overlap, kl_step, kl_step_quadratic, path_length, phase, status,
error"""
OF_LAYERS = """run, checkpoint, order, step, layer, parameters, method, trace_true, trace_true_se, trace_empirical,
trace_empirical_se, share"""


def all_formats(table: pd.DataFrame) -> dict[str, str | bytes]:
    return {
        ".csv": to_csv(table),
        ".tsv": to_csv(table, TABS),
        ".json": to_json(table),
        ".jsonl": to_jsonl(table),
        ".parquet": to_parquet(table, {}),
    }


def test_the_columns_are_those_of_the_design_in_its_order() -> None:
    assert [column.name for column in MAIN.columns[:40]] == DESIGN.replace("\n", " ").replace(" ", "").split(",")
    assert [column.name for column in LAYERS.columns] == OF_LAYERS.replace("\n", " ").replace(" ", "").split(",")
    assert [column.name for column in eigenvalue_columns(2)] == [
        f"eig_{kind}_{i}{end}" for i in (1, 2) for kind in ("true", "empirical") for end in ("", "_residual")
    ]
    assert all(column.description and column.name.isascii() for column in MAIN.columns + LAYERS.columns)


def test_main_table_has_all_columns_with_nullable_types() -> None:
    table = frame(MAIN.with_eigenvalues(3), [sample(), broken()])
    assert len(table.columns) == len(MAIN.columns) + 12
    types = {Kind.TEXT: "string", Kind.INTEGER: "Int64", Kind.REAL: "Float64"}
    for column in MAIN.columns + eigenvalue_columns(3):
        assert str(table[column.name].dtype) == types[column.kind]
    first, second = table.iloc[0], table.iloc[1]
    assert (first["order"], second["order"]) == (0, 1)
    assert first["trace_true"] == 0.2
    assert first["trace_true_estimator_se"] == 0
    assert first["trace_estimator"] == "exact"
    assert first["trace_covariance"] == -0.12
    assert first["eig_true_method"] == "gram"
    assert [first[name] for name in ("eig_true_1", "eig_true_2", "eig_true_2_residual")] == [0.3, 0.1, 2e-17]
    for empty in ("eig_true_3", "eig_empirical_1", "gradient_snr", "trace_empirical_se", "phase", "error"):
        assert first[empty] is pd.NA
    assert second[["step", "trace_true", "loss"]].isna().all()
    assert second["status"] == "rejected"


def test_more_eigenvalues_than_asked_for_are_left_out() -> None:
    assert "eig_true_2" not in frame(MAIN.with_eigenvalues(1), [sample()])
    assert list(frame(MAIN, [sample()]).columns) == [column.name for column in MAIN.columns]


def test_what_is_no_number_is_empty_and_nothing_overflows() -> None:
    trace = Trace("exact", Estimate(math.nan, math.inf), Estimate(-math.inf), None, (), (), ())
    row = frame(MAIN.with_eigenvalues(1), [sample(trace=trace, step=10**30, epoch=math.nan)]).iloc[0]
    assert row[["trace_true", "trace_true_se", "trace_empirical", "trace_ratio", "step", "epoch"]].isna().all()
    assert frame(MAIN.with_eigenvalues(1), [sample(step=2**63 - 1)])["step"][0] == 2**63 - 1


def test_layer_table() -> None:
    table = frame(LAYERS, [broken(), sample(i=2)])
    assert list(table["layer"]) == ["weight", "-bias"]
    assert list(table["order"]) == [1, 1]
    assert list(table["share"]) == [0.5, 0.5]
    nothing = Trace("exact", Estimate(0.0), Estimate(0.0), None, sample().trace.layers, (), ())  # type: ignore[union-attr]
    assert frame(LAYERS, [sample(trace=nothing)])["share"].isna().all()
    assert list(frame(LAYERS, []).columns) == [column.name for column in LAYERS.columns]


def test_of_the_true_trace_are_the_error_of_the_estimator_and_the_shares_of_layers() -> None:
    layers = tuple(
        LayerTrace(name, 10, "linear", Estimate(true), Estimate(empirical))
        for name, true, empirical in (("a", 3.0, 1.0), ("b", 1.0, 9.0))
    )
    trace = Trace("sampled S=2", Estimate(4.0, 0.5, 0.25), Estimate(10.0, 1.5, 0.75), None, layers, (), ())
    assert frame(MAIN, [sample(trace=trace)])["trace_true_estimator_se"].tolist() == [0.25]
    assert frame(LAYERS, [sample(trace=trace)])["share"].tolist() == [0.75, 0.25]


def test_rows_one_by_one_are_the_bytes_of_the_whole() -> None:
    """But for the phase, which only the whole run tells."""
    rows = [sample(), broken("a\n=b"), sample(i=3, movement=MOVEMENT), sample(i=4, movement=MOVEMENT)]
    whole = frame(MAIN.with_eigenvalues(2), rows)
    assert list(whole["phase"].dropna()) == ["low early", "rising", "high"]
    for form, dialect in (("csv", Dialect.PLAIN), ("tsv", Dialect.PLAIN), ("csv", Dialect.EXCEL_EU)):
        path, table = PathLength(), MAIN.with_eigenvalues(2)
        parts = [
            rows_text(part, form, dialect, i == 0) for i, row in enumerate(rows) for part in frames(table, row, i, path)
        ]
        assert "".join(parts) == to_csv(whole.assign(phase=pd.NA), separated(form, dialect))
        assert [part.count("\n") for part in parts] == [2, 1, 1, 1]


def test_movement_is_in_the_table_and_its_path_adds_up() -> None:
    rows = [sample(), sample(i=2, movement=MOVEMENT), broken("x"), sample(i=3, movement=MOVEMENT)]
    table = frame(MAIN, rows)
    assert table["kl_step"].isna().tolist() == [True, False, True, False]
    row = table.iloc[1]
    names = ("trace_true_change", "trace_true_change_se", "kl_step", "kl_step_se", "kl_step_quadratic")
    assert [row[name] for name in names] == [-1.5, 0.25, 0.75, 0.125, 0.5]
    assert [row[name] for name in ("kl_step_quadratic_se", "kl_step_parameters", "kl_step_parameters_se")] == [
        *(0.0625, 0.75, 0.125)
    ]
    assert table["path_length"].dropna().tolist() == [1.0, 2.0]
    path = PathLength()
    parts = [frame(MAIN, [each], i, path=path)["path_length"] for i, each in enumerate(rows)]
    assert pd.concat(parts).dropna().tolist() == [1.0, 2.0]
    apart = replace(MOVEMENT, kl_parameters=Estimate(0.5, 0.1))
    assert frame(MAIN, [sample(movement=apart)])["kl_step_parameters"][0] == 0.5


def test_numbers_in_csv_are_plain() -> None:
    text = to_csv(frame(MAIN.with_eigenvalues(1), [sample()]))
    assert text.endswith("\n")
    assert "\r" not in text
    cells = dict(zip(*csv.reader(io.StringIO(text)), strict=True))
    assert cells["step"] == "10"
    assert cells["trace_covariance"] == "-0.12"
    assert cells["gradient_norm_squared"] == "1e-300"
    assert cells["epoch"] == "0.3333333333333333"
    assert cells["loss"] == ""


def test_every_format_gives_the_same_table_back(tmp_path: Path) -> None:
    rows = [sample(name, i, architecture=name) for i, name in enumerate(HOSTILE, start=1)]
    rows += [broken(name, error=name) for name in HOSTILE]
    for table in (frame(MAIN.with_eigenvalues(2), rows), frame(LAYERS, rows), frame(MAIN.with_eigenvalues(2), [])):
        for suffix, content in all_formats(table).items():
            if len(table) or suffix not in (".json", ".jsonl"):  # no rows, no keys
                pd.testing.assert_frame_equal(read_back(content, tmp_path, suffix), table)


def test_equal_tables_give_equal_bytes() -> None:
    rows = [sample(name) for name in HOSTILE]
    first, second = (all_formats(frame(MAIN.with_eigenvalues(3), rows)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", HOSTILE)
def test_text_cells_are_safe_in_spreadsheets_and_terminals(name: str) -> None:
    for separator, form in ((",", PLAIN), ("\t", TABS)):
        text = to_csv(frame(MAIN.with_eigenvalues(1), [broken(name, error=f"{name}: {name}")]), form)
        assert all(character.isprintable() or character in "\n\t" for character in text)
        text.encode()
        (_, row) = csv.reader(io.StringIO(text), delimiter=separator)
        texts = [row[1], row[-5]]
        assert unguard(unescape(row[1])) == name
        for cell in texts:
            for part in re.split(r"[,;\n]", cell):
                assert part.strip(' \xa0"')[:1] not in tuple(TRIGGERS)
    for line in to_jsonl(frame(MAIN.with_eigenvalues(1), [broken(name)])).splitlines():
        assert line.isprintable()
        assert unescape(json.loads(line)["checkpoint"]) == name


def test_the_apostrophe_is_put_before_formulas_only() -> None:
    assert guard("=1") == "'=1"
    assert guard("\xa0=1") == "'\xa0=1"
    assert guard("a\n=1") == "a\n'=1"
    assert guard("step-1.pt") == "step-1.pt"
    assert escape("a\tb\x1b") == r"a\x09b\x1b"
    assert escape("C:\\data") == "C:\\data"
    assert encodable("é\udc80") == "é\\udc80"
    assert one_line("a\n b\x1b") == "a b\\x1b"


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\\xuU01abcdef\x1b\udc80 '\"=\n;\t-"))))
def test_escapes_and_apostrophes_can_be_undone(text: str) -> None:
    assert unescape(escape(text)) == text
    assert unescape(encodable(text)) == text
    assert unguard(guard(text)) == text
    assert unguard(unescape(escape(guard(text)))) == text
    assert escape(text).isprintable()
    encodable(text).encode()


def test_parquet_carries_metadata_descriptions_and_checksums(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    metadata = {"b": [1, math.nan, Path("x")], "a": {"status": Status.OK, "file": "\udc80"}}
    path.write_bytes(to_parquet(frame(MAIN.with_eigenvalues(2), [sample(), broken()]), metadata))
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 1
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    schema = file.schema_arrow
    assert b"pandas" not in schema.metadata
    text = schema.metadata[b"fisher"].decode()
    assert json.loads(text) == {"a": {"file": "\\udc80", "status": "ok"}, "b": [1, None, "x"]}
    assert text.index('"a"') < text.index('"b"')
    for column in MAIN.columns + eigenvalue_columns(2):
        field = schema.field(column.name)
        assert field.metadata[b"description"].decode() == column.description
        assert field.metadata[b"unit"].decode() == column.unit


@pytest.mark.ci
def test_damaged_pages_of_a_parquet_file_are_noticed(tmp_path: Path) -> None:
    expected = frame(MAIN.with_eigenvalues(2), [sample(i=i) for i in range(1, 40)])
    good = to_parquet(expected, {})
    group = pq.ParquetFile(io.BytesIO(good)).metadata.row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    end_of_pages = max(
        (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size for chunk in chunks
    )
    path, draw = tmp_path / "t.parquet", random.Random(0)
    noticed = wrong_without_checksums = 0
    for _ in range(300):
        damaged = bytearray(good)
        damaged[draw.randrange(4, end_of_pages)] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert read_table(path).equals(expected)  # the flip hit something that does not matter
        except OutputError:
            noticed += 1
        try:
            unchecked = pq.read_table(path, page_checksum_verification=False).to_pandas()
            wrong_without_checksums += unchecked["trace_true"].tolist() != expected["trace_true"].tolist()
        except (OSError, ValueError, pa.ArrowException):
            pass
    assert noticed > 200
    assert wrong_without_checksums > 0


def test_reading_refuses_in_words(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such table"):
        read_table(tmp_path / "missing.csv")
    bad = {
        "ragged.csv": b"checkpoint,order\na,0\nb\n",
        "words.csv": b"checkpoint,order\na,zero\n",
        "empty.csv": b"",
        "binary.csv": b"\xff\xfe\x00",
        "half.json": b"[{",
        "keys.jsonl": b'{"checkpoint": "a"}\n{"order": 1}\n',
        "number.json": b"3",
        "text.parquet": b"PAR1",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OutputError, match="not a table of fisher"):
            read_table(tmp_path / name)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(OutputError, match="no key 'fisher'"):
        read_table(tmp_path / "foreign.parquet")


def test_tables_that_a_spreadsheet_has_saved_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfcheckpoint,order,loss,mine,count\r\na.pt,0,1.50,x,3\r\nb.pt,1.0,2,y,\r\n")
    table = read_table(path)
    assert list(table["order"]) == [0, 1]
    assert list(table["loss"]) == [1.5, 2.0]
    assert str(table["mine"].dtype) == "string"
    assert str(table["count"].dtype) == "Int64"
