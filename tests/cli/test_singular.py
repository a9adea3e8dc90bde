"""`momos compressibility` and `momos llc`: of a module of one's own and of language models."""

import csv
import json
import signal
import sys

import pytest
import torch
from command import refused
from torch import nn
from torch.nn import functional as F

from momos import cli
from momos.cli import singular
from momos.complexity.compressibility import critical_n_q
from momos.own.folding import FOLDS, fold_norms_, linear_layers_
from momos.own.subject import Subject, language_model

pytestmark = pytest.mark.usefixtures("one_thread")
OWN = '''
import torch
from torch import nn

def regression():
    """A layer that fits its batches exactly, and its loss."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(6, 3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    inputs = [torch.randn(16, 6, generator=generator) for _ in range(3)]
    batches = [(x, model(x).detach()) for x in inputs]
    return model, batches, lambda model, batch: (model(batch[0]) - batch[1]).square().mean()

def deep():
    """The same with four layers."""
    model, batches, loss = regression()
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)), model)
    for layer in model[:3]:
        nn.init.orthogonal_(layer.weight)
    return model, [(x, model(x).detach()) for x, _ in batches], loss

def quadratic():
    """loss = 2 (w1^2 + w2^2), whose coefficient is known."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model, [0], lambda model, batch: 2 * model.weight.square().sum()

def wrong():
    return nn.Linear(2, 2)

def meta():
    return nn.Linear(2, 2, device="meta"), [0], print

def frozen():
    return nn.Linear(2, 2).requires_grad_(False), [0], lambda model, batch: model.weight.sum()

def half():
    return nn.Linear(2, 2).bfloat16(), [0], lambda model, batch: model.weight.sum()

def plain():
    return nn.Linear(2, 2), [0], lambda model, batch: 1.0

def leaving():
    raise SystemExit(3)

def no_batches():
    return nn.Linear(2, 2), (), print

def loader():
    """The regression's batches, in another order each time."""
    model, batches, loss = regression()
    rows = [row for x, y in batches for row in zip(x, y)]
    return model, torch.utils.data.DataLoader(rows, batch_size=16, shuffle=True), loss

def late():
    """The loss of the last batch has no meaning."""
    model, batches, loss = regression()
    return model, [*batches, (batches[0][0], "words")], loss
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a file of one's own, which `--module own.py:regression` names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def ran(capsys, *arguments):
    assert cli.main([*map(str, arguments), "--device", "cpu", "--threads", "1"]) == 0
    return capsys.readouterr().out


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_critical_points_of_a_module_are_those_of_the_library(own, capsys):
    out = ran(capsys, "compressibility", "--module", "own.py:regression", "--eps", "0.01", "0.1")
    names: dict = {}
    exec(OWN, names)
    model, batches, loss = names["regression"]()

    def mean_loss(one):
        return sum(loss(one, batch).item() for batch in batches) / 3

    expected = critical_n_q(model, mean_loss, [0.01, 0.1])
    rows = table(own / "compressibility" / "critical.csv")
    assert [float(row["value"]) for row in rows] == [point.value for point in expected]
    for row, point in zip(rows, expected, strict=True):
        assert f"eps {point.eps:g}: critical_n_q {point.value}, " in out
        assert float(row["loss"]) == pytest.approx(point.loss) and float(row["cost"]) > 1.58
    curve = {
        row["strength"]: float(row["rise"]) for row in table(own / "compressibility/curve.csv")
    }
    assert curve["3"] > 0.1 > curve[rows[1]["strength"]]
    assert (own / "compressibility" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "21 weights on cpu; 3 batches of own.py:regression" in out and "evaluations of" in out
    assert not (own / "compressibility" / "unfinished.json").exists()


def test_batches_of_a_loader_are_drawn_once(own, capsys):
    """Or each loss would be of others."""
    out = ran(capsys, "compressibility", "--module", "own.py:loader", "--eps", "0.1")
    assert "3 batches of own.py:loader" in out
    (row,) = table(own / "compressibility" / "critical.csv")
    ran(capsys, "compressibility", "--module", "own.py:regression", "--eps", "0.1")
    (other,) = table(own / "compressibility" / "critical.csv")
    assert row["value"] == other["value"]
    assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=1e-5)


@pytest.mark.parametrize(
    "scheme", ["quantization_max", "factorization", "noise_relative", "pruning"]
)
def test_each_scheme_has_a_curve(own, capsys, scheme):
    arguments = ("--module", "own.py:deep", "--scheme", scheme, "--out", scheme)
    out = ran(capsys, "compressibility", *arguments, "--eps", 0.05)
    (row,) = table(own / scheme / "critical.csv")
    assert row["status"] == "found" and "eps 0.05: critical_" in out
    rises = [float(one["rise"]) for one in table(own / scheme / "curve.csv")]
    assert min(rises) <= 0.05 < max(rises)


def test_llc_of_a_quadratic_loss_is_the_known_one(own, capsys):
    """E = d/2 * nbeta h / (a (1 - lr a / 4)) with a = nbeta h + localization; here h = 4, d = 2."""
    settings = {"--nbeta": 10, "--localization": 5, "--lr": 0.004, "--draws": 1000}
    words = [str(word) for pair in settings.items() for word in pair]
    arguments = ("--module", "own.py:quadratic", "--sampler", "sgld", "--burnin", 100)
    out = ran(capsys, "llc", *arguments, "--chains", 2, *words)
    (row,) = table(own / "llc" / "llc.csv")
    scale = 10 * 4 + 5
    expected = 10 * 4 / (scale * (1 - 0.004 * scale / 4))
    assert float(row["llc_mean"]) == pytest.approx(expected, abs=0.25)  # a spread of 0.06
    assert (row["lr"], row["nbeta"], row["num_draws"]) == ("0.004", "10.0", "1000")
    assert len(table(own / "llc" / "traces.csv")) == 2 * 1100
    assert (
        f"llc {float(row['llc_mean']):.4g}, deviation" in out and (own / "llc/traces.png").exists()
    )


@pytest.fixture
def heeds_ctrl_c():
    """SIGINT interrupts, whatever the process that started the tests has set."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize(
    ("command", "after", "kept"), [("compressibility", 40, 40 - 4), ("llc", 80, 1)]
)
def test_what_is_done_is_kept_after_ctrl_c(own, capsys, monkeypatch, command, after, kept):
    """The losses, or the whole chains, of before; then the end is as without the stop."""
    arguments = [command, "--module", "own.py:regression", "--device", "cpu", "--threads", "1"]
    arguments += ["--chains", "3", "--draws", "40", "--burnin", "5"] if command == "llc" else []
    ran(capsys, *arguments, "--out", "whole")
    method, calls = ("loss", [0]) if command == "llc" else ("mean_loss", [0])
    plain = Subject.mean_loss

    def interrupted(model, batch):
        calls[0] += 1
        if calls[0] == after:
            signal.raise_signal(signal.SIGINT)
        return (model(batch[0]) - batch[1]).square().mean()

    def stopped(self, model):
        calls[0] += 1
        if calls[0] == after:
            signal.raise_signal(signal.SIGINT)
        return plain(self, model)

    with monkeypatch.context() as patch:
        if method == "mean_loss":
            patch.setattr(Subject, "mean_loss", stopped)
        else:
            patch.setattr(Subject, "loss", property(lambda self: interrupted))
        assert cli.main([*arguments, "--out", "parts"]) == 130
    out = capsys.readouterr().out
    assert "the same command goes on there" in out
    parts = json.loads((own / "parts" / "unfinished.json").read_text())["parts"]
    assert len(parts) == kept
    if command == "compressibility":
        points, all_points = (table(own / name / "curve.csv") for name in ("parts", "whole"))
        losses = {row["strength"]: row["loss"] for row in all_points}
        assert 0 < len(points) < len(all_points) and f"{len(points)} points in curve.csv" in out
        assert all(losses[row["strength"]] == row["loss"] for row in points)
        assert (own / "parts" / "curve.png").read_bytes().startswith(b"\x89PNG")
        assert not (own / "parts" / "critical.csv").exists()
    else:
        traces, all_traces = (table(own / name / "traces.csv") for name in ("parts", "whole"))
        assert traces == all_traces[: len(traces)] and f"{len(traces)} losses in traces.csv" in out
        assert 45 < len(traces) < 90, "one whole chain and a part of the next"
        assert (own / "parts" / "traces.png").read_bytes().startswith(b"\x89PNG")
        assert not (own / "parts" / "llc.csv").exists()
    ran(capsys, *arguments, "--out", "parts")
    for path in (own / "whole").glob("*.csv"):
        assert (own / "parts" / path.name).read_bytes() == path.read_bytes()
    assert not (own / "parts" / "unfinished.json").exists()


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize(
    ("command", "kept", "last"),
    [("compressibility", "losses kept: ", "critical.csv"), ("llc", "chains kept: 2", "llc.csv")],
)
def test_ctrl_c_while_results_are_written_loses_none(own, capsys, monkeypatch, command, kept, last):
    arguments = [command, "--module", "own.py:regression", "--device", "cpu", "--threads", "1"]
    arguments += ["--chains", "2", "--draws", "20", "--burnin", "5"] if command == "llc" else []
    write, written = singular._write_tables, []

    def stopped(folder, tables):
        written.append(tables)
        if len(written) == 1:
            signal.raise_signal(signal.SIGINT)
        write(folder, tables)

    with monkeypatch.context() as patch:
        patch.setattr(singular, "_write_tables", stopped)
        assert cli.main(arguments) == 130
    assert kept in capsys.readouterr().out and not (own / command / last).exists()
    ran(capsys, *arguments)
    assert (own / command / last).exists() and not (own / command / "unfinished.json").exists()


def test_bad_input_is_named(own, capsys):
    (own / "a.txt").write_text("some text")
    (own / "empty.txt").write_text(" ")
    (own / "folder").mkdir()
    for arguments, message in (
        ([], "expected MODEL with --text FILE, or --module"),
        (["folder", "--module", "own.py:wrong"], "expected MODEL with --text FILE, or --module"),
        (["folder"], "folder: expected a text to measure the loss on"),
        (["folder", "--text", "gone.txt"], "gone.txt is missing: expected a text file"),
        (["folder", "--text", "empty.txt"], "empty.txt is empty"),
        (["--module", "own.py"], "own.py: expected FILE.py:FUNCTION"),
        (["--module", "gone.py:f"], "gone.py:f: expected FILE.py:FUNCTION of a file"),
        (["--module", "own.py:gone"], "own.py has no function gone"),
        (["--module", "own.py:wrong"], "own.py:wrong: expected (model, batches, loss), got Linear"),
        (["--module", "own.py:meta"], "own.py:meta: weight has no values, expected a model with"),
        (["--module", "own.py:late"], "own.py:late: its loss can't be measured: TypeError: "),
        (["--module", "own.py:plain"], "has no attribute 'item'; expected a scalar tensor"),
        (["--module", "own.py:leaving"], "line 47 of own.py raises SystemExit: 3, expected (model"),
        (["--module", "own.py:no_batches"], "batches or a DataLoader, got tuple"),
        (["--module", "own.py:regression", "--text", "a.txt"], "--text a.txt: expected MODEL, not"),
        (["--module", "own.py:regression", "--device", "abacus"], "--device abacus: expected auto"),
        (
            ["--module", "own.py:regression", "--out", "a.txt"],
            "--out a.txt: a.txt is a file, expected a folder",
        ),
    ):
        for command in ("compressibility", "llc"):
            assert message in refused(capsys, command, *arguments), arguments
    message = refused(capsys, "llc", "--module", "own.py:half")
    assert "own.py:half: weight is torch.bfloat16, expected float32 or float64" in message
    cli.main("compressibility --scheme factorization --device cpu --module own.py:half".split())
    _, err = capsys.readouterr()
    assert err.startswith("momos: own.py:half: layers must be at least three")
    message = refused(capsys, "llc", "--module", "own.py:frozen")
    assert "no parameter requires a gradient, expected some" in message
    assert "--eps: expected a number above 0" in refused(capsys, "compressibility", "--eps", "-1")
    assert "invalid choice: 'heads'" in refused(capsys, "compressibility", "--scheme", "heads")
    message = "--module own.py:regression --lr 100 --draws 40 --device cpu --sampler sgld".split()
    cli.main(["llc", *message])
    _, err = capsys.readouterr()
    assert err.startswith("momos: own.py:regression: the loss is ") and err.count("\n") == 1


def test_neither_command_needs_transformers_for_a_module(own, capsys, monkeypatch):
    """The base install has none."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "critical_n_q" in ran(capsys, "compressibility", "--module", "own.py:regression")
    message = refused(capsys, "llc", "folder", "--text", "own.py")
    assert "transformers" in message and "pip install '.[language]'" in message


# --- language models

SHAPE = {"vocab_size": 256, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
TEXT = b"the cat sat on the mat, and the dog lay by the log. " * 40


def built(kind: str) -> nn.Module:
    import transformers as hf

    wide = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    wide |= {"intermediate_size": 32, "max_position_embeddings": 48}
    narrow = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}
    configs = {
        "gpt2": lambda: hf.GPT2Config(**narrow, **SHAPE),
        "gpt_neox": lambda: hf.GPTNeoXConfig(**wide, **SHAPE),
        "llama": lambda: hf.LlamaConfig(**wide, **SHAPE),
        "opt": lambda: hf.OPTConfig(**wide, ffn_dim=32, word_embed_proj_dim=16, **SHAPE),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(configs[kind]())
        with torch.no_grad():
            for weight in model.parameters():  # norms too, which begin at one and zero
                weight += 0.2 * torch.randn_like(weight)
    return model.eval()


@pytest.mark.parametrize("kind", [*("gpt2", "gpt_neox", "llama"), "opt"])
def test_folding_changes_no_output(kind):
    model, tokens = built(kind), torch.arange(40).reshape(2, 20)
    count = sum(weight.numel() for weight in model.parameters())
    with torch.no_grad():
        before = model(tokens).logits
        linear_layers_(model)
        torch.testing.assert_close(model(tokens).logits, before, rtol=1e-5, atol=1e-5)
        assert not [one for one in model.modules() if type(one).__name__ == "Conv1D"]
        assert sum(weight.numel() for weight in model.parameters()) == count
        note = fold_norms_(model)
        torch.testing.assert_close(model(tokens).logits, before, rtol=1e-4, atol=2e-5)
    after = sum(weight.numel() for weight in model.parameters())
    if kind not in FOLDS:
        assert note.startswith("layer norms are not folded: unknown for opt") and after == count
    else:
        assert note.startswith("layer norms are folded")
        assert ("but the last one" in note) == (kind == "gpt2")
        norms = [m for m in model.modules() if "Norm" in type(m).__name__]
        kept = [m for m in norms if list(m.parameters())]
        assert len(norms) == 5 and len(kept) == (kind == "gpt2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 that has learnt a text of bytes a little."""
    root = tmp_path_factory.mktemp("language")
    (root / "text.txt").write_bytes(TEXT)
    model, tokens = built("gpt2"), torch.tensor(list(TEXT))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(20):
        batch = torch.stack([tokens[at : at + 33] for at in range(step, step + 80, 10)])
        logits = model(batch[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(root / "gpt2")
    return root


FEW = ("--tokenizer", "bytes", "--context", 32, "--batches", 2, "--batch-size", 4)


def test_a_language_model_has_a_curve_and_a_coefficient(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    out = ran(capsys, "compressibility", "gpt2", "--text", "text.txt", *FEW, "--eps", 0.3)
    assert "but the last one" in out and "8 sequences of 32 tokens of text.txt" in out
    subject = language_model(
        "gpt2", folder / "text.txt", tokenizer="bytes", context=32, batch_size=4, num_batches=2,
        fold=True, device=torch.device("cpu"),
    )  # fmt: skip
    (row,) = table(folder / "compressibility" / "critical.csv")
    assert float(row["init_loss"]) == pytest.approx(subject.mean_loss(subject.model))
    assert row["status"] == "found" and float(row["loss"]) <= float(row["init_loss"]) + 0.3
    arguments = ("--chains", 2, "--draws", 6, "--burnin", 2, "--no-fold")
    out = ran(capsys, "llc", "gpt2", "--text", "text.txt", *FEW, *arguments)
    assert "layer norms are not folded, as asked" in out and "llc " in out


def test_bad_models_and_texts_are_named(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    import transformers

    (folder / "none").mkdir(exist_ok=True)
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, tie_word_embeddings=False)
    transformers.GPT2Model(config).save_pretrained(folder / "headless")
    broken = built("gpt2")
    with torch.no_grad():
        broken.lm_head.weight[3, 2] = torch.nan
    broken.save_pretrained(folder / "broken")
    capsys.readouterr()  # a progress bar
    text = ("--text", "text.txt")
    for arguments, message in (
        (["none", *text, *FEW], "none: expected a causal language model in this folder"),
        (["no/such", *text, *FEW], "no/such: expected a causal language model in this name"),
        (["gpt2", *text], "text.txt has 0 tokens: expected two or more, by the model's tokenizer"),
        (["gpt2", *text, "--tokenizer", "none"], "none: expected a tokenizer (--tokenizer NAME"),
        (["text.txt", *text], "text.txt is a file: expected a causal language model, in a folder"),
        (["gpt2", "--text", "none"], "none is a folder: expected a text file"),
        (["headless", *text, *FEW], "headless: expected a causal language model, it lacks lm_head"),
        (["broken", *text, *FEW], "broken: NaN or infinite weights in transformer.wte.weight"),
        (["gpt2", *text, *FEW[:-1], 10**13], "more memory is needed than there is"),
    ):
        assert message in refused(capsys, "compressibility", *arguments), arguments
