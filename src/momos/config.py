"""Settings: one frozen dataclass per section of params.yaml, checked once, here, before any work starts.

No setting has a default in code. A missing, unknown, ill-typed or out-of-range key is a ValueError that names the key, the value
and what was expected. Sections of entries by name (`models`, `methods`, `language_models`) are read one entry at a time:
`load(Method, "momos_s2_c10")`.
"""

import difflib
import itertools
import types
import typing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar

import yaml

PARAMS = Path("params.yaml")


class Settings:
    """What all sections share: reading from a mapping with type checks. Subclasses are frozen dataclasses."""

    section: ClassVar[str]
    optional: ClassVar[frozenset[str]] = frozenset()  # keys that may be left out: null then, "does not apply"

    @classmethod
    def from_mapping(cls, values: Any, where: str) -> Self:
        """Raises ValueError for anything but a mapping with exactly this section's keys, each of its type."""
        if not isinstance(values, dict):
            raise ValueError(f"{where} must be a mapping of settings, got {values!r}")
        hints = typing.get_type_hints(cls)
        known = {field.name: hints[field.name] for field in fields(cls)}
        for key in values:
            if key not in known:
                raise ValueError(f"{where}.{key}: unknown key{_suggestion(key, known)}; expected {', '.join(known)}")
        for key in known.keys() - cls.optional:
            if key not in values:
                raise ValueError(f"{where}.{key} is missing; expected {_describe(known[key])}")
        checked = {key: _typed(values.get(key), hint, f"{where}.{key}") for key, hint in known.items()}
        settings = cls(**checked)
        settings.check(where)
        return settings

    def check(self, where: str) -> None:
        """Ranges and combinations; raises ValueError."""


def _suggestion(key: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if arg is type(None) else _describe(arg) for arg in args)
    if origin is tuple:
        return f"a list of {_describe(args[0])}"
    return {int: "an integer", float: "a number", str: "text", bool: "true or false", dict: "a mapping"}.get(hint, str(hint))


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value as the hint's type; integers pass as floats, nothing else is converted."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        options = [arg for arg in args if arg is not type(None)]
        matching = [arg for arg in options if _fits(value, arg)]
        if matching:
            return _typed(value, matching[0], where)
    elif _fits(value, hint):
        if origin is tuple:
            return tuple(_typed(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
        return float(value) if hint is float else value
    raise ValueError(f"{where} must be {_describe(hint)}, got {value!r}{_exponent_hint(value)}")


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(hint))
    if origin is tuple:
        return isinstance(value, list)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, hint)


def _exponent_hint(value: Any) -> str:
    """YAML reads 1e-3 as text: say how to write it."""
    if not isinstance(value, str) or "e" not in value.lower():
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    mantissa, exponent = f"{number:e}".split("e")
    return f" (YAML reads this as text: write {float(mantissa)}e{int(exponent):+d})"


def _require(condition: bool, where: str, expected: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{where} must be {expected}, got {value!r}")


def _not_empty_and_distinct(values: tuple, where: str) -> None:
    _require(len(values) > 0, where, "a list with at least one entry", list(values))
    _require(len(set(values)) == len(values), where, "a list without repeats", list(values))


@dataclass(frozen=True, kw_only=True)
class Data(Settings):
    """Which images, and how they are split."""

    section: ClassVar[str] = "data"
    source: Literal["digits", "cifar10", "mnist", "fashion_mnist", "images"]
    path: str | None  # an archive or folder inside data/raw; null for digits
    download: bool  # may torchvision's loaders use the network
    test_fraction: float | None  # digits alone: the other sources bring their own test set
    validation_fraction: float  # of what is not test
    split_seed: int
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]

    def check(self, where: str) -> None:
        _require(0 < self.validation_fraction < 1, f"{where}.validation_fraction", "in (0, 1)", self.validation_fraction)
        _require(0 <= self.split_seed < 2**32, f"{where}.split_seed", "in 0..2^32-1", self.split_seed)
        _require(len(self.mean) == len(self.std) > 0, f"{where}.std", f"as long as mean ({len(self.mean)})", list(self.std))
        _require(all(std > 0 for std in self.std), f"{where}.std", "positive", list(self.std))
        if self.source == "digits":
            fraction = self.test_fraction
            _require(fraction is not None and 0 < fraction < 1, f"{where}.test_fraction", "in (0, 1) for digits", fraction)
            return
        _require(self.test_fraction is None, f"{where}.test_fraction", "null: this source has its own test set", self.test_fraction)
        inside = self.path is not None and Path(self.path).parts[:2] == ("data", "raw") and ".." not in Path(self.path).parts
        _require(inside, f"{where}.path", "a relative path inside data/raw (copy or link the files there)", self.path)


