import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from relic.text import UMT5Encoder
from tests.wan_parts import autoencoder, text_encoder, tokenizer

PROMPTS = ["a red room", "", "the  quiet\tgarden \n behind it", "walls &amp;amp; garden", "a " * 40]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    text_encoder().save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture
def encoder(saved: Path) -> UMT5Encoder:
    return UMT5Encoder(saved / "text_encoder", saved / "tokenizer", num_tokens=24)


def test_tokens_are_those_of_wans_pipeline(encoder: UMT5Encoder) -> None:
    pipeline = WanPipeline(tokenizer(), text_encoder(), autoencoder(), FlowMatchEulerDiscreteScheduler())
    expected, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False, max_sequence_length=24)
    tokens = encoder.encode(PROMPTS)
    assert tokens.shape == (5, 24, 48)
    assert encoder.width == 48
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)


def test_tokens_are_the_models_and_zero_past_the_prompts_end(encoder: UMT5Encoder) -> None:
    ids = tokenizer()("a red room", return_tensors="pt").input_ids
    assert ids.shape == (1, 4), "three words and the end of the text"
    expected = text_encoder()(ids).last_hidden_state[0]
    tokens = encoder.encode(["a red room"])[0]
    torch.testing.assert_close(tokens[:4], expected, atol=1e-5, rtol=0)
    assert not tokens[4:].any()
    nothing = encoder.encode([""])[0]
    assert nothing[0].any()
    assert not nothing[1:].any()


def test_wan_reads_512_tokens(saved: Path) -> None:
    assert UMT5Encoder(saved / "text_encoder", saved / "tokenizer").encode(["a room"]).shape == (1, 512, 48)


def test_a_prompt_is_encoded_once(saved: Path) -> None:
    asked: list[str] = []

    class Recording(UMT5Encoder):
        def run(self, prompts: list[str]) -> list[torch.Tensor]:
            asked.extend(prompts)
            return super().run(prompts)

    encoder = Recording(saved / "text_encoder", saved / "tokenizer", num_tokens=24)
    first = encoder.encode(["a room", "a garden", "a room"])
    again = encoder.encode(["a garden", "", "a room"])
    assert asked == ["a garden", "a room", ""]
    assert torch.equal(first[0], first[2])
    assert torch.equal(again[0], first[1])
    assert torch.equal(again[2], first[0])
    encoder.encode([f"room {number:03}" for number in range(300)])
    del asked[:]
    encoder.encode(["room 299", "a room"])
    assert asked == ["a room"], "the oldest prompts are forgotten"


def test_narrow_weights_give_float32_tokens(saved: Path, encoder: UMT5Encoder) -> None:
    narrow = UMT5Encoder(saved / "text_encoder", saved / "tokenizer", num_tokens=24, dtype=torch.bfloat16)
    tokens, expected = narrow.encode(["a red room"]), encoder.encode(["a red room"])
    assert tokens.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(tokens.flatten(), expected.flatten(), dim=0) > 0.99


def drop(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-7])


def reconfigure(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"missing: encoder\.final_layer_norm\.weight"),
        (cut, "is no whole UMT5EncoderModel"),
        (lambda folder: (folder / "model.safetensors").unlink(), "is no whole UMT5EncoderModel"),
        (reconfigure(num_layers=1), r"unexpected: encoder\.block\.1"),
        (reconfigure(d_ff=64), "is no whole UMT5EncoderModel"),
        (lambda folder: BertModel(BertConfig(hidden_size=12)).save_pretrained(folder), "describes BertModel, not UMT5"),
    ],
)
def test_a_damaged_encoder_is_named(saved: Path, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    text_encoder().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        UMT5Encoder(tmp_path, saved / "tokenizer")
    assert str(tmp_path) in str(error.value)


def test_a_missing_or_damaged_tokenizer_is_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer in .*tokenizer_of_nothing"):
        UMT5Encoder(saved / "text_encoder", tmp_path / "tokenizer_of_nothing")
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"the tokenizer in .* cannot be read"):
        UMT5Encoder(saved / "text_encoder", tmp_path)


def test_a_tokenizer_of_another_model_is_refused(saved: Path, tmp_path: Path) -> None:
    many = tokenizer()
    many.add_tokens([f"word{number}" for number in range(40)])
    many.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="they do not belong together"):
        UMT5Encoder(saved / "text_encoder", tmp_path)
