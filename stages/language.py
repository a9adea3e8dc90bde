"""Stage `language`: one language model at the listed steps of its training.

usage: language.py MODEL SEED TEXT.safetensors TEXT.json DIR

A GPT-NeoX is trained here and saved at each step. Of a Pythia, the revision of each step is looked
up and downloaded to the hub's cache. An interrupted training goes on from its last checkpoint in
`scratch/`, where the weights of the listed steps are kept too until the training is done.
"""

import sys
from dataclasses import asdict
from pathlib import Path

from torch import nn

from momos import config, tracking
from momos.compute.device import prepare_device
from momos.files import atomic, run_folder
from momos.language import neox, steps, training
from momos.resume.checkpoints import Checkpoints


def main(name: str, seed: int, text_file: Path, text_json: Path, folder: Path) -> None:
    recipe, corpus = config.load(config.LanguageModel, name), config.load(config.Text)
    settings, loop = config.load(config.Language), config.load(config.Train)
    about = {"profile": config.profile(), "model": name, "seed": seed, "source": recipe.source}
    about |= {"steps": list(recipe.steps), "method": "language", "grid": "language"}
    about |= {"context": corpus.context, "lr": recipe.lr}
    about |= {"fold": recipe.fold, "center": recipe.center}
    if recipe.source == "pythia":
        revisions = steps.find_revisions(str(recipe.name), recipe.steps)
        about |= {"name": recipe.name, "revisions": revisions}
        atomic.write_json(folder / steps.ABOUT, about)
        return
    device = prepare_device(loop.device, loop.num_threads)
    vocabulary = atomic.read_json(text_json)["vocabulary"]
    shape = {"vocabulary": vocabulary, "context": corpus.context}
    # what could not be measured is met here, before training
    neox.check(recipe.kwargs or {}, **shape, center=recipe.center, fold=recipe.fold)
    model: nn.Module = neox.build(recipe.kwargs or {}, **shape, seed=seed)
    model.to(device)
    num_weights = sum(weight.numel() for weight in model.parameters())
    about |= {"vocabulary": vocabulary, "kwargs": recipe.kwargs, "num_weights": num_weights}
    depends = about | asdict(settings) | {"device": device.type, "num_threads": loop.num_threads}
    place = f"language/{about['profile']}/{name}/{seed}"
    kept = Checkpoints(place, depends, Path(__file__), text_file, seconds=loop.checkpoint_seconds)
    with kept, tracking.run(config.load(config.Tracking), about) as log:
        history = training.train_and_save(
            model,
            atomic.load_tensors(text_file),
            kept,
            settings=settings,
            recipe=recipe,
            context=corpus.context,
            seed=seed,
            log=lambda row: log(row | {"epoch": row["step"]}),
        )
        for step in recipe.steps:
            weights = atomic.load_tensors(steps.step_file(kept.folder, step))
            atomic.save_tensors(steps.step_file(folder, step), weights)
        run_folder.save_history(folder, training.COLUMNS, history)
        atomic.write_json(folder / steps.ABOUT, about)
        log.finish(folder)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:6]))