@dataclass(frozen=True, kw_only=True)
class Augment(Settings):
    """Augmentation of training images (MoMos, Sec. 4)."""

    section: ClassVar[str] = "augment"
    flip: bool  # horizontal, with probability 1/2
    crop_padding: int  # pixels of zero padding before a random crop to the original size; 0: no crop
    rand_augment_ops: int  # operations per image; 0: none
    rand_augment_magnitude: int  # 0 to 30

    def check(self, where: str) -> None:
        _require(self.crop_padding >= 0, f"{where}.crop_padding", "0 or more pixels", self.crop_padding)
        _require(self.rand_augment_ops >= 0, f"{where}.rand_augment_ops", "0 or more", self.rand_augment_ops)
        _require(0 <= self.rand_augment_magnitude <= 30, f"{where}.rand_augment_magnitude", "in 0..30", self.rand_augment_magnitude)


@dataclass(frozen=True, kw_only=True)
class Train(Settings):
    """The training loop (MoMos, Sec. 4)."""

    section: ClassVar[str] = "train"
    epochs: int  # at most; also the cosine schedule's T_max
    batch_size: int
    patience: int | None  # stop after this many epochs without a lower validation loss; null: never
    device: str  # auto | cpu | cuda | cuda:N | mps
    num_threads: int  # of the CPU: results depend on it, so it is set here and never taken from the machine
    precision: Literal["float32", "tf32", "bf16"]  # of the training step's products; weights, losses and evaluation stay float32
    compile: bool  # by torch.compile, which needs a C++ compiler
    cuda_graphs: bool  # record the training step once, replay it for every batch
    checkpoint_seconds: float  # at most so far apart, if epochs are no longer, is what an interrupted training goes on from

    def check(self, where: str) -> None:
        _require(self.epochs >= 1, f"{where}.epochs", "1 or more", self.epochs)
        _require(self.batch_size >= 1, f"{where}.batch_size", "1 or more", self.batch_size)
        _require(self.patience is None or self.patience >= 1, f"{where}.patience", "null, or 1 or more epochs", self.patience)
        _require(self.num_threads >= 1, f"{where}.num_threads", "1 or more", self.num_threads)
        kind, _, index = self.device.partition(":")
        known = kind in ("auto", "cpu", "cuda", "mps") and (not index or (kind == "cuda" and index.isdigit()))
        _require(known, f"{where}.device", "auto, cpu, cuda, cuda:N or mps", self.device)
        graphs = not self.cuda_graphs or kind == "cuda"
        _require(graphs, f"{where}.cuda_graphs", f"false where train.device is {self.device}", self.cuda_graphs)
        _require(self.checkpoint_seconds >= 0, f"{where}.checkpoint_seconds", "0 or more", self.checkpoint_seconds)


@dataclass(frozen=True, kw_only=True)
class Mosaic(Settings):
    """How MoMos projects (Algorithm 1); which blocks and how many motifs is each method's own setting."""

    section: ClassVar[str] = "mosaic"
    projection_every: str | int  # epoch (the authors' code) | step (the paper) | a number of steps
    force_zero: bool  # the zero block is always a motif
    slicing: Literal["tensor", "model"]  # cut each tensor by itself (the authors' code), or the flattened model (the paper)

    def check(self, where: str) -> None:
        every = self.projection_every
        valid = every in ("epoch", "step") if isinstance(every, str) else every >= 1
        _require(valid, f"{where}.projection_every", "epoch, step, or a number of steps of 1 or more", every)


