"""Sections of the first paper (MoMos): data, training, methods, measures, report."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from momos.config.names import PROFILE, PROFILE_RULE
from momos.settings import Settings, not_empty_and_distinct, require, typed

FEWEST_INITIALIZATIONS = 20  # with fewer, chance alone gives large z (method A11)


@dataclass(frozen=True, kw_only=True)
class Data(Settings):
    """Which images, and how they are split."""

    section: ClassVar[str] = "data"
    optional: ClassVar[frozenset[str]] = frozenset({"fit", "fit_size"})
    source: Literal["digits", "modular_addition", "cifar10", "mnist", "fashion_mnist", "images"]
    path: str | None  # an archive or folder inside data/raw; null for the first two
    download: bool  # may torchvision's loaders use the network
    # images of several sizes become squares: crop (the middle) | resize; null: they have one size
    fit: Literal["crop", "resize"] | None
    fit_size: int | None  # pixels of a side
    test_fraction: float | None  # of the first two: the other sources bring their own test set
    validation_fraction: float  # of what is not test
    split_seed: int
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]

    def check(self, where: str) -> None:
        require(
            0 < self.validation_fraction < 1,
            f"{where}.validation_fraction",
            "in (0, 1)",
            self.validation_fraction,
        )
        require(
            0 <= self.split_seed < 2**32, f"{where}.split_seed", "in 0..2^32-1", self.split_seed
        )
        require(
            len(self.mean) == len(self.std) > 0,
            f"{where}.std",
            f"as long as mean ({len(self.mean)})",
            list(self.std),
        )
        require(all(std > 0 for std in self.std), f"{where}.std", "positive", list(self.std))
        self.check_fit(where)
        if self.source in ("digits", "modular_addition"):
            fraction = self.test_fraction
            require(
                fraction is not None and 0 < fraction < 1,
                f"{where}.test_fraction",
                f"in (0, 1) for {self.source}",
                fraction,
            )
            return
        require(
            self.test_fraction is None,
            f"{where}.test_fraction",
            "null: this source has its own test set",
            self.test_fraction,
        )
        inside = (
            self.path is not None
            and Path(self.path).parts[:2] == ("data", "raw")
            and ".." not in Path(self.path).parts
        )
        require(
            inside,
            f"{where}.path",
            "a relative path inside data/raw (copy or link the files there)",
            self.path,
        )

    def check_fit(self, where: str) -> None:
        """Raises ValueError for a way without a size, a size without one, and for other sources."""
        own = self.fit is None or self.source == "images"
        expected = f"null for {self.source}, whose images have one size"
        require(own, f"{where}.fit", expected, self.fit)
        size = self.fit_size
        if self.fit is None:
            require(size is None, f"{where}.fit_size", f"null where {where}.fit is null", size)
        else:
            sized = size is not None and size >= 1
            require(sized, f"{where}.fit_size", "1 or more pixels", size)


@dataclass(frozen=True, kw_only=True)
class Augment(Settings):
    """Augmentation of training images (MoMos, Sec. 4)."""

    section: ClassVar[str] = "augment"
    flip: bool  # horizontal, with probability 1/2
    crop_padding: (
        int  # pixels of zero padding before a random crop to the original size; 0: no crop
    )
    rand_augment_ops: int  # operations per image; 0: none
    rand_augment_magnitude: int  # 0 to 30

    def check(self, where: str) -> None:
        require(
            self.crop_padding >= 0, f"{where}.crop_padding", "0 or more pixels", self.crop_padding
        )
        require(
            self.rand_augment_ops >= 0,
            f"{where}.rand_augment_ops",
            "0 or more",
            self.rand_augment_ops,
        )
        require(
            0 <= self.rand_augment_magnitude <= 30,
            f"{where}.rand_augment_magnitude",
            "in 0..30",
            self.rand_augment_magnitude,
        )


@dataclass(frozen=True, kw_only=True)
class Train(Settings):
    """The training loop (MoMos, Sec. 4)."""

    section: ClassVar[str] = "train"
    epochs: int  # at most; also the cosine schedule's T_max
    batch_size: int
    patience: int | None  # stop after this many epochs without a lower validation loss; null: never
    mark_patience: int | None = None  # keep, too, the weights with which this would have ended
    keep: tuple[int, ...] = ()  # optimiser steps after which the weights are kept, too; rising
    device: str  # auto | cpu | cuda | cuda:N | mps
    num_threads: (
        int  # of the CPU: results depend on it, so it is set here and never taken from the machine
    )
    precision: Literal[
        "float32", "tf32", "bf16"
    ]  # of the training step's products; weights, losses and evaluation stay float32
    compile: bool  # by torch.compile, which needs a C++ compiler
    cuda_graphs: bool  # record the training step once, replay it for every batch
    stacked_seeds: int  # of the grid's seeds, so many are trained together, see `together`
    # at most so far apart, if epochs are no longer, is what an interrupted training goes on from
    checkpoint_seconds: float

    def of_model(self, model: "Model") -> Self:
        """The settings with which this model is trained: its own number of epochs, if it has."""
        return self if model.epochs is None else replace(self, epochs=model.epochs)

    def together(self, seed: int) -> tuple[int, ...]:
        """The seeds of one stack, this one among them: 0 to n - 1, n to 2 n - 1 and so on,
        whichever the grid has.
        """
        first = seed // self.stacked_seeds * self.stacked_seeds
        return tuple(range(first, first + self.stacked_seeds))

    def check(self, where: str) -> None:
        require(self.epochs >= 1, f"{where}.epochs", "1 or more", self.epochs)
        require(self.batch_size >= 1, f"{where}.batch_size", "1 or more", self.batch_size)
        require(
            self.patience is None or self.patience >= 1,
            f"{where}.patience",
            "null, or 1 or more epochs",
            self.patience,
        )
        mark, most = self.mark_patience, self.patience
        inside = mark is None or 1 <= mark < (mark + 1 if most is None else most)
        expected = "null, or 1 or more epochs, fewer than patience"
        require(inside, f"{where}.mark_patience", expected, mark)
        kept = list(self.keep)
        rising = min(kept, default=1) >= 1 and kept == sorted(set(kept))
        require(rising, f"{where}.keep", "steps of 1 or more, rising; or empty", kept)
        require(self.num_threads >= 1, f"{where}.num_threads", "1 or more", self.num_threads)
        kind, _, index = self.device.partition(":")
        known = kind in ("auto", "cpu", "cuda", "mps") and (
            not index or (kind == "cuda" and index.isdigit())
        )
        require(known, f"{where}.device", "auto, cpu, cuda, cuda:N or mps", self.device)
        graphs = not self.cuda_graphs or kind == "cuda"
        require(
            graphs,
            f"{where}.cuda_graphs",
            f"false where train.device is {self.device}",
            self.cuda_graphs,
        )
        require(self.stacked_seeds >= 1, f"{where}.stacked_seeds", "1 or more", self.stacked_seeds)
        require(
            self.checkpoint_seconds >= 0,
            f"{where}.checkpoint_seconds",
            "0 or more",
            self.checkpoint_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class Mosaic(Settings):
    """How MoMos projects (Algorithm 1), where a method's entry has nothing else; which blocks and
    how many motifs is each method's own setting.
    """

    section: ClassVar[str] = "mosaic"
    projection_every: str | int  # epoch (the authors' code) | step (the paper) | a number of steps
    force_zero: bool  # the zero block is always a motif
    slicing: Literal[
        "tensor", "model"
    ]  # cut each tensor by itself (the authors' code), or the flattened model (the paper)
    codebook: Literal["model", "tensor"]  # motifs for all, or each tensor its own (older code)

    def check(self, where: str) -> None:
        every = self.projection_every
        valid = every in ("epoch", "step") if isinstance(every, str) else every >= 1
        expected = "epoch, step, or a number of steps of 1 or more"
        require(valid, f"{where}.projection_every", expected, every)


@dataclass(frozen=True, kw_only=True)
class Quantize(Settings):
    """What quantises which weights (method A4, A12), where a method's entry has nothing else."""

    section: ClassVar[str] = "quantize"
    rounding: Literal["straight_through", "in_place_epoch", "in_place_step", "after_training"]
    tensors: Literal["weights", "all"]
    exclude: Literal[
        "type", "names", "none"
    ]  # normalisation modules | the authors' name tokens | nothing


