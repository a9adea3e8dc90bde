"""Stage `text`: the text of the language models as tokens, in fixed parts.

usage: text.py OUT.safetensors OUT.json
"""

import sys
from pathlib import Path

from momos import config
from momos.files import atomic
from momos.language.text import check_draws, check_length, read_text


def main(out: Path, out_summary: Path) -> None:
    settings = config.load(config.Text)
    if not config.load(config.Slt).models:  # no language model needs the text
        atomic.save_tensors(out, {})
        atomic.write_json(out_summary, {})
        return
    text = read_text(settings)
    check_length(text, settings)
    language, search = config.load(config.Language), config.load(config.Compressibility)
    batches = {
        "language.batch_size": language.batch_size,
        "compressibility.num_sequences": search.num_sequences,
        "compressibility.retraining_batch_size": search.retraining_batch_size,
        "llc.batch_size": config.load(config.Llc).batch_size,
    }
    check_draws(text.train, "training", settings, batches)
    held_out = {"language.num_held_out": language.num_held_out}
    check_draws(text.held_out, "held-out", settings, held_out)
    atomic.save_tensors(out, {"train": text.train, "held_out": text.held_out})
    summary = {
        "source": settings.source,
        "name": settings.name,
        "tokenizer": settings.tokenizer,
        "sha256": text.sha256,
        "vocabulary": text.vocabulary,
        "tokens": {"train": len(text.train), "held_out": len(text.held_out)},
    }
    atomic.write_json(out_summary, summary)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