@dataclass(frozen=True, kw_only=True)
class Quantize(Settings):
    """Which weights quantisation-aware training leaves out, beside all biases (method A4)."""

    section: ClassVar[str] = "quantize"
    exclude: Literal["type", "names", "none"]  # normalisation modules | the authors' name tokens | nothing


@dataclass(frozen=True, kw_only=True)
class Model(Settings):
    """One entry of `models`: an architecture and its optimiser."""

    section: ClassVar[str] = "models"
    arch: str  # mlp, resnet20, tiny_vit, mobilevit, or any timm name
    image_size: int  # pixels; images of another size are resized
    kwargs: dict  # to the architecture
    optimizer: Literal["sgd", "adamw"]
    lr: float
    momentum: float  # sgd alone
    weight_decay: float

    def check(self, where: str) -> None:
        _require(self.image_size >= 1, f"{where}.image_size", "1 or more pixels", self.image_size)
        _require(self.lr > 0, f"{where}.lr", "positive", self.lr)
        _require(0 <= self.momentum < 1, f"{where}.momentum", "in [0, 1)", self.momentum)
        _require(self.weight_decay >= 0, f"{where}.weight_decay", "0 or more", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Method(Settings):
    """One entry of `methods`: baseline (32 bits), QAT (fewer), MoMos (a block size), or the last two together."""

    section: ClassVar[str] = "methods"
    optional: ClassVar[frozenset[str]] = frozenset({"block_size", "capacity", "num_motifs"})
    bits: int  # per weight in the forward pass (q); 32: no quantisation
    block_size: int | None  # weights per block (s); null: no MoMos
    capacity: float | None  # num_motifs / num_blocks (C)
    num_motifs: int | None  # instead of capacity (k)

    @property
    def is_momos(self) -> bool:
        return self.block_size is not None

    def check(self, where: str) -> None:
        _require(self.bits == 32 or 2 <= self.bits <= 16, f"{where}.bits", "in 2..16, or 32 for none", self.bits)
        if not self.is_momos:
            for key in ("capacity", "num_motifs"):
                _require(getattr(self, key) is None, f"{where}.{key}", "left out where there is no block_size", getattr(self, key))
            return
        _require(self.block_size >= 1, f"{where}.block_size", "1 or more", self.block_size)
        given = (self.capacity is not None) + (self.num_motifs is not None)
        _require(given == 1, f"{where}", "given either capacity or num_motifs beside block_size", vars(self))
        _require(self.capacity is None or 0 < self.capacity <= 1, f"{where}.capacity", "in (0, 1]", self.capacity)
        _require(self.num_motifs is None or self.num_motifs >= 1, f"{where}.num_motifs", "1 or more", self.num_motifs)


@dataclass(frozen=True, kw_only=True)
class Grid(Settings):
    """The runs of Table 1: every model x method x seed."""

    section: ClassVar[str] = "grid"
    models: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]

    def check(self, where: str) -> None:
        for key in ("models", "methods", "seeds"):
            _not_empty_and_distinct(getattr(self, key), f"{where}.{key}")
        _require(min(self.seeds) >= 0, f"{where}.seeds", "integers of 0 or more", list(self.seeds))


@dataclass(frozen=True, kw_only=True)
class Ablation(Settings):
    """The runs of Figures 4 and B.2: every model x block size x capacity, MoMos in full precision."""

    section: ClassVar[str] = "ablation"
    models: tuple[str, ...]  # may be empty: no ablation
    block_sizes: tuple[int, ...]
    capacities: tuple[int | float, ...]  # as written: they name folders
    seeds: tuple[int, ...]

    def check(self, where: str) -> None:
        for key in ("block_sizes", "capacities", "seeds"):
            _not_empty_and_distinct(getattr(self, key), f"{where}.{key}")
        _require(min(self.block_sizes) >= 1, f"{where}.block_sizes", "integers of 1 or more", list(self.block_sizes))
        inside = all(0 < capacity <= 1 for capacity in self.capacities)
        _require(inside, f"{where}.capacities", "numbers in (0, 1]", list(self.capacities))


