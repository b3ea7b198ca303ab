"""`geomkit lens` and `geomkit tune-lens` on a tiny model in a folder, and what they refuse."""

import json
import sys

import numpy as np
import pytest

from geomkit import cli
from geomkit.cli.lens import table
from geomkit.datasets import layers
from geomkit.datasets.language_model import language_model
from geomkit.interpret.lens.logit_lens import logit_lens, reading_of
from tests.interpret import lens_models
from tests.interpret.lens_models import one_thread  # noqa: F401

TEXT = "w3 w1 w4 w1 w5"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def call(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["geomkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out = capsys.readouterr()
        return left.value.code, out.out, out.err

    return run


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "tiny"
    lens_models.causal("llama").save_pretrained(where)
    lens_models.tokenizer().save_pretrained(where)
    return where


def test_json_is_what_the_library_says(call, folder):
    code, out, _ = call("lens", TEXT, "--model", folder, "--layers", "0,2,-1", "--top", "3", "--json")
    want = reading_of(logit_lens(language_model(folder)), TEXT, [0, 2, 3], top=3).to_dict()
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(want))
    assert {cell["layer"] for cell in want["cells"]} == {0, 2, 3}


def test_the_table_has_every_layer_and_position(call, folder):
    code, out, _ = call("lens", TEXT, "--model", folder, "--top", "2")
    found = reading_of(logit_lens(language_model(folder)), TEXT, top=2)
    assert code == 0
    assert out.rstrip("\n") == table(found)
    lines = out.splitlines()
    assert lines[2].split() == ["layer", *TEXT.split()]
    for layer in range(4):
        cells = lines[3 + layer].split()
        assert cells[0] == str(layer)
        assert cells[1::2] == [said[0] for said in found.top_tokens[layer]]
    last = lines[-1].split()
    assert last[0] == "3"
    assert last[3::2] == list(found.top_tokens[3][-1])
    assert float(last[1]) == pytest.approx(found.values["entropy"][3, -1], abs=0.01)


def test_a_narrow_terminal_gets_the_same_cells_in_more_tables(folder):
    found = reading_of(logit_lens(language_model(folder)), TEXT, [1])
    wide, narrow = table(found, 200), table(found, 24)
    assert wide.count("layer  w") == 1
    assert narrow.count("layer  w") > 1
    rows = [line.split()[1:] for line in narrow.split("\n\n") for line in line.splitlines() if line.startswith("    1")]
    cells = [cell for row in rows[:-1] for cell in row]
    assert cells == wide.splitlines()[3].split()[1:]
    assert max(len(line) for line in narrow.split("\n\nafter")[0].splitlines()[2:]) <= 24


def test_tokens_are_shown_on_one_line(folder):
    found = reading_of(logit_lens(language_model(folder)), TEXT, [1])
    odd = ("\n a\tb", "x" * 40, '"', *found.tokens[3:])
    object.__setattr__(found, "tokens", odd)
    shown = table(found, 300).splitlines()[2].split()
    assert shown[1:4] == ["\\n·a\\tb", "x" * 13 + "…", '"']


def test_smollm2_is_read_by_default(call, monkeypatch):
    monkeypatch.setattr(layers, "smollm2", lambda: lens_models.loaded("gpt2"))
    code, out, _ = call("lens", TEXT, "--layers", "3")
    assert code == 0
    assert out.startswith("logit lens of tiny-gpt2")


def test_a_tuned_lens_is_trained_saved_and_read_through(call, folder, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(lens_models.texts(150)), encoding="utf-8")
    out_file = tmp_path / "tuned.safetensors"
    how = ("--model", folder, "--texts", texts, "--layers", "all", "--steps", "30", "--batch", "64")
    code, out, err = call("tune-lens", out_file, *how)
    assert code == 0
    assert "step 30 of 30" in err
    title, heading, *lines = out.splitlines()
    assert title.startswith("KL from the last layer, nats")
    assert heading.split() == ["layer", "KL", "lens", "KL", "tuned"]
    rows = [line.split() for line in lines]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert all(float(after) < float(before) for _, before, after in rows)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["texts.txt", "tuned.safetensors"]
    code, out, _ = call("lens", TEXT, "--model", folder, "--tuned", out_file, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["reader"] == "tuned lens"
    assert {cell["layer"] for cell in told["cells"]} == {0, 1, 2, 3}
    assert max(abs(cell["kl"]) for cell in told["cells"] if cell["layer"] == 3) < 1e-6
    code, _, err = call("lens", TEXT, "--model", folder, "--tuned", texts)
    assert (code, "cannot be read" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lens", "", "--model", "M"), "TEXT is empty"),
        (("lens", "w1 " * 65, "--model", "M"), "the context of tiny is 64"),
        (("lens", TEXT, "--model", "M", "--layers", "4"), "layer is 4"),
        (("lens", TEXT, "--model", "M", "--layers", "one"), "--layers must be numbers"),
        (("lens", TEXT, "--model", "M", "--top", "0"), "top must be a whole number from 1 to"),
        (("lens", TEXT, "--model", "./no/such/folder/here"), "there is no such folder"),
        (("lens", TEXT, "--model", "EMPTY"), "cannot be loaded"),
        (("lens", TEXT, "--model", "BERT"), "it is an encoder"),
        (("lens", TEXT, "--model", "M", "--tuned", "no.safetensors"), "is not a file"),
        (("lens", TEXT, "--model", "M", "--device", "nowhere"), "device is 'nowhere'"),
        (("tune-lens", "tuned.bin", "--model", "M"), "must be a .safetensors file"),
        (("tune-lens", "no/folder/t.safetensors", "--model", "M"), "in a folder that exists"),
        (("tune-lens", "t.safetensors", "--model", "M", "--texts", "no.txt"), "could not be read as UTF-8"),
        (("tune-lens", "t.safetensors", "--model", "M", "--texts", "ONE"), "at least 2 are needed"),
        (("tune-lens", "t.safetensors", "--model", "M", "--texts", "TWO", "--layers", "9"), "layer is 9"),
        (("tune-lens", "t.safetensors", "--model", "M", "--texts", "TWO", "--layers", "3"), "before the last"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, said, call, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.txt").write_text("w1 w2 w3 w4\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("w1 w2 w3 w4\n" * 6, encoding="utf-8")
    names = {"M": folder, "EMPTY": tmp_path / "empty", "BERT": tmp_path / "bert"}
    names |= {"ONE": tmp_path / "one.txt", "TWO": tmp_path / "two.txt"}
    if "BERT" in arguments:
        lens_models.bert().save_pretrained(names["BERT"])
        lens_models.tokenizer().save_pretrained(names["BERT"])
    code, out, err = call(*(names.get(each, each) for each in arguments))
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_text_that_is_too_long_can_be_cut(call, folder):
    code, out, _ = call("lens", "w1 " * 66, "--model", folder, "--layers", "3", "--truncate")
    assert code == 0
    assert out.splitlines()[-1] == "the last 2 tokens of the text were not read"
    assert np.isfinite(float(out.splitlines()[-2].split()[1]))
