"""Text of language models: each source, the split, sequences, and what goes wrong."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from momos import config
from momos.language import text

PROFILES = Path(__file__).parents[2] / "profiles"


def settings(**changes) -> config.Text:
    base = config.profile_settings("digits", PROFILES)["text"] | {
        "sha256": None,
        "held_out_fraction": 0.25,
    }
    return config.Text.from_mapping(base | changes, "text")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """data/raw/texts below an empty working directory."""
    monkeypatch.chdir(tmp_path)
    found = Path("data/raw/texts")
    found.mkdir(parents=True)
    return found


def test_the_pinned_package_has_the_recorded_bytes():
    wanted = config.profile_settings("digits", PROFILES)["text"]
    documents = text.package_documents(wanted["name"])
    assert text.digest_of(documents) == wanted["sha256"] and len(documents) > 100
    assert [name for name, _ in documents] == sorted(name for name, _ in documents)


def test_all_documents_are_there_once_and_the_parts_do_not_overlap(folder):
    contents = {
        f"{number}.txt": f"document {number}, ".encode() * (number + 1) for number in range(9)
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    found = text.read_text(settings(source="files", name=str(folder)))
    whole = bytes(torch.cat([found.train, found.held_out]).tolist())
    assert sorted(whole.split(b"\0")[:-1]) == sorted(contents.values()) and found.vocabulary == 256
    assert len(found.held_out) == round(len(whole) / 4) and found.train.dtype == torch.uint8
    other = text.read_text(settings(source="files", name=str(folder), split_seed=1))
    assert not torch.equal(other.held_out, found.held_out) and other.sha256 == found.sha256
    one = text.read_text(settings(source="files", name=str(folder / "3.txt")))
    assert bytes(torch.cat([one.train, one.held_out]).tolist()) == contents["3.txt"] + b"\0"


@pytest.mark.parametrize("change", [b"another text", None])
def test_the_hash_depends_on_names_and_contents(folder, change):
    (folder / "a.txt").write_text("a text")
    before = text.digest_of(text.file_documents(str(folder)))
    if change is None:
        (folder / "a.txt").rename(folder / "b.txt")
    else:
        (folder / "a.txt").write_bytes(change)
    after = text.digest_of(text.file_documents(str(folder)))
    with pytest.raises(
        ValueError, match=f"text.sha256 must be that of .*texts, {after}, got {before}"
    ):
        text.read_text(settings(source="files", name=str(folder), sha256=before))


def test_a_text_that_is_not_there_or_empty(folder):
    with pytest.raises(
        ValueError, match="data/raw/nothing is missing: expected a text file or a folder"
    ):
        text.read_text(settings(source="files", name="data/raw/nothing"))
    for empty in ("", " \n"):
        (folder / "empty.txt").write_text(empty)
        with pytest.raises(
            ValueError, match="text.name: data/raw/texts is empty: expected at least one document"
        ):
            text.read_text(settings(source="files", name=str(folder)))
    with pytest.raises(
        ValueError, match="must be an installed distribution, got 'no-such-package'"
    ):
        text.read_text(settings(name="no-such-package"))


def test_sequences_are_stretches_of_the_text():
    tokens = torch.arange(100, dtype=torch.uint8)
    drawn = text.draw_sequences(tokens, 9, 500, torch.Generator().manual_seed(0))
    assert drawn.shape == (500, 10) and drawn.dtype == torch.int64
    assert torch.equal(drawn - drawn[:, :1], torch.arange(10).expand(500, 10))
    assert drawn.min() == 0 and drawn.max() == 99, "from the first token to the last"
    batches = text.draw_batches(tokens, 9, 4, 3, torch.Generator().manual_seed(0))
    assert [tuple(batch.shape) for batch in batches] == [(4, 10)] * 3
    assert torch.equal(
        torch.cat(batches), text.draw_sequences(tokens, 9, 12, torch.Generator().manual_seed(0))
    )
    stream = text.stream_batches(tokens, 9, 4, torch.Generator().manual_seed(1))
    assert not torch.equal(next(stream), next(stream))
    with pytest.raises(ValueError, match=r"more than 100 tokens \(text.context\), got 100"):
        text.draw_sequences(tokens, 100, 1, torch.Generator())


def test_the_pile_is_streamed(monkeypatch):
    asked = {}

    def load_dataset(name, **how):
        asked.update(how, name=name)
        return ({"text": f"document {number}"} for number in range(10**9))

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found = text.read_text(settings(source="pile", name="some/pile", num_documents=5))
    assert asked == {"name": "some/pile", "split": "train", "streaming": True}
    assert bytes(torch.cat([found.train, found.held_out]).tolist()).count(b"\0") == 5


def test_the_package_datasets_streams_a_folder(tmp_path):
    pytest.importorskip("datasets")
    rows = [json.dumps({"text": f"document {number}"}) for number in range(9)]
    (tmp_path / "pile").mkdir()
    (tmp_path / "pile" / "part.jsonl").write_text("\n".join(rows) + "\n")
    documents = text.pile_documents(str(tmp_path / "pile"), 5)
    assert documents == [(str(number), f"document {number}".encode()) for number in range(5)]
    with pytest.raises(text.TextUnavailable, match="is neither on the hub nor in its cache"):
        text.pile_documents(str(tmp_path / "missing"), 5)


def test_no_datasets_and_no_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        text.TextUnavailable, match="needs the package datasets: `pip install datasets`"
    ):
        text.read_text(settings(source="pile", name="some/pile", num_documents=5))

    def no_hub(*args, **how):
        raise ConnectionError("no route to the hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=no_hub))
    with pytest.raises(
        text.TextUnavailable,
        match="data set some/pile is neither on the hub nor in its cache: no route",
    ):
        text.read_text(settings(source="pile", name="some/pile", num_documents=5))


def test_a_tokenizer_of_its_own(folder, tmp_path):
    transformers, tokenizers = (
        pytest.importorskip("transformers"),
        pytest.importorskip("tokenizers"),
    )
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"end": 0, "a": 1, "b": 2, "?": 3}, unk_token="?")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="end", unk_token="?"
    ).save_pretrained(tmp_path / "words")
    (folder / "a.txt").write_text("a b b other a")
    found = text.read_text(
        settings(source="files", name=str(folder), tokenizer=str(tmp_path / "words"))
    )
    assert (
        torch.cat([found.train, found.held_out]).tolist() == [1, 2, 2, 3, 1, 0]
        and found.vocabulary == 4
    )
    with pytest.raises(
        text.TextUnavailable, match="text.tokenizer .* is neither 'bytes' nor found"
    ):
        text.read_text(
            settings(source="files", name=str(folder), tokenizer=str(tmp_path / "missing"))
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"source": "files", "name": "/etc/passwd"},
            "text.name must be a relative path inside data/raw",
        ),
        (
            {"source": "files", "name": "data/raw/../x"},
            "text.name must be a relative path inside data/raw",
        ),
        ({"source": "pile"}, "text.num_documents must be 1 or more for pile"),
        (
            {"num_documents": 3},
            "text.num_documents must be 1 or more for pile, null for all of another source, got 3",
        ),
        ({"held_out_fraction": 0.0}, r"text.held_out_fraction must be in \(0, 1\), got 0.0"),
        ({"context": 0}, "text.context must be 1 or more tokens, got 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)
