"""Text for language models: documents from one of three sources, tokens, fixed parts, sequences.

    package   the Python sources of an installed distribution: the same bytes on every machine,
              where its version is pinned
    files     a text file, or every file of a folder, inside data/raw
    pile      documents streamed by the package `datasets`, which is not among the pinned ones
              (`pip install datasets`)

Tokens are bytes (a vocabulary of 256), or those of a tokenizer on the hub by its name.
"""

import hashlib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from momos import config
from momos.files.droppings import files_below
from momos.settings import advice

BYTES = "bytes"  # the tokenizer that needs no file
SEPARATOR = b"\0"  # between documents of bytes
Document = tuple[str, bytes]  # name, content


class Text(NamedTuple):
    """Tokens of all documents in a seeded order, one after another, in two parts."""

    train: Tensor  # (n,) uint8 for bytes, else int32
    held_out: Tensor
    vocabulary: int
    sha256: str  # of the documents, see `digest_of`


class TextUnavailable(RuntimeError):
    """A package or the network is missing; the message says which one and what to do."""


def read_text(settings: config.Text) -> Text:
    """Read and tokenise the whole text, and cut it into training and held-out part.

    At most one document is in both parts: the one at the cut. Raises ValueError naming a text that
    is missing, empty, or not what text.sha256 says; TextUnavailable where `datasets`, a tokenizer
    or the hub is not there.
    """
    documents = SOURCES[settings.source](settings.name, settings.num_documents)
    if not any(content.strip() for _, content in documents):
        raise ValueError(
            f"text.name: {settings.name} is empty: expected at least one document with text in it"
        )
    digest = digest_of(documents)
    if settings.sha256 not in (None, digest):
        raise ValueError(
            f"text.sha256 must be that of {settings.name}, {digest}, "
            f"got {settings.sha256} (null takes any text)"
        )
    order = np.random.default_rng(settings.split_seed).permutation(len(documents))
    pieces, vocabulary = tokenize([documents[index][1] for index in order], settings.tokenizer)
    tokens = torch.cat(pieces)
    cut = len(tokens) - round(settings.held_out_fraction * len(tokens))
    return Text(tokens[:cut].clone(), tokens[cut:].clone(), vocabulary, digest)


def check_length(text: Text, settings: config.Text) -> None:
    """Raises ValueError for a text of which a part has no room for a single sequence."""
    sizes = {"training": len(text.train), "held-out": len(text.held_out)}
    for part, size in sizes.items():
        if size <= settings.context:
            raise ValueError(
                f"text.name: {settings.name} has {sum(sizes.values())} tokens, of which {size} are "
                f"the {part} part; expected more than text.context ({settings.context}) in each "
                f"(see text.held_out_fraction, {settings.held_out_fraction})"
            )


def check_draws(tokens: Tensor, part: str, settings: config.Text, drawn: Mapping[str, int]) -> None:
    """Raises ValueError for more sequences at a time than begin in a part of the text.

    Some of them would be the same. tokens: the part's. drawn: how many, by the setting's name.
    """
    room = len(tokens) - settings.context
    for key, number in drawn.items():
        if number > room:
            raise ValueError(
                f"{key} must be at most {room}: as many sequences of text.context "
                f"({settings.context}) tokens are in the {part} part of {settings.name}, which has "
                f"{len(tokens)} tokens; got {number}"
            )


def digest_of(documents: list[Document]) -> str:
    """SHA-256 (hex) over names and contents, in the order of the documents."""
    total = hashlib.sha256()
    for name, content in documents:
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


# --- documents


def package_documents(name: str, num_documents: int | None = None) -> list[Document]:
    """Path and bytes of every .py file that the distribution itself lists, ordered by path.

    Raises ValueError for a distribution that is not installed.
    """
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"text.name must be an installed distribution, got {name!r} "
            "(`make setup` installs what is pinned)"
        ) from None
    listed = sorted(
        file.as_posix()
        for file in distribution.files or []
        if file.suffix == ".py" and ".." not in file.parts
    )
    return [
        (path, Path(str(distribution.locate_file(path))).read_bytes())
        for path in listed[:num_documents]
    ]


