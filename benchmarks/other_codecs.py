"""Other people's codecs: nncodec (ISO/IEC 15938-17, DeepCABAC) and zipnn.

They are needed nowhere else. nncodec wants numpy below 2, so they get an environment of their own:

    python -m venv codecs && codecs/bin/pip install nncodec==2.1.3 zipnn==0.5.4
    codecs/bin/python benchmarks/other_codecs.py MODEL.safetensors OUT_DIR QP [QP ..]

Prints a line of JSON per file: codec, setting, bytes, seconds to encode and decode. The decoded
models are OUT_DIR/<codec>_<setting>.safetensors. nncodec refuses scalars, and gets all other
floating-point tensors. What it does not get is copied to the decoded model for nothing.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path

import torch
from nncodec.nn import decode, encode
from safetensors.torch import load_file, save_file
from zipnn import ZipNN


def main(model: Path, out: Path, qps: list[int]) -> None:
    state = load_file(model)
    content = model.read_bytes()
    start = time.perf_counter()
    packed = ZipNN(input_format="byte", bytearray_dtype="float32").compress(bytearray(content))
    middle = time.perf_counter()
    if bytes(ZipNN(input_format="byte", bytearray_dtype="float32").decompress(packed)) != content:
        raise ValueError(f"{model}: zipnn gives other bytes back")
    report("zipnn", "", len(packed), start, middle)
    coded = {
        name: tensor.numpy()
        for name, tensor in state.items()
        if tensor.ndim and tensor.is_floating_point()
    }
    for qp in qps:
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            stream = encode(dict(coded), {"qp": qp})
            middle = time.perf_counter()
            decoded = decode(stream)
        report("nncodec", qp, len(stream), start, middle)
        back = {
            name: torch.as_tensor(decoded[name])
            .to(state[name].dtype)
            .reshape(state[name].shape)
            .contiguous()
            for name in coded
        }
        save_file(state | back, out / f"nncodec_{qp}.safetensors")


def report(codec: str, setting: int | str, num_bytes: int, start: float, middle: float) -> None:
    seconds = {
        "encode_s": round(middle - start, 3),
        "decode_s": round(time.perf_counter() - middle, 3),
    }
    print(
        json.dumps({"codec": codec, "setting": setting, "bytes": num_bytes} | seconds), flush=True
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(qp) for qp in sys.argv[3:]])
