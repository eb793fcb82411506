"""Tokenizers that are trained here, a bundle without a graph that answers questions, and its session in NumPy."""

import functools

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LINES = [
    "Ada wrote the first program in 1815 .",
    "the river runs by the mill , and Ada wrote of the river ?",
    "谁写了它 ？ 艾达写了这本书 。",
    "Élan é-ö ä ü !",
] * 4
TRAINED = ("wordpiece", "bytes", "unigram")


@functools.cache
def trained(kind):
    """A tokenizer.json of a kind: WordPiece as BERT has it, byte-level BPE as RoBERTa, Unigram as XLM-R."""
    around = [("[CLS]", 2), ("[SEP]", 3)]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
        tokenizer.train_from_iterator(LINES, trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
        )
    elif kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(LINES, trainer)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
        )
        tokenizer.train_from_iterator(LINES, trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=around
        )
    return tokenizer.to_str()
