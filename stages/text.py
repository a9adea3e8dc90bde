"""Stage `text`: the text of the language models as tokens, in fixed parts.   usage: text.py
OUT.safetensors OUT.json
"""

import sys
from pathlib import Path

from momos import config
from momos.files import atomic
from momos.language import text


def main(out: Path, out_summary: Path) -> None:
    settings = config.load(config.Text)
    if not config.load(config.Slt).models:  # nothing is trained on it
        atomic.save_tensors(out, {})
        atomic.write_json(out_summary, {})
        return
    found = text.read(settings)
    atomic.save_tensors(out, {"train": found.train, "held_out": found.held_out})
    sizes = {"train": len(found.train), "held_out": len(found.held_out)}
    about = {
        "source": settings.source,
        "name": settings.name,
        "tokenizer": settings.tokenizer,
        "sha256": found.sha256,
    }
    atomic.write_json(out_summary, about | {"vocabulary": found.vocabulary, "tokens": sizes})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