@dataclass(frozen=True, kw_only=True)
class Model(Settings):
    """One entry of `models`: an architecture and its optimiser."""

    section: ClassVar[str] = "models"
    optional: ClassVar[frozenset[str]] = frozenset({"epochs", "random_labels"})
    arch: str  # mlp, resnet20, tiny_vit, mobilevit, or any timm name
    image_size: int  # pixels; images of another size are resized
    kwargs: dict  # to the architecture
    optimizer: Literal["sgd", "adamw"]
    lr: float
    momentum: float  # sgd alone
    weight_decay: float
    epochs: int | None  # at most; null, or left out: train.epochs
    random_labels: bool | None = None  # train on labels that are shuffled; left out: no

    def check(self, where: str) -> None:
        require(
            self.epochs is None or self.epochs >= 1,
            f"{where}.epochs",
            "null (train.epochs), or 1 or more",
            self.epochs,
        )
        require(self.image_size >= 1, f"{where}.image_size", "1 or more pixels", self.image_size)
        require(self.lr > 0, f"{where}.lr", "positive", self.lr)
        require(0 <= self.momentum < 1, f"{where}.momentum", "in [0, 1)", self.momentum)
        require(self.weight_decay >= 0, f"{where}.weight_decay", "0 or more", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Grid(Settings):
    """The runs of Table 1: every model x method x seed."""

    section: ClassVar[str] = "grid"
    models: tuple[str, ...]  # may be empty: every run is imported (report.imported)
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    more_seeds_of: tuple[str, ...]  # models that are cheap enough for more_seeds; may be empty
    more_seeds: tuple[int, ...]

    def seeds_of(self, model: str) -> tuple[int, ...]:
        """The seeds with which this model is trained."""
        return self.seeds + (self.more_seeds if model in self.more_seeds_of else ())

    def check(self, where: str) -> None:
        require(
            len(set(self.models)) == len(self.models),
            f"{where}.models",
            "a list without repeats",
            list(self.models),
        )
        for key in ("methods", "seeds"):
            not_empty_and_distinct(getattr(self, key), f"{where}.{key}")
        for key in ("seeds", "more_seeds"):
            seeds = list(getattr(self, key))
            require(min(seeds, default=0) >= 0, f"{where}.{key}", "integers of 0 or more", seeds)
        distinct = len({*self.seeds, *self.more_seeds}) == len(self.seeds + self.more_seeds)
        expected = f"none of {where}.seeds, each once (or {where}.more_seeds_of empty)"
        accepted = distinct or not self.more_seeds_of
        require(accepted, f"{where}.more_seeds", expected, list(self.more_seeds))


@dataclass(frozen=True, kw_only=True)
class Ablation(Settings):
    """The runs of Figures 4 and B.2: every model x block size x capacity, MoMos at 32 bits."""

    section: ClassVar[str] = "ablation"
    models: tuple[str, ...]  # may be empty: no ablation
    block_sizes: tuple[int, ...]
    capacities: tuple[int | float, ...]  # as written: they name folders
    seeds: tuple[int, ...]

    def check(self, where: str) -> None:
        for key in ("block_sizes", "capacities", "seeds"):
            not_empty_and_distinct(getattr(self, key), f"{where}.{key}")
        require(
            min(self.block_sizes) >= 1,
            f"{where}.block_sizes",
            "integers of 1 or more",
            list(self.block_sizes),
        )
        inside = all(0 < capacity <= 1 for capacity in self.capacities)
        require(inside, f"{where}.capacities", "numbers in (0, 1]", list(self.capacities))


@dataclass(frozen=True, kw_only=True)
class Evaluate(Settings):
    """What is measured on trained weights."""

    section: ClassVar[str] = "evaluate"
    checkpoint: Literal[
        "last", "best"
    ]  # the weights whose complexity is measured (the authors' code: last)
    compressors: tuple[str, ...]
    shuffle_seed: int  # of the shuffled-bits control
    num_initializations: int  # whose mean BDM trained weights are compared with

    def check(self, where: str) -> None:
        not_empty_and_distinct(self.compressors, f"{where}.compressors")
        require_compressors(self.compressors, f"{where}.compressors")
        require(self.shuffle_seed >= 0, f"{where}.shuffle_seed", "0 or more", self.shuffle_seed)
        number = self.num_initializations
        fewest = f"{FEWEST_INITIALIZATIONS} or more"
        require(number >= FEWEST_INITIALIZATIONS, f"{where}.num_initializations", fewest, number)


@dataclass(frozen=True, kw_only=True)
class Pack(Settings):
    """Runs as files: ordinary ones, and .momos files of each level."""

    section: ClassVar[str] = "pack"
    block_size: int  # where the method has none
    seeds: tuple[
        int, ...
    ]  # of these, MoMos runs in full precision at lossy levels too; may be empty
    compressors: tuple[str, ...]  # of the safetensors file
    motif_bits: tuple[int, ...]  # motifs rounded to so many
    min_usage: int  # motifs that fewer blocks use are pruned
    refit_epochs: int  # in which the motifs alone are trained
    refit_lr: float
    combined_bits: int  # of motifs that are refitted and pruned before

    def check(self, where: str) -> None:
        for key in ("compressors", "motif_bits"):
            not_empty_and_distinct(getattr(self, key), f"{where}.{key}")
        require_compressors(self.compressors, f"{where}.compressors")
        for bits in (*self.motif_bits, self.combined_bits):
            require(
                2 <= bits <= 16,
                f"{where}.{'motif_bits' if bits in self.motif_bits else 'combined_bits'}",
                "in 2..16",
                bits,
            )
        for key in ("block_size", "min_usage", "refit_epochs"):
            require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))
        require(self.refit_lr > 0, f"{where}.refit_lr", "positive", self.refit_lr)