@dataclass(frozen=True, kw_only=True)
class Evaluate(Settings):
    """What is measured on trained weights."""

    section: ClassVar[str] = "evaluate"
    checkpoint: Literal["last", "best"]  # the weights whose complexity is measured (the authors' code: last)
    compressors: tuple[Literal["gzip", "bz2", "lzma", "zstd"], ...]
    shuffle_seed: int  # of the shuffled-bits control

    def check(self, where: str) -> None:
        _not_empty_and_distinct(self.compressors, f"{where}.compressors")
        _require(self.shuffle_seed >= 0, f"{where}.shuffle_seed", "0 or more", self.shuffle_seed)


@dataclass(frozen=True, kw_only=True)
class Pack(Settings):
    """Runs as files: ordinary ones, and .momos files of each level."""

    section: ClassVar[str] = "pack"
    block_size: int  # where the method has none
    seeds: tuple[int, ...]  # of these, runs by ordinary compressors and, MoMos in full precision, at lossy levels too; may be empty
    compressors: tuple[Literal["gzip", "bz2", "lzma", "zstd"], ...]  # of the safetensors file
    motif_bits: tuple[int, ...]  # motifs rounded to so many
    min_usage: int  # motifs that fewer blocks use are pruned
    refit_epochs: int  # in which the motifs alone are trained
    refit_lr: float
    combined_bits: int  # of motifs that are refitted and pruned before

    def check(self, where: str) -> None:
        for key in ("compressors", "motif_bits"):
            _not_empty_and_distinct(getattr(self, key), f"{where}.{key}")
        for bits in (*self.motif_bits, self.combined_bits):
            _require(2 <= bits <= 16, f"{where}.{'motif_bits' if bits in self.motif_bits else 'combined_bits'}", "in 2..16", bits)
        for key in ("block_size", "min_usage", "refit_epochs"):
            _require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))
        _require(self.refit_lr > 0, f"{where}.refit_lr", "positive", self.refit_lr)


@dataclass(frozen=True, kw_only=True)
class Survey(Settings):
    """Figure 2's models from elsewhere: trained ones, and as a control some that nobody trained."""

    section: ClassVar[str] = "survey"
    untrained: tuple[str, ...]  # timm architectures, of the control
    source: Literal["none", "timm", "manifest", "folder"]  # of trained models
    path: str | None  # of the manifest or folder, inside data/zoo
    num_models: int | None  # drawn from the source; null: all of them
    min_models: int  # the survey fails with fewer measured ones
    max_parameters: int  # of a model; larger ones are not drawn
    seed: int  # of the draw and of the shuffled-bits control
    init_seeds: tuple[int, ...]  # initialisations, whose mean BDM trained weights are compared with
    compressors: tuple[Literal["gzip", "bz2", "lzma", "zstd"], ...]
    keep_weights: bool  # downloads stay in the hub's cache
    num_workers: int  # models measured side by side, each in a process; 0: in the stage's own

    def check(self, where: str) -> None:
        elsewhere = self.source in ("manifest", "folder")
        inside = self.path is not None and Path(self.path).parts[:2] == ("data", "zoo") and ".." not in Path(self.path).parts
        _require(inside if elsewhere else self.path is None, f"{where}.path", "a relative path inside data/zoo for a manifest or folder, "
                 "null otherwise", self.path)  # fmt: skip
        _require(self.num_models is None or self.num_models >= 0, f"{where}.num_models", "null (all), or 0 or more", self.num_models)
        most = 0 if self.source == "none" else self.num_models
        _require(0 <= self.min_models <= (self.min_models if most is None else most), f"{where}.min_models",
                 f"in 0..{'any' if most is None else most} (the number drawn)", self.min_models)  # fmt: skip
        _require(self.max_parameters >= 1, f"{where}.max_parameters", "1 or more", self.max_parameters)
        _require(self.seed >= 0, f"{where}.seed", "0 or more", self.seed)
        for key in ("init_seeds", "compressors"):
            _not_empty_and_distinct(getattr(self, key), f"{where}.{key}")
        _require(min(self.init_seeds) >= 0, f"{where}.init_seeds", "integers of 0 or more", list(self.init_seeds))
        _require(len(set(self.untrained)) == len(self.untrained), f"{where}.untrained", "a list without repeats", list(self.untrained))
        _require(self.num_workers >= 0, f"{where}.num_workers", "0 or more", self.num_workers)


