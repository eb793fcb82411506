"""Decoders of text, which give logits of the next token, some with the keys and values of a cache."""

from __future__ import annotations

from functools import partial
from typing import Any

from zoo_architectures import IDS, MASK, SMALL, VOCABULARY, architecture

decoder = partial(architecture, "text decoder")
PLAIN: dict[str, Any] = {**SMALL, "use_cache": False}
GROUPED = {**PLAIN, "num_key_value_heads": 2, "pad_token_id": 0}
GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False}

decoder("gpt2", "GPT2LMHeadModel", (IDS, MASK), GPT)
decoder("gpt2-with-cache", "GPT2LMHeadModel", (IDS, MASK), {**GPT, "use_cache": True})
decoder(
    "gpt-neo",
    "GPTNeoForCausalLM",
    (IDS, MASK),
    {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 6,
        "max_position_embeddings": 64,
        "use_cache": False,
    },
)
decoder("gpt-neox", "GPTNeoXForCausalLM", (IDS, MASK), PLAIN)
decoder("gpt-j", "GPTJForCausalLM", (IDS, MASK), {**GPT, "rotary_dim": 4})
decoder(
    "opt",
    "OPTForCausalLM",
    (IDS, MASK),
    {**PLAIN, "ffn_dim": 64, "word_embed_proj_dim": 32, "do_layer_norm_before": True},
)
decoder(
    "bloom",
    "BloomForCausalLM",
    (IDS, MASK),
    {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False},
)
decoder("llama", "LlamaForCausalLM", (IDS, MASK), GROUPED)
decoder("llama-with-cache", "LlamaForCausalLM", (IDS, MASK), {**GROUPED, "use_cache": True})
decoder("mistral-sliding-window", "MistralForCausalLM", (IDS, MASK), {**GROUPED, "sliding_window": 8})
decoder(
    "mixtral",
    "MixtralForCausalLM",
    (IDS, MASK),
    {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
)
decoder("qwen2", "Qwen2ForCausalLM", (IDS, MASK), GROUPED)
decoder("qwen3", "Qwen3ForCausalLM", (IDS, MASK), {**GROUPED, "head_dim": 8})
decoder("gemma", "GemmaForCausalLM", (IDS, MASK), {**GROUPED, "head_dim": 8})
decoder("gemma2", "Gemma2ForCausalLM", (IDS, MASK), {**GROUPED, "head_dim": 8, "sliding_window": 8})
decoder("phi", "PhiForCausalLM", (IDS, MASK), {**PLAIN, "partial_rotary_factor": 0.5})
decoder("phi3", "Phi3ForCausalLM", (IDS, MASK), GROUPED)
decoder("falcon", "FalconForCausalLM", (IDS, MASK), {**PLAIN, "alibi": False, "bos_token_id": 1, "eos_token_id": 2})
decoder("falcon-alibi", "FalconModel", (IDS, MASK), {**PLAIN, "alibi": True, "bos_token_id": 1, "eos_token_id": 2})
decoder("stablelm", "StableLmForCausalLM", (IDS, MASK), GROUPED)
decoder("olmo", "OlmoForCausalLM", (IDS, MASK), GROUPED)
decoder("cohere", "CohereForCausalLM", (IDS, MASK), GROUPED)
decoder("granite", "GraniteForCausalLM", (IDS, MASK), GROUPED)
decoder("starcoder2", "Starcoder2ForCausalLM", (IDS, MASK), GROUPED)
decoder(
    "mpt",
    "MptForCausalLM",
    (IDS, MASK),
    {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "use_cache": False},
)
decoder(
    "mamba",
    "MambaForCausalLM",
    (IDS,),
    {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "use_cache": False},
)
decoder(
    "rwkv",
    "RwkvForCausalLM",
    (IDS,),
    {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "attention_hidden_size": 32,
        "num_hidden_layers": 2,
        "context_length": 64,
        "use_cache": False,
    },
)
decoder(
    "gpt-bigcode",
    "GPTBigCodeForSequenceClassification",
    (IDS, MASK),
    {**GPT, "pad_token_id": 0, "multi_query": True},
)
decoder(
    "xglm",
    "XGLMForCausalLM",
    (IDS, MASK),
    {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "num_layers": 2,
        "attention_heads": 4,
        "ffn_dim": 64,
        "max_position_embeddings": 64,
        "use_cache": False,
    },
)
decoder("biogpt", "BioGptForCausalLM", (IDS, MASK), PLAIN)
