"""Encoders with decoders of text: both at once, each by itself, and the encoder alone."""

from __future__ import annotations

from functools import partial
from typing import Any

from zoo_architectures import IDS, MASK, VOCABULARY, architecture
from zoo_case import Axis, f32, i64

translator = partial(architecture, "encoder and decoder")
TARGETS = i64("decoder_input_ids", "batch", "target", below=VOCABULARY, least=4)
TARGET = (Axis("target", 2, 5, 13),)
T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
}
BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "use_cache": False,
}
SPECIAL = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1, "decoder_start_token_id": 2}
BOTH = (IDS, MASK, TARGETS)
STATES = f32("encoder_hidden_states", "batch", "source", 32)

translator("t5-encoder", "T5EncoderModel", (IDS, MASK), T5)
translator("t5", "T5ForConditionalGeneration", BOTH, T5, axes=TARGET)
translator("mt5-encoder", "MT5EncoderModel", (IDS, MASK), T5)
translator("bart", "BartForConditionalGeneration", BOTH, {**BART, **SPECIAL}, axes=TARGET)
translator("pegasus", "PegasusForConditionalGeneration", BOTH, {**BART, **SPECIAL}, axes=TARGET)
translator("marian", "MarianMTModel", BOTH, {**BART, **SPECIAL}, axes=TARGET)
translator("mbart", "MBartForConditionalGeneration", BOTH, {**BART, **SPECIAL}, axes=TARGET)
translator("m2m100", "M2M100ForConditionalGeneration", BOTH, {**BART, **SPECIAL}, axes=TARGET)
translator("blenderbot", "BlenderbotSmallForConditionalGeneration", BOTH, {**BART, **SPECIAL}, axes=TARGET)
translator(
    "bert-decoder",
    "BertLMHeadModel",
    (IDS, MASK, STATES),
    {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "is_decoder": True,
        "add_cross_attention": True,
        "use_cache": False,
    },
    axes=(Axis("source", 2, 5, 13),),
)
