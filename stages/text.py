"""Stage `text`: the text of the language models as tokens, in fixed parts.

usage: text.py OUT.safetensors OUT.json
"""

import sys
from pathlib import Path

from momos import config
from momos.files import atomic
from momos.language.text import check_length, read_text


def main(out: Path, out_summary: Path) -> None:
    settings = config.load(config.Text)
    if not config.load(config.Slt).models:  # no language model needs the text
        atomic.save_tensors(out, {})
        atomic.write_json(out_summary, {})
        return
    text = read_text(settings)
    check_length(text, settings)
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
