"""Frameworks that own the loop, the real libraries: one right run and one mistake each.

Each test needs its library, which ``tox run -e frameworks`` installs; elsewhere it is skipped.
"""

import copy
import os
from pathlib import Path
from typing import Any, List, Optional

import pytest
import torch
from torch import nn

from frostproof import check_recipe, watch
from frostproof.accelerate import watch as watch_accelerated

pytestmark = pytest.mark.filterwarnings("default")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


class Classifier(nn.Module):
    """A frozen backbone with BatchNorm and dropout, and a head, as transformers' Trainer calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(8, 2)
        self.backbone.requires_grad_(False)

    def forward(self, x: torch.Tensor, labels: Optional[torch.Tensor] = None) -> Any:
        logits = self.head(self.backbone(x))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Careful(Classifier):
    """Keeps its frozen backbone in eval mode."""

    def train(self, mode: bool = True) -> "Careful":
        super().train(mode)
        self.backbone.eval()
        return self


def data() -> List[Any]:
    torch.manual_seed(0)
    return [{"x": torch.randn(4), "labels": torch.tensor(number % 2)} for number in range(32)]


def hf_trainer(model: Any, folder: Path, *callbacks: Any, **options: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    options = {"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 0.1, **options}
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    return transformers.Trainer(
        model=model, args=arguments, train_dataset=data(), callbacks=list(callbacks)
    )


BATCHNORM = r"(?s)R2: .*backbone\.1\.running_mean: .*train mode"


def test_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from frostproof.transformers import FrostproofCallback

    callback = FrostproofCallback(trains=["head"], every=2)
    hf_trainer(Careful(), tmp_path, callback, gradient_accumulation_steps=2).train()
    hf_trainer(Careful(), tmp_path, FrostproofCallback(), max_steps=-1, num_train_epochs=2).train()
    with pytest.raises(AssertionError, match=BATCHNORM):
        hf_trainer(Classifier(), tmp_path, FrostproofCallback()).train()
    with pytest.raises(AssertionError, match=r"backbone\.0\.weight: should train, but is frozen"):
        hf_trainer(Careful(), tmp_path, FrostproofCallback(trains=["head", "backbone.0"])).train()


def test_transformers_trainer_as_a_recipe(tmp_path: Path) -> None:
    check_recipe(lambda: hf_trainer(Careful(), tmp_path))
    with pytest.raises(AssertionError, match=BATCHNORM):
        check_recipe(lambda: hf_trainer(Classifier(), tmp_path))
    kept = Careful()
    with pytest.raises(AssertionError, match=r"(?s)R4: .*head\.weight"):
        check_recipe(lambda: (hf_trainer(kept, tmp_path), {"best": kept.state_dict()}))


def tiny_bert() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=2,
    )
    return transformers.BertForSequenceClassification(config)


def tokens() -> List[Any]:
    torch.manual_seed(0)
    return [
        {"input_ids": torch.randint(1, 40, (8,)), "labels": torch.tensor(number % 2)}
        for number in range(32)
    ]


def adapted(model: Any, **options: Any) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["query", "value"], task_type="SEQ_CLS", **options)
    return peft.get_peft_model(model, config)


def test_peft_in_the_trainer(tmp_path: Path) -> None:
    model = adapted(tiny_bert())
    from frostproof.transformers import FrostproofCallback

    declared = ["*lora_*", "*modules_to_save*"]
    trainer = hf_trainer(model, tmp_path, FrostproofCallback(trains=declared), learning_rate=0.01)
    trainer.train_dataset = tokens()
    trainer.train()


def test_peft_resumed_frozen(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapted(tiny_bert()).save_pretrained(str(tmp_path / "adapter"))
    base = tiny_bert()
    for trainable in (True, False):  # the default of from_pretrained is False
        resumed = peft.PeftModel.from_pretrained(
            copy.deepcopy(base), str(tmp_path / "adapter"), is_trainable=trainable
        )
        resumed.base_model.model.classifier.modules_to_save.requires_grad_(True)
        optimizer = torch.optim.AdamW(resumed.parameters(), lr=0.01)

        def train(model: Any = resumed, optimizer: Any = optimizer) -> None:
            for start in (0, 8, 16):
                rows = tokens()[start : start + 8]
                batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
                optimizer.zero_grad()
                model(**batch).loss.backward()
                optimizer.step()

        if trainable:
            with watch(resumed, trains=["*lora_*", "*classifier*default*"], frozen=["*base_layer*"]):
                train()
        else:
            with pytest.raises(AssertionError, match=r"lora_A.*: should train, but is frozen"):
                with watch(resumed, trains=["*lora_*"], frozen=["*base_layer*"]):
                    train()


def lightning_parts(model: nn.Module, *callbacks: Any, **options: Any) -> Any:
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        """A classifier's training."""

        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def training_step(self, batch: Any, number: int) -> Any:
            return self.net(batch["x"], batch["labels"])["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(
        **{"max_epochs": 2, **options},
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    return trainer, Module(), torch.utils.data.DataLoader(data(), batch_size=8)  # type: ignore


def test_lightning() -> None:
    pytest.importorskip("lightning.pytorch")
    from frostproof.lightning import FrostproofCallback

    callback = FrostproofCallback(trains=["net.head"], every=3)
    trainer, module, loader = lightning_parts(Careful().train(), callback)
    trainer.fit(module, loader)
    trainer, module, loader = lightning_parts(Classifier(), FrostproofCallback())
    with pytest.raises(AssertionError, match=BATCHNORM):
        trainer.fit(module, loader)


def test_lightning_trainer_as_a_recipe() -> None:
    check_recipe(lambda: lightning_parts(Careful().train()))
    with pytest.raises(AssertionError, match=BATCHNORM):
        check_recipe(lambda: lightning_parts(Classifier()))


def test_a_lightning_fit_as_a_step_is_seen_to_do_nothing_later() -> None:
    def factory() -> Any:
        trainer, module, loader = lightning_parts(Careful().train())
        return module, lambda: trainer.fit(module, loader)

    assert any("did nothing" in note for note in check_recipe(factory))


@pytest.mark.parametrize("right", [True, False])
def test_accelerate(right: bool) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    plain = Careful() if right else Classifier()
    loader: Any = torch.utils.data.DataLoader(data(), batch_size=8)  # type: ignore
    model, optimizer, loader = accelerator.prepare(
        plain.train(), torch.optim.SGD(plain.parameters(), lr=0.1), loader
    )

    def train() -> None:
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch)["loss"])
                optimizer.step()
                optimizer.zero_grad()

    if right:
        with watch_accelerated(accelerator, model, trains=["head"]) as seen:
            train()
        assert seen.examination.hands.steps >= 2
    else:
        with pytest.raises(AssertionError, match=BATCHNORM):
            with watch_accelerated(accelerator, model):
                train()
    with pytest.raises(TypeError, match="without with"):
        watch_accelerated(accelerator, model)


def test_timm() -> None:
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]
    net = timm.create_model("resnet10t", pretrained=False, num_classes=2)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith("fc."))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def train() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                net(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 0, 1])
            )
            loss.backward()
            optimizer.step()

    with pytest.raises(AssertionError, match=r"(?s)R2: .*running_mean.*train mode"):
        with watch(net.train(), trains=["fc"]):
            train()
    net.eval()
    with watch(net, trains=["fc"]):
        train()