@dataclass(frozen=True, kw_only=True)
class Report(Settings):
    """What Figure 1 shows: one tensor before training, trained, and trained with MoMos."""

    section: ClassVar[str] = "report"
    picture_model: str
    picture_method: str  # a MoMos method of the grid, shown beside baseline
    picture_tensor: str  # a tensor's name in that model
    picture_size: int  # rows and columns shown, at most

    def check(self, where: str) -> None:
        _require(self.picture_size >= 1, f"{where}.picture_size", "1 or more", self.picture_size)


# --- compressibility and the local learning coefficient (singular MDL)


def _rising(values: tuple, where: str) -> None:
    _not_empty_and_distinct(values, where)
    _require(min(values) > 0 and list(values) == sorted(values), where, "positive and rising", list(values))


@dataclass(frozen=True, kw_only=True)
class Text(Settings):
    """What language models are trained and measured on."""

    section: ClassVar[str] = "text"
    source: Literal["package", "files", "pile"]
    name: str  # of an installed distribution, of a file or folder inside data/raw, or of a data set on the hub
    sha256: str | None  # of all of it; null: any
    num_documents: int | None  # the first so many; null: all
    tokenizer: str  # bytes, or a tokenizer's name on the hub
    context: int  # tokens per sequence
    held_out_fraction: float  # of the tokens; no training or measure sees them, history.csv does
    split_seed: int

    def check(self, where: str) -> None:
        _require(0 < self.held_out_fraction < 1, f"{where}.held_out_fraction", "in (0, 1)", self.held_out_fraction)
        _require(0 <= self.split_seed < 2**32, f"{where}.split_seed", "in 0..2^32-1", self.split_seed)
        _require(self.context >= 1, f"{where}.context", "1 or more tokens", self.context)
        limited = self.num_documents is None if self.source != "pile" else (self.num_documents or 0) >= 1
        _require(limited, f"{where}.num_documents", "1 or more for pile, null for all of another source", self.num_documents)
        inside = self.source != "files" or (Path(self.name).parts[:2] == ("data", "raw") and ".." not in Path(self.name).parts)
        _require(inside, f"{where}.name", "a relative path inside data/raw (copy or link the files there)", self.name)


