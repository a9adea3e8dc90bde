"""MoMos as a callback, in real trainings of Lightning and of Hugging Face's Trainer."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import momos
from momos.weights.blocks import num_motifs, to_blocks

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {"block_size": 2, "capacity": 0.1, "seed": 4}
BEST = SETTINGS | {"recipe": "best"}
OWN = Path(momos.__file__).parent / "own"


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_callback_is_short(name):
    assert len((OWN / f"{name}.py").read_text().splitlines()) < 40


def num_distinct(weights):
    """Distinct blocks of two, where no tensor is ragged, and the motifs that there may be."""
    blocks = to_blocks(weights, 2)
    return len(blocks.unique(dim=0)), num_motifs(len(blocks), 0.1)


def same(first, second):
    return all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


# --- Lightning


def lightning_model(pytorch):
    class Model(pytorch.LightningModule):
        """Notes how many distinct blocks validation sees."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
            self.validated, self.seen = [], []

        def training_step(self, batch, index):
            self.seen.append(self.net[0].weight.detach().unique().numel())
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, index):
            self.validated.append(num_distinct(list(self.parameters())))

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.02)

    return Model()


def loader(num=26):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num, 6, generator=generator)
    return DataLoader(
        TensorDataset(inputs, torch.randint(4, (num,), generator=generator)), batch_size=4
    )


def fit(pytorch, folder, num_epochs, *, start=None, **settings):
    """Train with gradients of two batches a step: 4 steps an epoch, the last of one batch."""
    from momos.own.lightning import MoMosCallback

    model, callback = lightning_model(pytorch), MoMosCallback(**settings)
    trainer = pytorch.Trainer(
        max_epochs=num_epochs, accelerator="cpu", devices=1, accumulate_grad_batches=2,
        logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[callback],
        default_root_dir=folder, enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, loader(), loader(8), ckpt_path=start)
    trainer.save_checkpoint(folder / f"{num_epochs}.ckpt")
    return model, callback.mosaic, trainer


@pytest.fixture(scope="module")
def pytorch():
    return pytest.importorskip("lightning.pytorch", reason="lightning is not installed")


@pytest.mark.filterwarnings("ignore:.*(num_workers|weights_only|isinstance|GPU|TPU).*")
def test_lightning_validates_and_resumes_the_projected_weights(pytorch, tmp_path):
    whole, mosaic, _ = fit(pytorch, tmp_path, 3, **SETTINGS)
    assert mosaic.num_steps == 3 * 4 and mosaic.model is whole
    assert len(whole.validated) == 3 * 2
    assert all(distinct <= allowed for distinct, allowed in whole.validated)
    fit(pytorch, tmp_path, 2, **SETTINGS)
    resumed, again, trainer = fit(
        pytorch, tmp_path, 3, start=tmp_path / "2.ckpt", **SETTINGS | {"seed": 5}
    )
    assert same(resumed, whole) and again.report().numbers == mosaic.report().numbers
    trainer.validate(resumed, loader(8), ckpt_path=tmp_path / "2.ckpt", verbose=False)
    unused = type(next(one for one in trainer.callbacks if hasattr(one, "mosaic")))(**SETTINGS)
    fresh = pytorch.Trainer(
        logger=False, accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path,
        callbacks=[unused], enable_model_summary=False,
    )  # fmt: skip
    fresh.validate(resumed, loader(8), ckpt_path=tmp_path / "2.ckpt", verbose=False)


@pytest.mark.filterwarnings("ignore:.*(num_workers|weights_only|isinstance|GPU|TPU).*")
def test_lightning_trains_with_quantised_weights_by_steps(pytorch, tmp_path):
    """`training_step` calls a part of the module, which sees 2 bits: three levels."""
    model, mosaic, _ = fit(
        pytorch, tmp_path, 1, recipe={"bits": 2, "block_size": 2, "num_motifs": 7}, 
        projection_every=3,
    )  # fmt: skip
    assert model.seen and max(model.seen) <= 3
    assert mosaic.num_steps == 4 and mosaic.applied.parts[0].projected_at == 4


