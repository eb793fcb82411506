"""Encoders of text: BERT and what came of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from zoo_architectures import IDS, MASK, SMALL, TYPES, VOCABULARY, architecture
from zoo_case import Axis, Feeds, Input, Sizes, draw, i64

encoder = partial(architecture, "text encoder")
MASKED = (IDS, MASK)
POSITIONED = {**SMALL, "max_position_embeddings": 80}


BOXES = i64("bbox", "batch", "sequence", 4, below=100)


def _with_boxes(sizes: Sizes, rng: np.random.Generator) -> Feeds:
    """Boxes as (left, top, right, bottom), of which the first two are less than the last two."""
    feeds = {spec.name: draw(spec, sizes, rng) for spec in (IDS, BOXES, MASK)}
    corners = feeds["bbox"].reshape(*feeds["bbox"].shape[:2], 2, 2)
    return {**feeds, "bbox": np.sort(corners, axis=2).reshape(feeds["bbox"].shape)}


encoder("bert", "BertModel", (IDS, TYPES, MASK), SMALL)
encoder("bert-for-classification", "BertForSequenceClassification", (IDS, MASK, TYPES), {**SMALL, "num_labels": 5})
encoder("minilm", "BertModel", MASKED, {**SMALL, "hidden_size": 48, "num_attention_heads": 12})
encoder("roberta", "RobertaModel", MASKED, POSITIONED)
encoder("roberta-tagger", "RobertaForTokenClassification", MASKED, POSITIONED)
encoder("xlm-roberta", "XLMRobertaModel", MASKED, POSITIONED)
encoder("camembert", "CamembertForMaskedLM", MASKED, POSITIONED)
encoder(
    "distilbert",
    "DistilBertModel",
    MASKED,
    {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
)
encoder("albert", "AlbertModel", MASKED, {**SMALL, "embedding_size": 16})
encoder("electra", "ElectraModel", MASKED, {**SMALL, "embedding_size": 16})
DEBERTA: dict[str, Any] = {
    **SMALL,
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
encoder("deberta-v2", "DebertaV2Model", MASKED, DEBERTA)
encoder("mpnet", "MPNetModel", MASKED, POSITIONED)
encoder(
    "longformer",
    "LongformerModel",
    MASKED,
    {**POSITIONED, "attention_window": [8, 8]},
    axes=(Axis("sequence", 8, 16, 32, step=8),),
)
encoder("big-bird", "BigBirdModel", MASKED, {**SMALL, "attention_type": "original_full"})
encoder(
    "funnel",
    "FunnelModel",
    MASKED,
    {
        "vocab_size": VOCABULARY,
        "block_sizes": [1, 1],
        "num_decoder_layers": 1,
        "d_model": 32,
        "n_head": 4,
        "d_head": 8,
        "d_inner": 64,
    },
)
encoder("fnet", "FNetModel", (IDS, TYPES), {**SMALL, "use_tpu_fourier_optimizations": False})
encoder(
    "layoutlm",
    "LayoutLMModel",
    (IDS, BOXES, MASK),
    {**SMALL, "max_2d_position_embeddings": 128},
    sample=_with_boxes,
)
encoder(
    "lilt",
    "LiltModel",
    (IDS, BOXES, MASK),
    {**POSITIONED, "max_2d_position_embeddings": 128, "channel_shrink_ratio": 4, "hidden_size": 48},
    sample=_with_boxes,
)
encoder("convbert", "ConvBertModel", MASKED, {**SMALL, "embedding_size": 32, "conv_kernel_size": 3})
encoder(
    "mobilebert",
    "MobileBertModel",
    MASKED,
    {**SMALL, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32, "num_feedforward_networks": 2},
)
encoder("squeezebert", "SqueezeBertModel", MASKED, {**SMALL, "embedding_size": 32})
encoder("rembert", "RemBertModel", MASKED, {**SMALL, "input_embedding_size": 16, "output_embedding_size": 16})
encoder(
    "modernbert",
    "ModernBertModel",
    MASKED,
    {**SMALL, "local_attention": 8, "global_attn_every_n_layers": 2, "pad_token_id": 0},
)
encoder("nomic-bert", "NomicBertModel", MASKED, SMALL)
encoder(
    "xlnet",
    "XLNetModel",
    MASKED,
    {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "use_mems_eval": False},
)
encoder("nystromformer", "NystromformerModel", MASKED, {**SMALL, "num_landmarks": 8, "segment_means_seq_len": 8})
encoder("roformer", "RoFormerModel", MASKED, SMALL)
encoder("ernie", "ErnieModel", MASKED, SMALL)
encoder("esm", "EsmModel", MASKED, {**POSITIONED, "position_embedding_type": "rotary", "pad_token_id": 1})
encoder("canine", "CanineModel", MASKED, {**SMALL, "num_hash_buckets": 64, "downsampling_rate": 4})
encoder("dpr-question", "DPRQuestionEncoder", MASKED, SMALL)
encoder("megatron-bert", "MegatronBertForQuestionAnswering", MASKED, SMALL)
encoder("ibert", "IBertModel", MASKED, POSITIONED)
encoder(
    "bros",
    "BrosModel",
    (IDS, Input("bbox", "float32", ("batch", "sequence", 4), (0, 1)), MASK),
    {**SMALL, "hidden_size": 64},
)