@dataclass(frozen=True, kw_only=True)
class Language(Settings):
    """How a language model is trained here."""

    section: ClassVar[str] = "language"
    batch_size: int  # sequences
    warmup_steps: int
    final_lr: float  # of the largest, at the last step
    weight_decay: float
    num_held_out: int  # sequences behind val_loss

    def check(self, where: str) -> None:
        for key in ("batch_size", "num_held_out"):
            _require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more sequences", getattr(self, key))
        _require(self.warmup_steps >= 0, f"{where}.warmup_steps", "0 or more", self.warmup_steps)
        _require(0 <= self.final_lr <= 1, f"{where}.final_lr", "in [0, 1]", self.final_lr)
        _require(self.weight_decay >= 0, f"{where}.weight_decay", "0 or more", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class LanguageModel(Settings):
    """One entry of `language_models`: where its checkpoints come from."""

    section: ClassVar[str] = "language_models"
    optional: ClassVar[frozenset[str]] = frozenset({"name", "kwargs"})
    source: Literal["local", "pythia"]
    name: str | None  # pythia: on the hub
    kwargs: dict | None  # local: to GPTNeoXConfig
    lr: float  # of training, its largest; retraining after pruning takes a tenth
    steps: tuple[int, ...]  # checkpoints
    fold: bool  # layer norms into the linear layers after them
    center: bool  # weights that write to the residual stream, and the unembedding

    def check(self, where: str) -> None:
        given, missing = ("name", "kwargs") if self.source == "pythia" else ("kwargs", "name")
        _require(getattr(self, given) is not None, f"{where}.{given}", f"given for {self.source}", None)
        _require(getattr(self, missing) is None, f"{where}.{missing}", f"left out for {self.source}", getattr(self, missing))
        _require(self.lr > 0, f"{where}.lr", "positive", self.lr)
        _rising(self.steps, f"{where}.steps")


@dataclass(frozen=True, kw_only=True)
class Slt(Settings):
    """The singular-MDL study: which language models, and what is judged."""

    section: ClassVar[str] = "slt"
    models: tuple[str, ...]  # may be empty: no language models
    seeds: tuple[int, ...]  # of training (local) and of the measures' draws
    tuned_on: tuple[int, ...]  # seeds that settings were chosen on: never among `seeds`
    schemes: tuple[Literal["quantization", "quantization_max", "factorization", "noise_absolute", "noise_relative", "pruning"], ...]
    eps: tuple[float, ...]  # tolerances of the loss rise, in nats
    main_eps: float  # the one that is judged
    fit_steps: tuple[int, ...]  # first and last step of the linear fits

    def check(self, where: str) -> None:
        for key in ("seeds", "schemes"):
            _not_empty_and_distinct(getattr(self, key), f"{where}.{key}")
        _require(not set(self.tuned_on) & set(self.seeds), f"{where}.tuned_on", "none of slt.seeds", list(self.tuned_on))
        _rising(self.eps, f"{where}.eps")
        _require(self.main_eps in self.eps, f"{where}.main_eps", f"one of slt.eps {list(self.eps)}", self.main_eps)
        _require(len(self.fit_steps) == 2, f"{where}.fit_steps", "two steps, the first and the last", list(self.fit_steps))
        _rising(self.fit_steps, f"{where}.fit_steps")


@dataclass(frozen=True, kw_only=True)
class Compressibility(Settings):
    """The grids on which critical points are looked for."""

    section: ClassVar[str] = "compressibility"
    num_sequences: int  # of the evaluation set
    batch_size: int  # sequences evaluated together
    max_n_q: int  # the weakest quantisation
    per_octave: int  # coarse values of n_q for each halving of the number of intervals
    fractions_per_octave: int  # of max|w|: candidates for theta by loss minimisation, down to min_fraction
    min_fraction: float
    rank_steps: int  # fractions of the singular values kept
    sigmas: tuple[float, ...]  # of noise: weakest, strongest
    sigmas_per_decade: int
    num_noise_draws: int
    retraining_steps: int  # after pruning
    retraining_batch_size: int
    num_coarse_heads: int
    pruning_steps: int  # so many of the checkpoints, evenly spaced and the last one among them, are pruned

    def check(self, where: str) -> None:
        for key in vars(self).keys() - {"min_fraction", "sigmas", "max_n_q"}:
            _require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))
        _require(self.max_n_q >= 3 and self.max_n_q % 2 == 1, f"{where}.max_n_q", "an odd number of 3 or more", self.max_n_q)
        _require(0 < self.min_fraction <= 1, f"{where}.min_fraction", "in (0, 1]", self.min_fraction)
        _require(len(self.sigmas) == 2, f"{where}.sigmas", "two, the weakest and the strongest", list(self.sigmas))
        _rising(self.sigmas, f"{where}.sigmas")


@dataclass(frozen=True, kw_only=True)
class Sampling(Settings):
    """What both sections of LLC settings have."""

    nbeta: float
    localization: float  # gamma
    num_chains: int
    num_burnin_steps: int
    sampler: Literal["psgld", "sgld"]
    baseline: Literal["paired", "first_batches"]  # first_batches: the paper's
    num_init_batches: int  # of first_batches
    max_loss_rise: float  # nats above the start at which a draw counts as diverged
    batch_size: int
    num_batches: int  # cycled
    num_probes: int  # of tr(H)
    num_probe_batches: int

    def check(self, where: str) -> None:
        for key in ("nbeta", "max_loss_rise"):
            _require(getattr(self, key) > 0, f"{where}.{key}", "positive", getattr(self, key))
        _require(self.localization >= 0, f"{where}.localization", "0 or more", self.localization)
        _require(self.num_burnin_steps >= 0, f"{where}.num_burnin_steps", "0 or more", self.num_burnin_steps)
        for key in ("num_chains", "num_init_batches", "batch_size", "num_batches", "num_probes", "num_probe_batches"):
            _require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))