@pytest.mark.filterwarnings("ignore:.*(num_workers|weights_only|isinstance|GPU|TPU).*")
def test_lightning_gives_the_recipe_its_epochs_and_optimizer(pytorch, tmp_path):
    """Motifs are found after two epochs, then trained for two; resumed among the latter."""
    whole, mosaic, _ = fit(pytorch, tmp_path, 4, **BEST)
    assert mosaic.applied.is_tied and mosaic.optimizers
    assert all(distinct > allowed for distinct, allowed in whole.validated[:2])
    assert all(distinct <= allowed for distinct, allowed in whole.validated[2:])
    fit(pytorch, tmp_path, 3, **BEST, epochs=4)
    resumed, _, _ = fit(pytorch, tmp_path, 4, start=tmp_path / "3.ckpt", **BEST)
    assert same(resumed, whole)
    with pytest.raises(ValueError, match="epochs must be given"):
        fit(pytorch, tmp_path, -1, **BEST)  # without a limit


# --- Hugging Face


class Tokens(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        tokens = (torch.arange(8) * (index + 3)) % 31
        return {"input_ids": tokens, "labels": tokens}


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    return pytest.importorskip("transformers", reason="transformers is not installed")


def gpt2(transformers):
    config = transformers.GPT2Config(
        vocab_size=31, n_positions=8, n_embd=8, n_layer=1, n_head=2,
        embd_pdrop=0, attn_pdrop=0, resid_pdrop=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config)


def hugging_face(transformers, folder, num_epochs, *, start=None, save="epoch", **settings):
    """Train, with 2 * 2 sequences a step: 3 steps an epoch, the last of 2 sequences."""
    from momos.own.transformers import MoMosCallback

    class Trainer(transformers.Trainer):
        validated: list = []

        def evaluate(self, *args, **kwargs):
            self.validated.append(num_distinct(list(self.model.parameters())))
            return super().evaluate(*args, **kwargs)

    model, callback = gpt2(transformers), MoMosCallback(**settings)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=num_epochs, per_device_train_batch_size=2,
        gradient_accumulation_steps=2, learning_rate=0.01, lr_scheduler_type="constant",
        save_strategy=save, save_steps=3, eval_strategy="epoch", report_to=[], use_cpu=True,
        disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, train_dataset=Tokens(), eval_dataset=Tokens(), callbacks=[callback]
    )
    trainer.train(resume_from_checkpoint=start)
    return model, callback.mosaic, trainer


@pytest.mark.parametrize("save", ["epoch", "steps"])
def test_the_trainer_evaluates_and_resumes_the_projected_weights(transformers, tmp_path, save):
    """Saved after an epoch, or after its last step, before its projection."""
    whole, mosaic, trainer = hugging_face(transformers, tmp_path / "a", 3, save=save, **SETTINGS)
    assert mosaic.num_steps == 3 * 3 and mosaic.model is whole
    assert len(trainer.validated) == 3
    assert all(distinct <= allowed for distinct, allowed in trainer.validated)
    hugging_face(transformers, tmp_path / "b", 2, save=save, **SETTINGS)
    start = str(tmp_path / "b" / "checkpoint-6")
    settings = SETTINGS | {"seed": 5}
    resumed, again, _ = hugging_face(
        transformers, tmp_path / "b", 3, start=start, save=save, **settings
    )
    assert same(resumed, whole) and again.report().numbers == mosaic.report().numbers


def test_the_trainer_gives_the_recipe_its_epochs_and_optimizer(transformers, tmp_path):
    whole, mosaic, trainer = hugging_face(transformers, tmp_path / "a", 4, **BEST)
    assert mosaic.applied.is_tied and mosaic.optimizers
    dense, *mosaics = trainer.validated
    assert dense[0] > dense[1] and all(distinct <= allowed for distinct, allowed in mosaics)
    hugging_face(transformers, tmp_path / "b", 3, **BEST, epochs=4)
    start = str(tmp_path / "b" / "checkpoint-9")
    resumed, _, _ = hugging_face(transformers, tmp_path / "b", 4, start=start, **BEST)
    assert same(resumed, whole)


def test_the_trainer_trains_a_tied_model_with_quantised_weights(transformers, tmp_path):
    model, mosaic, _ = hugging_face(
        transformers,
        tmp_path,
        1,
        save="epoch",
        recipe={"bits": 2, "block_size": 2, "num_motifs": 9},
    )
    assert model.lm_head.weight.detach().unique().numel() <= 3
    twin = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "checkpoint-3")
    assert same(twin, model), "what the Trainer saves are the latent weights"
    assert num_distinct(list(twin.parameters()))[0] <= 9
    model.eval(), twin.eval()
    tokens = Tokens()[0]["input_ids"][None]
    assert not torch.equal(model(tokens).logits, twin(tokens).logits)
    mosaic.save(tmp_path / "model.momos")
    momos.unpack(tmp_path / "model.momos", deployed := copy.deepcopy(twin))
    assert torch.equal(deployed(tokens).logits, model(tokens).logits)
