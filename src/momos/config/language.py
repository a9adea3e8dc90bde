"""Sections of the second paper (singular MDL): language models, compressibility and the LLC."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from momos.config.images import require_compressors
from momos.settings import Settings, fits, not_empty_and_distinct, require

# The compression schemes, and the name of each one's critical value
CRITICAL = {
    "quantization": "critical_n_q",
    "quantization_max": "critical_n_q_max",
    "factorization": "critical_fraction",
    "noise_absolute": "critical_sigma",
    "noise_relative": "critical_relative_sigma",
    "pruning": "critical_heads",
}


def rising(values: tuple, where: str) -> None:
    """Raises ValueError unless the numbers are positive and rise, at least one of them."""
    not_empty_and_distinct(values, where)
    valid = min(values) > 0 and list(values) == sorted(values)
    require(valid, where, "positive and rising", list(values))


@dataclass(frozen=True, kw_only=True)
class Text(Settings):
    """The text that language models are trained and measured on."""

    section: ClassVar[str] = "text"
    source: Literal["package", "files", "pile"]
    # of an installed distribution, of a file or folder inside data/raw, or of a data set on the hub
    name: str
    sha256: str | None  # of all of it; null: any
    num_documents: int | None  # the first ones; null: all
    tokenizer: str  # bytes, or a tokenizer's name on the hub
    context: int  # tokens per sequence
    held_out_fraction: float  # of the tokens; no training or measure sees them, history.csv does
    split_seed: int

    def check(self, where: str) -> None:
        require(
            0 < self.held_out_fraction < 1,
            f"{where}.held_out_fraction",
            "in (0, 1)",
            self.held_out_fraction,
        )
        require(
            0 <= self.split_seed < 2**32, f"{where}.split_seed", "in 0..2^32-1", self.split_seed
        )
        require(self.context >= 1, f"{where}.context", "1 or more tokens", self.context)
        limited = (
            self.num_documents is None if self.source != "pile" else (self.num_documents or 0) >= 1
        )
        require(
            limited,
            f"{where}.num_documents",
            "1 or more for pile, null for all of another source",
            self.num_documents,
        )
        inside = self.source != "files" or (
            Path(self.name).parts[:2] == ("data", "raw") and ".." not in Path(self.name).parts
        )
        require(
            inside,
            f"{where}.name",
            "a relative path inside data/raw (copy or link the files there)",
            self.name,
        )


@dataclass(frozen=True, kw_only=True)
class Language(Settings):
    """The training of a language model here: AdamW, cosine schedule."""

    section: ClassVar[str] = "language"
    batch_size: int  # sequences
    warmup_steps: int
    final_lr: float  # of the largest, at the last step
    weight_decay: float
    num_held_out: int  # sequences behind val_loss

    def check(self, where: str) -> None:
        for key in ("batch_size", "num_held_out"):
            number = getattr(self, key)
            require(number >= 1, f"{where}.{key}", "1 or more sequences", number)
        require(self.warmup_steps >= 0, f"{where}.warmup_steps", "0 or more", self.warmup_steps)
        require(0 <= self.final_lr <= 1, f"{where}.final_lr", "in [0, 1]", self.final_lr)
        require(self.weight_decay >= 0, f"{where}.weight_decay", "0 or more", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class LanguageModel(Settings):
    """One entry of `language_models`, and where its checkpoints come from."""

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
        require(
            getattr(self, given) is not None, f"{where}.{given}", f"given for {self.source}", None
        )
        require(
            getattr(self, missing) is None,
            f"{where}.{missing}",
            f"left out for {self.source}",
            getattr(self, missing),
        )
        require(self.lr > 0, f"{where}.lr", "positive", self.lr)
        rising(self.steps, f"{where}.steps")


@dataclass(frozen=True, kw_only=True)
class Slt(Settings):
    """The singular-MDL study: its language models, and what is judged."""

    section: ClassVar[str] = "slt"
    models: tuple[str, ...]  # may be empty: no language models
    seeds: tuple[int, ...]  # of training (local) and of the measures' draws
    tuned_on: tuple[int, ...]  # seeds that settings were chosen on: never among `seeds`
    schemes: tuple[
        Literal[
            "quantization",
            "quantization_max",
            "factorization",
            "noise_absolute",
            "noise_relative",
            "pruning",
        ],
        ...,
    ]
    eps: tuple[float, ...]  # tolerances of the loss rise, in nats
    main_eps: float  # the one that is judged
    fit_steps: tuple[int, ...]  # first and last step of the linear fits

    def check(self, where: str) -> None:
        for key in ("seeds", "schemes"):
            not_empty_and_distinct(getattr(self, key), f"{where}.{key}")
        require(
            not set(self.tuned_on) & set(self.seeds),
            f"{where}.tuned_on",
            "none of slt.seeds",
            list(self.tuned_on),
        )
        rising(self.eps, f"{where}.eps")
        require(
            self.main_eps in self.eps,
            f"{where}.main_eps",
            f"one of slt.eps {list(self.eps)}",
            self.main_eps,
        )
        require(
            len(self.fit_steps) == 2,
            f"{where}.fit_steps",
            "two steps, the first and the last",
            list(self.fit_steps),
        )
        rising(self.fit_steps, f"{where}.fit_steps")


@dataclass(frozen=True, kw_only=True)
class Compressibility(Settings):
    """The grids on which critical points are searched."""

    section: ClassVar[str] = "compressibility"
    optional: ClassVar[frozenset[str]] = frozenset({"follow_theta", "num_beyond"})
    num_sequences: int  # of the evaluation set
    batch_size: int  # sequences evaluated together
    max_n_q: int  # the weakest quantisation
    per_octave: int  # coarse values of n_q for each halving of the number of intervals
    # Of max|w|: candidates for theta by loss minimisation, down to min_fraction.
    fractions_per_octave: int
    min_fraction: float
    # Look for theta from that of the next weaker coarse n_q; null, false: among all fractions.
    follow_theta: bool | None
    # Coarse points beyond the first one outside an eps, but for quantization; null: all of them.
    num_beyond: int | None
    rank_steps: int  # fractions of the singular values kept
    sigmas: tuple[float, ...]  # of noise: weakest, strongest
    sigmas_per_decade: int
    num_noise_draws: int
    retraining_steps: int  # after pruning
    retraining_batch_size: int
    num_coarse_heads: int
    pruning_steps: int  # checkpoints that are pruned: evenly spaced, the last one among them

    def check(self, where: str) -> None:
        others = {"min_fraction", "sigmas", "max_n_q", "follow_theta", "num_beyond"}
        for key in vars(self).keys() - others:
            require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))
        require(
            self.num_beyond is None or self.num_beyond >= 0,
            f"{where}.num_beyond",
            "0 or more, or null for the whole grid",
            self.num_beyond,
        )
        require(
            self.max_n_q >= 3 and self.max_n_q % 2 == 1,
            f"{where}.max_n_q",
            "an odd number of 3 or more",
            self.max_n_q,
        )
        require(0 < self.min_fraction <= 1, f"{where}.min_fraction", "in (0, 1]", self.min_fraction)
        require(
            len(self.sigmas) == 2,
            f"{where}.sigmas",
            "two, the weakest and the strongest",
            list(self.sigmas),
        )
        rising(self.sigmas, f"{where}.sigmas")


@dataclass(frozen=True, kw_only=True)
class Rivals(Settings):
    """What the weights of a language model's checkpoints alone say, beside the LLC."""

    section: ClassVar[str] = "rivals"
    num_initializations: int  # whose BDM and bit planes trained weights are compared with
    compressors: tuple[str, ...]  # of the float32 weights
    bit_depth: int  # of bit planes, and of entropy-coded weights

    def check(self, where: str) -> None:
        number, depth = self.num_initializations, self.bit_depth
        require(number >= 2, f"{where}.num_initializations", "2 or more, to have a spread", number)
        require(1 <= depth <= 16, f"{where}.bit_depth", "in 1..16", depth)
        require_compressors(self.compressors, f"{where}.compressors")


