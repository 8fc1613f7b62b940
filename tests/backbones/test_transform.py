"""The fingerprint of a processor follows what it does, also when it is changed in place."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import normalizers, processors

from cpool.backbones import load_backbone, wrap_model
from tests import tiny


def fingerprint(kind: str, processor: Any) -> str:
    return wrap_model(tiny.backbone(kind).model, processor).transform_fingerprint


@pytest.mark.parametrize("kind", ["vit", "bert", "gpt2"])
def test_copies_of_a_processor_are_equal(kind: str, tmp_path: Path) -> None:
    backbone = tiny.KINDS[kind]()
    first = backbone.transform_fingerprint
    assert len(first) == 64 and backbone.spec()["transform"] == first
    assert tiny.KINDS[kind]().transform_fingerprint == first
    backbone.model.save_pretrained(tmp_path)
    backbone.processor.save_pretrained(tmp_path)
    assert load_backbone(tmp_path).transform_fingerprint == first


def test_without_processor() -> None:
    assert fingerprint("vit", None) == fingerprint("bert", None) == "none"


def test_names_and_versions_do_not_count() -> None:
    processor = tiny.image_processor()
    first = fingerprint("vit", processor)
    assert (
        fingerprint("vit", transformers.ViTImageProcessor(**json.loads(processor.to_json_string())))
        == first
    )
    processor._processor_class, processor.processor_class = "A", "B"
    processor.transformers_version = "0"
    assert fingerprint("vit", processor) == first


def test_a_processor_that_is_called_counts_by_its_class() -> None:
    class Odd(transformers.ViTImageProcessorPil):  # type: ignore[misc]
        pass

    for size, same in (({"height": 8, "width": 8}, True), ({"max_height": 8, "max_width": 8}, 0)):
        plain = transformers.ViTImageProcessorPil(size=size)
        assert (fingerprint("vit", Odd(size=size)) == fingerprint("vit", plain)) == same


def test_image_settings_changed_in_place_are_seen() -> None:
    backbone = tiny.KINDS["vit"]()
    seen = [backbone.transform_fingerprint]
    backbone.processor.image_mean = [0.1, 0.2, 0.3]
    seen.append(backbone.transform_fingerprint)
    backbone.processor.image_mean[0] = 0.4
    seen.append(backbone.transform_fingerprint)
    backbone.processor.do_resize = False
    seen.append(backbone.transform_fingerprint)
    backbone.processor = None
    seen.append(backbone.transform_fingerprint)
    assert len(set(seen)) == 5


def test_tokenizer_changed_in_place_is_seen() -> None:
    backbone = tiny.KINDS["bert"]()
    tokenizer, seen = backbone.processor, [backbone.transform_fingerprint]
    tokenizer.padding_side = "left"
    seen.append(backbone.transform_fingerprint)
    tokenizer.model_max_length = 5
    seen.append(backbone.transform_fingerprint)
    tokenizer.add_tokens(["horse"])
    seen.append(backbone.transform_fingerprint)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    seen.append(backbone.transform_fingerprint)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    seen.append(backbone.transform_fingerprint)
    tokenizer.pad_token = "</s>"
    seen.append(backbone.transform_fingerprint)
    backbone.processor = tiny.tokenizer()
    assert backbone.transform_fingerprint == seen[0]
    assert len(set(seen)) == 7


def test_use_does_not_change_a_tokenizer() -> None:
    tokenizer = tiny.tokenizer()
    first = fingerprint("bert", tokenizer)
    tokenizer(["the cat sleeps"], truncation=True, max_length=3, padding="max_length")
    assert tokenizer.backend_tokenizer.truncation is not None
    assert fingerprint("bert", tokenizer) == first


def test_slow_tokenizers_count_by_their_words() -> None:
    def slow(words: str) -> Any:
        class Slow:
            padding_side, model_max_length, special_tokens_map = "right", 64, {"pad_token": "<p>"}

            def get_vocab(self) -> dict[str, int]:
                return {word: i for i, word in enumerate(words.split())}

            def __call__(self, texts: list[str], **options: Any) -> dict[str, Any]:
                return {"input_ids": [[1] for _ in texts]}

        return Slow()

    first = fingerprint("bert", slow("a b"))
    assert fingerprint("bert", slow("a b")) == first != fingerprint("bert", slow("b a"))
    left = slow("a b")
    left.padding_side = "left"
    assert fingerprint("bert", left) != first


@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_fast_enough_for_every_batch(kind: str) -> None:
    backbone = tiny.backbone(kind)
    start = time.perf_counter()
    for _ in range(100):
        _ = backbone.transform_fingerprint
    assert time.perf_counter() - start < 1.0  # about 0.01 s alone on a machine
