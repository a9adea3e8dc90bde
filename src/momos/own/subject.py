"""A model of one's own, as the second paper's measures take it: with batches and a loss.

It is a causal language model of Hugging Face with a text, or what a function of one's own returns.
"""

import importlib.util
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from momos.compute.seeds import generator_for
from momos.language import neox, text
from momos.own.folding import fold_norms_, linear_layers_
from momos.weights.files import some_of

BYTES = text.BYTES  # the tokenizer that needs no file
# What transformers raises for folders and names that hold no model, or one that it can't build.
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError)


class Subject(NamedTuple):
    """A model with what its loss is measured on."""

    name: str  # for readers
    model: nn.Module
    batches: Sequence[Any]  # whatever `loss` takes
    loss: Callable[[nn.Module, Any], Tensor]  # (model, batch) -> scalar mean loss in nats
    notes: tuple[str, ...]  # what was done to the model, for readers
    batch_bytes: int  # what a batch's outputs take, where that is known

    @torch.no_grad()
    def mean_loss(self, model: nn.Module) -> float:
        """The loss of the model or of a copy of it, a mean over the batches."""
        losses = [self.loss(model, batch).item() for batch in self.batches]
        return sum(losses) / len(losses)


def language_model(
    name: str,
    file: Path,
    *,
    tokenizer: str | None,
    context: int,
    batch_size: int,
    num_batches: int,
    fold: bool,
    device: torch.device,
) -> Subject:
    """A causal language model, with random sequences of a text, the same each time.

    name: a folder, or a name in the local cache of the hub; nothing is downloaded, and no code of
    the folder is run. tokenizer: as `name`, or BYTES; None: the model's own. context: tokens per
    sequence, at most. Raises ValueError naming the folder or the file, and what was expected.
    """
    content = _text(file)
    model = _load(name)
    tokens, vocabulary = _tokens(content, tokenizer or name)
    longest = getattr(model.config, "max_position_embeddings", None) or context
    length = min(context, longest, len(tokens) - 1)
    size = model.get_input_embeddings().num_embeddings
    if vocabulary > size and int(tokens.max()) >= size:
        raise ValueError(
            f"{name} knows {size} tokens, {file} has token {int(tokens.max())}: expected the "
            "tokenizer that the model was trained with (--tokenizer)"
        )
    if length < 1:
        expected = "expected two or more, by the model's tokenizer (--tokenizer NAME or bytes)"
        raise ValueError(f"{file} has {len(tokens)} tokens: {expected}")
    linear_layers_(model)
    note = fold_norms_(model) if fold else "layer norms are not folded, as asked"
    generator = generator_for("own:sequences", 0)
    batches = text.draw_batches(tokens, length, batch_size, num_batches, generator)
    return Subject(
        name,
        model.to(device).eval(),
        [batch.to(device) for batch in batches],
        neox.loss,
        (note, f"{batch_size * num_batches} sequences of {length} tokens of {file}"),
        2 * 4 * batch_size * length * size,  # logits, and their gradient or logarithm
    )


def _text(file: Path) -> bytes:
    if not file.is_file():
        found = "is a folder" if file.is_dir() else "is missing"
        raise ValueError(f"{file} {found}: expected a text file (--text)")
    content = file.read_bytes()
    if not content.strip():
        raise ValueError(f"{file} is empty: expected text")
    return content


def _tokens(content: bytes, tokenizer: str) -> tuple[Tensor, int]:
    if tokenizer == BYTES:
        pieces, vocabulary = text.tokenize([content], BYTES)
        return pieces[0], vocabulary
    known = _from_pretrained("AutoTokenizer", tokenizer, "a tokenizer (--tokenizer NAME or bytes)")
    written = content.decode(errors="replace")
    encoded = known(written, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(encoded, dtype=torch.int32), len(known)


def _load(name: str) -> Any:
    """The model in float32, on the CPU. Raises ValueError naming weights that the folder lacks."""
    expected = "a causal language model"
    model, about = _from_pretrained(
        "AutoModelForCausalLM", name, expected, dtype=torch.float32, output_loading_info=True
    )
    if missing := sorted(about["missing_keys"]):  # which would be drawn at random
        raise ValueError(f"{name}: expected {expected}, it lacks {some_of(missing)}")
    return model


def _from_pretrained(kind: str, name: str, expected: str, **options: Any) -> Any:
    if Path(name).is_file():
        place = "a folder of Hugging Face, or a name in its local cache"
        raise ValueError(f"{name} is a file: expected {expected}, in {place}")
    import transformers
    from transformers.utils import logging

    loader, is_shown = getattr(transformers, kind), logging.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what matters of its warnings becomes an error, of one line
    try:
        return loader.from_pretrained(name, local_files_only=True, **options)
    except LOAD_ERRORS as error:
        where = "folder" if Path(name).is_dir() else "name in the local cache"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{name}: expected {expected} in this {where}: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
        if is_shown:
            logging.enable_progress_bar()


def own_module(place: str, device: torch.device) -> Subject:
    """What a function of one's own returns: (model, batches, loss).

    place: FILE.py:FUNCTION. The file is run as a program of one's own is. The model is moved to the
    device, batches are left as they are. Those of a DataLoader are drawn once, and kept.
    loss(model, batch) -> scalar Tensor. Raises ValueError naming the file, the function, and what
    was expected, or the line of its code that raises.
    """
    path, _, function = place.rpartition(":")
    if not path.endswith(".py") or not Path(path).is_file() or not function:
        raise ValueError(f"--module {place}: expected FILE.py:FUNCTION of a file that is there")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None  # for it ends in .py
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    _run(place, path, lambda: loader.exec_module(module))
    if not callable(made := getattr(module, function, None)):
        raise ValueError(f"--module {place}: {path} has no function {function}, expected one")
    returned = _run(place, path, made)
    if not (isinstance(returned, tuple | list) and len(returned) == 3):
        raise ValueError(f"--module {place}: expected (model, batches, loss), got {returned!r}")
    model, batches, loss = returned
    if not isinstance(model, nn.Module) or not callable(loss):
        kinds = f"{type(model).__name__}, .., {type(loss).__name__}"
        raise ValueError(f"--module {place}: expected (nn.Module, batches, function), got {kinds}")
    if isinstance(batches, DataLoader):
        batches = _run(place, path, lambda: list(returned[1]))
    if not hasattr(batches, "__getitem__") or not len(batches):
        kind = f"a sequence of one or more batches or a DataLoader, got {type(batches).__name__}"
        raise ValueError(f"--module {place}: expected {kind}")
    for name, weight in model.named_parameters():
        if weight.is_meta or isinstance(weight, nn.UninitializedParameter):
            raise ValueError(
                f"--module {place}: {name} has no values, expected a model with weights"
            )
    notes = (f"{len(batches)} batches of {place}",)
    return Subject(place, model.to(device).eval(), batches, loss, notes, 0)


def _run(place: str, path: str, code: Callable[[], Any]) -> Any:
    """What the file's code returns. Raises ValueError with its last line that an error came by."""
    try:
        return code()
    except (Exception, SystemExit) as error:  # whatever other people's code raises
        frames = traceback.extract_tb(error.__traceback__)
        own = [at.lineno for at in frames if Path(at.filename) == Path(path).absolute()]
        where = f"line {own[-1]} of {path}" if own else path
        message = f"{where} raises {told(error)}, expected (model, batches, loss)"
        raise ValueError(f"--module {place}: {message}") from error


def told(error: BaseException) -> str:
    """The kind of an error and what it says: KeyError's own text is a mere name."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
