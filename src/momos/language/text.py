"""Text for language models: documents from one of three sources, tokens, fixed splits, sequences.

    package   the Python sources of an installed distribution: a pinned wheel has the same bytes on every machine
    files     a text file, or every file of a folder, inside data/raw
    pile      documents streamed by the package `datasets` (not among the pinned ones: `pip install datasets`)

Tokens are bytes (vocabulary 256), or those of a tokenizer on the hub by its name.
"""

import hashlib
import importlib
import importlib.metadata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from momos import config

BYTES = "bytes"  # the tokenizer that needs no file
SEPARATOR = b"\0"  # between documents of bytes


class Text(NamedTuple):
    """Tokens of the documents in a seeded order, one after another: (n,) uint8 of bytes, else
    int32.
    """

    train: Tensor
    held_out: Tensor
    vocabulary: int
    sha256: str  # of the documents' bytes, by name


class Unavailable(RuntimeError):
    """A package or the network is missing; the message says which and what to do."""


def read(settings: config.Text) -> Text:
    """The whole text, tokenised, in two parts of which no document is in both but at the seam.

    Raises ValueError naming the text where it is missing, empty, or not what text.sha256 says;
    Unavailable for `datasets`, a tokenizer or a hub that is not there.
    """
    documents = DOORS[settings.source](settings.name, settings.num_documents)
    if not any(content.strip() for _, content in documents):
        raise ValueError(
            f"text.name: {settings.name} is empty: expected at least one document with text in it"
        )
    digest = digest_of(documents)
    if settings.sha256 not in (None, digest):
        raise ValueError(
            f"text.sha256 must be that of {settings.name}, {digest}, got {settings.sha256} (null takes any text)"
        )
    order = np.random.default_rng(settings.split_seed).permutation(len(documents))
    pieces, vocabulary = tokenize([documents[index][1] for index in order], settings.tokenizer)
    tokens = torch.cat(pieces)
    cut = len(tokens) - round(settings.held_out_fraction * len(tokens))
    return Text(tokens[:cut].clone(), tokens[cut:].clone(), vocabulary, digest)


def digest_of(documents: list[tuple[str, bytes]]) -> str:
    """sha256 over names and contents, in the order of names."""
    total = hashlib.sha256()
    for name, content in documents:
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def package(name: str, num_documents: int | None = None) -> list[tuple[str, bytes]]:
    """(path, bytes) of every .py file that the distribution's own list names, in the order of
    paths.
    """
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"text.name must be an installed distribution, got {name!r} (`make setup` installs what is pinned)"
        ) from None
    listed = sorted(
        file.as_posix()
        for file in distribution.files or []
        if file.suffix == ".py" and ".." not in file.parts
    )
    return [
        (path, Path(distribution.locate_file(path)).read_bytes()) for path in listed[:num_documents]
    ]


def files(path: str, num_documents: int | None = None) -> list[tuple[str, bytes]]:
    """(path, bytes) of a file, or of every file below a folder in the order of paths."""
    root = Path(path)
    if not root.exists():
        raise ValueError(f"text.name: {path} is missing: expected a text file or a folder of them")
    found = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    return [
        (file.relative_to(root).as_posix(), file.read_bytes()) for file in found[:num_documents]
    ]


def pile(name: str, num_documents: int | None) -> list[tuple[str, bytes]]:
    """(number, bytes) of the first documents of a streamed data set with a column `text`."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise Unavailable(
            "text.source pile needs the package datasets: `pip install datasets`"
        ) from error
    try:
        rows = islice(datasets.load_dataset(name, split="train", streaming=True), num_documents)
        return [(str(number), row["text"].encode()) for number, row in enumerate(rows)]
    except (OSError, RuntimeError, ValueError) as error:
        raise Unavailable(
            f"text.name: data set {name} is neither on the hub nor in its cache: {error}"
        ) from error


DOORS = {"package": package, "files": files, "pile": pile}


def tokenize(documents: list[bytes], tokenizer: str) -> tuple[list[Tensor], int]:
    """A tensor of tokens per document, each with a separator after it, and the size of the
    vocabulary.
    """
    if tokenizer == BYTES:
        return [
            torch.frombuffer(bytearray(document + SEPARATOR), dtype=torch.uint8)
            for document in documents
        ], 256
    known = _tokenizer(tokenizer)
    encoded = known(
        [document.decode(errors="replace") for document in documents], add_special_tokens=False
    )["input_ids"]
    return [
        torch.tensor([*tokens, known.eos_token_id], dtype=torch.int32) for tokens in encoded
    ], len(known)


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer  # seconds to import

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"text.tokenizer {name!r} is neither {BYTES!r} nor found on the hub or in its cache: {error}"
        ) from error


def sequences(tokens: Tensor, context: int, num: int, generator: torch.Generator) -> Tensor:
    """(num, context + 1) int64: `num` stretches at random places. Raises ValueError for a text
    shorter than one.
    """
    room = len(tokens) - context
    if room < 1:
        raise ValueError(
            f"the text must hold more than {context} tokens (text.context), got {len(tokens)}"
        )
    starts = torch.randint(room, (num, 1), generator=generator)
    return tokens[starts + torch.arange(context + 1)].long()


def batches(
    tokens: Tensor, context: int, batch_size: int, num_batches: int, generator: torch.Generator
) -> list[Tensor]:
    """num_batches of (batch_size, context + 1) int64."""
    return list(sequences(tokens, context, batch_size * num_batches, generator).split(batch_size))


def stream(
    tokens: Tensor, context: int, batch_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Batches without end."""
    while True:
        yield sequences(tokens, context, batch_size, generator)