@dataclass(frozen=True, kw_only=True)
class Sampling(Settings):
    """The settings that both sections on the LLC have: `llc` and `complexity`."""

    nbeta: float
    localization: float  # gamma
    num_chains: int
    num_burnin_steps: int
    sampler: Literal["psgld", "sgld"]
    baseline: Literal["paired", "first_batches"]  # first_batches: the paper's
    num_init_batches: int  # of first_batches
    max_loss_rise: float  # nats above the start at which a draw counts as diverged
    batch_size: int
    num_batches: int  # used in a cycle
    second_batch: bool  # whether draws are measured on one: the variance-based estimate needs it
    max_rhat: float  # above it, chains are flagged
    num_probes: int  # of tr(H)
    num_probe_batches: int
    num_lanczos_probes: int  # those of them that give the spectrum
    num_lanczos_steps: int  # of each, and of the gradient
    num_gradient_batches: int  # of the gradient's norm

    def check(self, where: str) -> None:
        for key in ("nbeta", "localization", "max_loss_rise", "max_rhat"):
            require(getattr(self, key) > 0, f"{where}.{key}", "positive", getattr(self, key))
        require(
            self.num_burnin_steps >= 0,
            f"{where}.num_burnin_steps",
            "0 or more",
            self.num_burnin_steps,
        )
        for key in (
            "num_chains",
            "num_init_batches",
            "batch_size",
            "num_batches",
            "num_probes",
            "num_probe_batches",
            "num_lanczos_probes",
            "num_lanczos_steps",
            "num_gradient_batches",
        ):
            require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))
        require(
            self.num_lanczos_probes <= self.num_probes,
            f"{where}.num_lanczos_probes",
            f"at most {where}.num_probes {self.num_probes}",
            self.num_lanczos_probes,
        )