@dataclass(frozen=True, kw_only=True)
class Llc(Sampling):
    """The local learning coefficient of language models."""

    section: ClassVar[str] = "llc"
    lr: dict  # of the sampler, by model
    num_draws: dict  # per chain, by model

    def check(self, where: str) -> None:
        super().check(where)
        _require(self.lr.keys() == self.num_draws.keys(), f"{where}.num_draws", f"given for the models of {where}.lr", self.num_draws)
        for name, value in self.lr.items():
            _require(_fits(value, float) and value > 0, f"{where}.lr.{name}", "a positive number", value)
        for name, value in self.num_draws.items():
            _require(_fits(value, int) and value >= 1, f"{where}.num_draws.{name}", "an integer of 1 or more", value)


@dataclass(frozen=True, kw_only=True)
class Complexity(Sampling):
    """The same measures on image classifiers, at their last weights as deployed: those runs of the main grid that are listed here."""

    section: ClassVar[str] = "complexity"
    methods: tuple[str, ...]  # may be empty: none
    seeds: tuple[int, ...]
    num_images: int  # of the training set, on which critical n_q is looked for
    lr: float  # of the sampler
    num_draws: int

    def check(self, where: str) -> None:
        super().check(where)
        _require(self.lr > 0, f"{where}.lr", "positive", self.lr)
        for key in ("num_images", "num_draws"):
            _require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))


@dataclass(frozen=True, kw_only=True)
class Sweep(Settings):
    """Where `make sweep` runs stages. No result depends on it, so no stage does either."""

    section: ClassVar[str] = "sweep"
    remote: str | None  # a DVC remote that each result is pushed to
    partition: str | None  # SLURM's; null: the default one
    minutes: int  # of one stage's job, between two checkpoints at the least
    cpus: int  # from here on of each job
    gpus: int
    memory_gb: float
    attempts: int

    def check(self, where: str) -> None:
        for key in ("minutes", "cpus", "attempts"):
            _require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))
        _require(self.gpus >= 0, f"{where}.gpus", "0 or more", self.gpus)
        _require(self.memory_gb > 0, f"{where}.memory_gb", "positive", self.memory_gb)
        for key in ("remote", "partition"):
            _require(getattr(self, key) != "", f"{where}.{key}", "a name or null", getattr(self, key))


@dataclass(frozen=True, kw_only=True)
class Tracking(Settings):
    """MLflow. No result depends on it, so no stage does either."""

    section: ClassVar[str] = "tracking"
    enabled: bool
    experiment: str


SECTIONS: tuple[type[Settings], ...] = (
    Data, Augment, Train, Mosaic, Quantize, Grid, Ablation, Evaluate, Pack, Survey, Report,
    Text, Language, Slt, Compressibility, Llc, Complexity, Sweep, Tracking,
)  # fmt: skip
ENTRIES: tuple[type[Settings], ...] = (Model, Method, LanguageModel)  # sections of entries by name


class Run(NamedTuple):
    """One training that params.yaml asks for."""

    model: str
    method: str
    seed: int
    grid: str  # main (Table 1) | ablation (Figure 4)
    settings: Method

    def folder(self, root: Path) -> Path:
        """Where dvc.yaml has it, below `root`."""
        return root / self.model / self.method / str(self.seed)


def cell_name(block_size: int, capacity: float) -> str:
    """The method name of an ablation run, as dvc.yaml writes it."""
    return f"s{block_size}_c{capacity}"


def cell(block_size: int, capacity: float) -> Method:
    return Method.from_mapping({"bits": 32, "block_size": block_size, "capacity": capacity}, f"ablation.{cell_name(block_size, capacity)}")


