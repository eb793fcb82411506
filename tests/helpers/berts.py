"""Tiny random networks of transformers, with tokenizers, as folders."""

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

WORDS = ("the", "a", "of", "who", "wrote", "it", "book", "is", "not", "good", "bad", "very", "and", "old", "new", "red")
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *dict.fromkeys(WORDS),
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
    *"abcdefghijklmnopqrstuvwxyz.,?!'",
]
HEADS = ("QuestionAnswering", "SequenceClassification", "TokenClassification", "MaskedLM", "")

_COMMON = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40, "pad_token_id": 0}
_SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
_FROM_ONE = {"pad_token_id": 1, "max_position_embeddings": 42}
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "share_att_key": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
}
KINDS = {
    "bert": {**_COMMON, **_SIZES},
    "roberta": {**_COMMON, **_SIZES, **_FROM_ONE},
    "xlm-roberta": {**_COMMON, **_SIZES, **_FROM_ONE},
    "distilbert": {**_COMMON, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40},
    "electra": {**_COMMON, **_SIZES, "embedding_size": 16},
    "mpnet": {**_COMMON, **_SIZES, **_FROM_ONE},
    "deberta-v2": {**_COMMON, **_SIZES, **RELATIVE},
}


def network(kind, head="", seed=0, **config):
    """A network of transformers whose answers carry a signal."""
    made = transformers.CONFIG_MAPPING[kind](**{**KINDS[kind], **config})
    auto = getattr(transformers, f"AutoModelFor{head}" if head else "AutoModel")
    torch.manual_seed(seed)
    found = auto.from_config(made)
    for name, parameter in found.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return found.eval()


def tokenizer(vocabulary=VOCABULARY, **said):
    """BERT's tokenizer with a vocabulary of its own."""
    return transformers.BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, **said)


def write(folder, kind="bert", head="", model=None, **config):
    """Save a network and its tokenizer as transformers does; returns the folder."""
    model = network(kind, head, **config) if model is None else model
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def trained(kind, texts):
    """A tokenizer of the tokenizers library that is trained on texts, and transformers' around it."""
    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    if kind == "wordpiece":
        found = Tokenizer(models.WordPiece(unk_token="<unk>"))
        found.normalizer, found.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    elif kind == "bpe":
        found = Tokenizer(models.BPE())
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        found = Tokenizer(models.Unigram())
        found.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        found.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    found.train_from_iterator(texts, trainer)
    start, end = (found.token_to_id(token) for token in ("<s>", "</s>"))
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", start), ("</s>", end)]
    )
    names = {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": "<mask>",
    }
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, model_max_length=40, **names)