def file_documents(path: str, num_documents: int | None = None) -> list[Document]:
    """Path and bytes of a file, or of every file below a folder, ordered by path.

    Files that operating systems leave in folders are no documents. Raises ValueError where nothing
    is at `path`.
    """
    root = Path(path)
    if not root.exists():
        missing = f"text.name: {path} is missing: expected a text file or a folder of them"
        raise ValueError(missing + advice(root))
    files = [root] if root.is_file() else files_below(root)
    return [
        (file.relative_to(root).as_posix(), file.read_bytes()) for file in files[:num_documents]
    ]


def pile_documents(name: str, num_documents: int | None) -> list[Document]:
    """Number and bytes of the first documents of a streamed data set with a column `text`.

    Raises TextUnavailable without the package `datasets`, or without the data set.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise TextUnavailable(
            "text.source pile needs the package datasets: `pip install datasets`"
        ) from error
    try:
        rows = islice(datasets.load_dataset(name, split="train", streaming=True), num_documents)
        return [(str(number), row["text"].encode()) for number, row in enumerate(rows)]
    except (OSError, RuntimeError, ValueError) as error:
        raise TextUnavailable(
            f"text.name: data set {name} is neither on the hub nor in its cache: {error}"
        ) from error


# Readers of text.source by its name
SOURCES: dict[str, Callable[[str, int | None], list[Document]]] = {
    "package": package_documents,
    "files": file_documents,
    "pile": pile_documents,
}


# --- tokens


def tokenize(documents: list[bytes], tokenizer: str) -> tuple[list[Tensor], int]:
    """A tensor of tokens per document, each with a separator at its end, and the vocabulary's size.

    A tokenizer on the hub has its own separator, or none. Raises TextUnavailable for a tokenizer
    that is neither BYTES nor found.
    """
    if tokenizer == BYTES:
        pieces = [
            torch.frombuffer(bytearray(document + SEPARATOR), dtype=torch.uint8)
            for document in documents
        ]
        return pieces, 256
    known = _load_tokenizer(tokenizer)
    texts = [document.decode(errors="replace") for document in documents]
    encoded = known(texts, add_special_tokens=False)["input_ids"]
    end = [] if known.eos_token_id is None else [known.eos_token_id]  # some have none
    pieces = [torch.tensor([*tokens, *end], dtype=torch.int32) for tokens in encoded]
    return pieces, len(known)


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer  # takes seconds to import

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise TextUnavailable(
            f"text.tokenizer {name!r} is neither {BYTES!r} nor found on the hub "
            f"or in its cache: {error}"
        ) from error


# --- sequences


def draw_sequences(tokens: Tensor, context: int, num: int, generator: torch.Generator) -> Tensor:
    """`num` stretches of the tokens at random places: (num, context + 1) int64.

    Raises ValueError for a text that is shorter than one sequence.
    """
    room = len(tokens) - context
    if room < 1:
        raise ValueError(
            f"the text must hold more than {context} tokens (text.context), got {len(tokens)}"
        )
    starts = torch.randint(room, (num, 1), generator=generator)
    return tokens[starts + torch.arange(context + 1)].long()


def draw_batches(
    tokens: Tensor, context: int, batch_size: int, num_batches: int, generator: torch.Generator
) -> list[Tensor]:
    """num_batches batches of random sequences, (batch_size, context + 1) int64 each."""
    sequences = draw_sequences(tokens, context, batch_size * num_batches, generator)
    return list(sequences.split(batch_size))


def stream_batches(
    tokens: Tensor, context: int, batch_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Batches of random sequences without end, (batch_size, context + 1) int64 each."""
    while True:
        yield draw_sequences(tokens, context, batch_size, generator)
