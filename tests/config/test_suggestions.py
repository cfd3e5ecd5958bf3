"""An unknown setting is answered with the one that was meant: another tool's name, section or spelling."""

from __future__ import annotations

import pytest

from longrepo.config import loader
from longrepo.config.loader import load_settings
from longrepo.errors import InputError

MEANT = {
    "lora.rank=16": "lora.r",
    "lora.lora_alpha=32": "lora.alpha",
    "training.learning_rate=1e-4": "training.base_learning_rate",
    "training.per_device_train_batch_size=2": "training.batch_size_reference",
    "training.num_train_epochs=3": "long_context.phase1_epochs",
    "model.max_seq_length=512": "model.max_position_embeddings",
    "memory.limit_gb=4": "memory.budget_gb",
    "training.save_steps=10": "training.save_every_steps",
    "long_context.phase4_epochs=2": "long_context.further_phases",
    # the right name in another section, or in none
    "training.r=16": "lora.r",
    "lora.seed=1": "training.seed",
    "peft.r=16": "lora.r",
    "r=16": "lora.r=16",
    "rank=16": "lora.r=16",
    "learning-rate=1e-4": "training.base_learning_rate=1e-4",
    # the spelling
    "lora.R=16": "lora.r",
    "Lora.r=16": "lora",
    "training.weight_decy=0.1": "training.weight_decay",
    "training.gradient_accumulation_step=4": "training.gradient_accumulation_steps",
}


@pytest.mark.parametrize("override", MEANT)
def test_what_was_meant_is_named_with_the_override(override: str) -> None:
    with pytest.raises(InputError) as caught:
        load_settings(None, [override])
    assert str(caught.value).startswith(f"--set {override}: ")
    assert str(caught.value).endswith(f"; did you mean {MEANT[override]}?")


@pytest.mark.parametrize("override", ["training.optimizer=adam", "data.foo=1", "lora.r", "zebra=1"])
def test_nothing_is_guessed_where_nothing_is_near(override: str) -> None:
    with pytest.raises(InputError) as caught:
        load_settings(None, [override])
    assert "did you mean" not in str(caught.value)


def test_every_name_of_another_tool_leads_to_a_setting_and_is_none_itself() -> None:
    settings = load_settings()
    for other, ours in loader._BY_OTHER_NAME.items():
        section, key = ours.split(".")
        assert hasattr(getattr(settings, section), key), ours
        assert not hasattr(getattr(settings, section), other), other