def runs(model: str | None = None, *, path: Path | None = None) -> list[Run]:
    """All trainings that params.yaml asks for, of one model or of all: the grid's, then the ablation's."""
    grid, ablation = load(Grid, path=path), load(Ablation, path=path)
    methods = {name: load(Method, name, path=path) for name in grid.methods}
    found = [Run(*key, "main", methods[key[1]]) for key in itertools.product(grid.models, grid.methods, grid.seeds)]
    cells = itertools.product(ablation.models, ablation.block_sizes, ablation.capacities, ablation.seeds)
    found += [Run(name, cell_name(size, capacity), seed, "ablation", cell(size, capacity)) for name, size, capacity, seed in cells]
    return [run for run in found if model in (None, run.model)]


S = TypeVar("S", bound=Settings)


def read(path: Path | None = None) -> dict:
    """All of params.yaml as plain values. Raises ValueError for a file that is missing or is no YAML mapping."""
    path = path or PARAMS
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: run from the repository's root, after `make use PROFILE=digits`") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of sections, got {type(values).__name__}")
    return values


def load(kind: type[S], name: str | None = None, *, path: Path | None = None) -> S:
    """One section of params.yaml; of `models` and `methods`, the entry `name`.

    The whole file is checked each time: a mistake in any section is met by the first stage, before work is lost.
    """
    values = check(path)
    if name is None:
        return kind.from_mapping(values[kind.section], kind.section)
    entries = values[kind.section]
    if name not in entries:
        raise ValueError(f"{kind.section}: unknown entry {name!r}{_suggestion(name, entries)}; expected one of {', '.join(entries)}")
    return kind.from_mapping(entries[name], f"{kind.section}.{name}")


def check(path: Path | None = None) -> dict:
    """All of params.yaml, every section valid and every name in the grids known. Raises ValueError otherwise."""
    path = path or PARAMS
    values = read(path)
    known = {"profile", *(kind.section for kind in SECTIONS + ENTRIES)}
    for section in values:
        if section not in known:
            raise ValueError(f"{path}: unknown section {section}{_suggestion(section, known)}; expected {', '.join(sorted(known))}")
    for section in sorted(known):
        if section not in values:
            raise ValueError(f"{path}: section {section} is missing")
    loaded = {kind.section: kind.from_mapping(values[kind.section], kind.section) for kind in SECTIONS}
    for kind in ENTRIES:
        _require(isinstance(values[kind.section], dict), kind.section, "a mapping of entries by name", values[kind.section])
        for name, entry in values[kind.section].items():
            kind.from_mapping(entry, f"{kind.section}.{name}")
    _check_names(values, loaded)
    threads, cpus = loaded["train"].num_threads, loaded["sweep"].cpus
    _require(cpus >= threads, "sweep.cpus", f"train.num_threads ({threads}) or more", cpus)
    return values


def _check_names(values: dict, loaded: dict[str, Any]) -> None:
    grid, ablation, report, complexity = (loaded[name] for name in ("grid", "ablation", "report", "complexity"))
    for where, names, expected, known in (
        ("grid.models", grid.models, "an entry of models", values["models"]),
        ("grid.methods", grid.methods, "an entry of methods", values["methods"]),
        ("ablation.models", ablation.models, "in grid.models", grid.models),
        ("report.picture_model", [report.picture_model], "in grid.models", grid.models),
        ("report.picture_method", [report.picture_method], "in grid.methods", grid.methods),
        ("slt.models", loaded["slt"].models, "an entry of language_models", values["language_models"]),
        ("slt.models", loaded["slt"].models, "in llc.lr", loaded["llc"].lr),
        ("complexity.methods", complexity.methods, "an entry of methods", values["methods"]),
    ):
        for name in names:
            message = f"{where} must be {expected} ({', '.join(known)}), got {name!r}{_suggestion(name, known)}"
            if name not in known:
                raise ValueError(message)


def profile(path: Path | None = None) -> str:
    """The name under which this profile's data, runs and reports are kept."""
    value = check(path)["profile"]
    _require(isinstance(value, str) and value.replace("_", "").replace("-", "").isalnum(), "profile", "a plain name", value)
    return value
