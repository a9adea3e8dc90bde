"""Stage `language`: checkpoints of one language model along training.   usage: language.py MODEL
SEED TEXT.safetensors TEXT.json DIR

A GPT-NeoX is trained here and saved at the listed steps; of a Pythia the revisions are looked up,
and downloaded to the hub's cache. A training that was interrupted goes on from where it last was
kept, in `scratch/`; the listed steps are there too until the end.
"""

import sys
from dataclasses import asdict
from pathlib import Path

from momos import config, tracking
from momos.compute.device import prepare_device
from momos.files import atomic, run_folder
from momos.language import neox, text
from momos.resume.checkpoints import Checkpoints


def main(name: str, seed: int, text_file: Path, text_json: Path, folder: Path) -> None:
    recipe, corpus, loop = (
        config.load(config.LanguageModel, name),
        config.load(config.Text),
        config.load(config.Train),
    )
    about = {
        "profile": config.profile(),
        "model": name,
        "seed": seed,
        "source": recipe.source,
        "steps": list(recipe.steps),
    }
    about |= {"method": "language", "grid": "language", "context": corpus.context, "lr": recipe.lr}
    about |= {"fold": recipe.fold, "center": recipe.center}
    if recipe.source == "pythia":
        revisions = neox.find_revisions(recipe.name, recipe.steps)
        atomic.write_json(
            folder / neox.ABOUT, about | {"name": recipe.name, "revisions": revisions}
        )
        return
    settings, device = config.load(config.Language), prepare_device(loop.device, loop.num_threads)
    vocabulary = atomic.read_json(text_json)["vocabulary"]
    model = neox.build(recipe.kwargs, vocabulary=vocabulary, context=corpus.context, seed=seed).to(
        device
    )
    about |= {
        "vocabulary": vocabulary,
        "kwargs": recipe.kwargs,
        "num_weights": sum(weight.numel() for weight in model.parameters()),
    }
    tokens = atomic.load_tensors(text_file)
    shape = (corpus.context, settings.batch_size)
    order, shape = neox.generator_for("order", seed), (corpus.context, settings.batch_size)
    batches = text.stream(tokens["train"], *shape, order)
    held_out = text.sequences(
        tokens["held_out"], corpus.context, settings.num_held_out, neox.generator_for("held out", 0)
    )
    depends = about | asdict(settings) | {"device": device.type, "num_threads": loop.num_threads}
    place = f"language/{about['profile']}/{name}/{seed}"
    kept = Checkpoints(place, depends, Path(__file__), text_file, seconds=loop.checkpoint_seconds)
    history: list[dict] = []
    with kept, tracking.run(config.load(config.Tracking), about) as log:

        def keep(trained, row) -> None:
            if trained is not None:
                neox.save_step(kept.folder, row["step"], trained)
            history.append(row)
            log(row | {"epoch": row["step"]})

        neox.train(
            model,
            (batch.to(device) for batch in batches),
            settings=settings,
            lr=recipe.lr,
            steps=recipe.steps,
            held_out=held_out.to(device).split(settings.batch_size),
            on_checkpoint=keep,
            order=order,
            kept=kept,
        )
        for step in recipe.steps:
            atomic.save_tensors(
                neox.step_file(folder, step), atomic.load_tensors(neox.step_file(kept.folder, step))
            )
        run_folder.save_history(folder, neox.COLUMNS, history)
        atomic.write_json(folder / neox.ABOUT, about)
        log.finish(folder)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:6]))