@dataclass(frozen=True, kw_only=True)
class Survey(Settings):
    """Figure 2's models from elsewhere: trained ones, and as a control some that nobody trained."""

    section: ClassVar[str] = "survey"
    untrained: tuple[str, ...]  # timm architectures, of the control
    source: Literal["none", "timm", "manifest", "folder"]  # of trained models
    path: str | None  # of the manifest or folder: inside data/zoo, or beside the project (..)
    num_models: int | None  # drawn from the source; null: all of them
    min_models: int  # the survey fails with fewer measured ones
    max_parameters: int  # of a model; larger ones are not drawn
    tasks: dict  # task -> names of the networks, where a manifest does not say it
    seed: int  # of the draw and of the shuffled-bits control
    init_seeds: tuple[int, ...]  # initialisations, whose mean BDM trained weights are compared with
    compressors: tuple[str, ...]
    keep_weights: bool  # downloads stay in the hub's cache
    num_workers: int  # models measured side by side, each in a process; 0: in the stage's own

    def check(self, where: str) -> None:
        elsewhere = self.source in ("manifest", "folder")
        parts = Path(self.path or "").parts
        beside = parts[:1] == ("..",) and len(set(parts) - {".."}) > 0  # DVC does not watch it
        inside = (parts[:2] == ("data", "zoo") and ".." not in parts) or beside
        expected = (
            "a relative path inside data/zoo, or one beside the project that begins with .., "
            "for a manifest or folder, null otherwise"
        )
        right = inside if elsewhere else self.path is None
        require(right, f"{where}.path", expected, self.path)
        require(
            self.num_models is None or self.num_models >= 0,
            f"{where}.num_models",
            "null (all), or 0 or more",
            self.num_models,
        )
        most = 0 if self.source == "none" else self.num_models
        possible = 0 <= self.min_models and (most is None or self.min_models <= most)
        expected = f"in 0..{'any' if most is None else most} (the number drawn)"
        require(possible, f"{where}.min_models", expected, self.min_models)
        require(
            self.max_parameters >= 1, f"{where}.max_parameters", "1 or more", self.max_parameters
        )
        _check_tasks(self.tasks, f"{where}.tasks")
        require(self.seed >= 0, f"{where}.seed", "0 or more", self.seed)
        for key in ("init_seeds", "compressors"):
            not_empty_and_distinct(getattr(self, key), f"{where}.{key}")
        require_compressors(self.compressors, f"{where}.compressors")
        require(
            min(self.init_seeds) >= 0,
            f"{where}.init_seeds",
            "integers of 0 or more",
            list(self.init_seeds),
        )
        require(
            len(set(self.untrained)) == len(self.untrained),
            f"{where}.untrained",
            "a list without repeats",
            list(self.untrained),
        )
        require(self.num_workers >= 0, f"{where}.num_workers", "0 or more", self.num_workers)


