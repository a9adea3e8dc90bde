"""Small copies of CIFAR-10 in its authors' two formats, for tests: 20 images in each of six files.

They have other MD5 sums than the official files, so the sums that torchvision and
`momos.raw.cifar10` know are replaced by theirs.
"""

import hashlib
import pickle

import numpy as np

from momos.raw import cifar10

NUM_RECORDS = 20
NAMES = tuple(f"class{label}" for label in range(10))


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def some_images():
    """Pixels (120, 3072), each image's red, green and blue ones, and labels (120,)."""
    images = np.random.default_rng(0).integers(0, 256, (6 * NUM_RECORDS, 3072), dtype=np.uint8)
    return images, np.arange(6 * NUM_RECORDS) % 10


def parts():
    """Name of each batch without suffix, and which images are in it."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return {
        name: slice(NUM_RECORDS * i, NUM_RECORDS * (i + 1)) for i, name in enumerate(names)
    }.items()


def write_pickles(root, monkeypatch):
    """Write torchvision's folder into root; returns images (120, 3, 32, 32) and labels (120,)."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    images, labels = some_images()
    sums = {}
    for name, part in parts():
        batch = {"data": images[part], "labels": labels[part].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
        sums[name] = md5(folder / name)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(NAMES)}))
    meta = CIFAR10.meta | {"md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(
        CIFAR10, "train_list", [[name, sums[name]] for name in sums if name != "test_batch"]
    )
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return images.reshape(-1, 3, 32, 32), labels


def write_binary(folder, monkeypatch):
    """Write the binary files of the same images into `folder`, which is returned."""
    folder.mkdir(parents=True)
    images, labels = some_images()
    for name, part in parts():
        records = np.column_stack([labels[part].astype(np.uint8), images[part]])
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    monkeypatch.setattr(cifar10, "NUM_RECORDS", NUM_RECORDS)
    trust(folder, monkeypatch)
    return folder


def trust(folder, monkeypatch):
    """Make the sums of the binary files that lie in `folder` now the expected ones."""
    monkeypatch.setattr(cifar10, "SUMS", {name: md5(folder / name) for name in cifar10.SUMS})