@dataclass(frozen=True, kw_only=True)
class SweptSetting(Settings):
    """One entry of `llc.sweep`: an estimate beside that of the section itself."""

    section: ClassVar[str] = "llc.sweep"
    nbeta: float
    localization: float
    lr: float  # of the sampler
    num_burnin_steps: int
    num_draws: int  # per chain

    def check(self, where: str) -> None:
        for key in ("nbeta", "localization", "lr", "num_burnin_steps", "num_draws"):
            require(getattr(self, key) > 0, f"{where}.{key}", "positive", getattr(self, key))


@dataclass(frozen=True, kw_only=True)
class Llc(Sampling):
    """The local learning coefficient of language models."""

    section: ClassVar[str] = "llc"
    lr: dict  # of the sampler, by model
    num_draws: dict  # per chain, by model
    sweep: tuple[dict, ...]  # other settings, each a `SweptSetting`; may be empty
    sweep_seeds: tuple[int, ...]  # the models that are swept
    sweep_steps: tuple[int, ...]  # their checkpoints, of those that a model has
    sweep_chains: int
    sweep_lanczos_steps: int  # more of them: a weaker localisation sees more of the spectrum

    @property
    def swept(self) -> list[SweptSetting]:
        """The settings of the sweep."""
        return [SweptSetting.from_mapping(setting, "llc.sweep") for setting in self.sweep]

    def check(self, where: str) -> None:
        super().check(where)
        for i, setting in enumerate(self.sweep):
            SweptSetting.from_mapping(setting, f"{where}.sweep[{i}]")
        for key in ("sweep_chains", "sweep_lanczos_steps"):
            require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))
        require(
            self.lr.keys() == self.num_draws.keys(),
            f"{where}.num_draws",
            f"given for the models of {where}.lr",
            self.num_draws,
        )
        for name, value in self.lr.items():
            require(
                fits(value, float) and value > 0, f"{where}.lr.{name}", "a positive number", value
            )
        for name, value in self.num_draws.items():
            require(
                fits(value, int) and value >= 1,
                f"{where}.num_draws.{name}",
                "an integer of 1 or more",
                value,
            )


@dataclass(frozen=True, kw_only=True)
class Complexity(Sampling):
    """The same measures on image classifiers, at their last weights as deployed.

    They are taken of the runs of the main grid that are listed here.
    """

    section: ClassVar[str] = "complexity"
    methods: tuple[str, ...]  # may be empty: none
    seeds: tuple[int, ...]
    num_images: int  # of the training set, on which critical n_q is searched
    lr: float  # of the sampler
    num_draws: int

    def check(self, where: str) -> None:
        super().check(where)
        require(self.lr > 0, f"{where}.lr", "positive", self.lr)
        for key in ("num_images", "num_draws"):
            require(getattr(self, key) >= 1, f"{where}.{key}", "1 or more", getattr(self, key))