def _check_tasks(tasks: dict, where: str) -> None:
    """Raises ValueError unless each task has a list of names, and each name one task."""
    names: list[str] = []
    for task, listed in tasks.items():
        typed(task, str, f"{where} (a task)")
        names += typed(listed, tuple[str, ...], f"{where}.{task}")
    require(len(set(names)) == len(names), where, "lists without repeats", names)


@dataclass(frozen=True, kw_only=True)
class Report(Settings):
    """What Figure 1 shows: one tensor before training, trained, and trained with MoMos. And runs
    that come from elsewhere.
    """

    section: ClassVar[str] = "report"
    optional: ClassVar[frozenset[str]] = frozenset({"imported"})
    picture_model: (
        str  # of the grid, as picture_method is; where that has no models, there is no Figure 1
    )
    picture_method: str  # a MoMos method of the grid, shown beside baseline
    picture_tensor: str  # a tensor's name in that model
    picture_size: int  # rows and columns shown, at most
    imported: (
        tuple[str, ...] | None
    )  # folders of data/imported whose runs stand beside the grids' own

    def check(self, where: str) -> None:
        require(self.picture_size >= 1, f"{where}.picture_size", "1 or more", self.picture_size)
        for name in self.imported or ():
            expected = f"folders of data/imported, each {PROFILE_RULE}"
            require(PROFILE.fullmatch(name), f"{where}.imported", expected, name)


def require_compressors(names: tuple[str, ...], where: str) -> None:
    """Raises ValueError unless each name is a file of the folder `complexity/compressors`."""
    known = compressor_names()
    for i, name in enumerate(names):
        expected = f"one of {', '.join(map(repr, known))}"
        require(name in known, f"{where}[{i}]", expected, name)


def compressor_names() -> list[str]:
    """Names of the files in the folder `complexity/compressors`, sorted; none is imported."""
    files = (Path(__file__).parents[1] / "complexity" / "compressors").glob("[!_]*.py")
    return sorted(path.stem for path in files)
