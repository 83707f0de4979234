"""Text to token ids, as CLIP reads it: lower-case byte-level BPE whose words end in `</w>`.

In: a folder with vocab.json and merges.txt, optionally tokenizer_config.json and
special_tokens_map.json. Out: ids, and what rows of them need (`prompts.tokenize` makes rows).
Invariant: every text has ids. Errors: SdlError T….

    load_tokenizer(folder / "tokenizer").tokens("rocket")
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from sdlc.language.diagnostics import failure
from sdlc.models.vocabulary import Vocabulary, clip_vocabulary

DEFAULT_LENGTH = 77
CONTRACTIONS = "|".join(f"'{ending}" for ending in ("s", "t", "re", "ve", "m", "ll", "d"))
WORDS = CONTRACTIONS + r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""What CLIP takes for a word: a contraction, letters, one digit, or a run of other signs."""


@dataclass(frozen=True, slots=True)
class ClipTokenizer:
    """`start`, `end` and `padding` are ids; `length` is that of every row."""

    bpe: Tokenizer
    start: int
    end: int
    padding: int
    length: int

    def tokens(self, text: str) -> list[tuple[int, int]]:
        """The id of each token of a text, without start and end, and where in the text it
        begins."""
        encoding = self.bpe.encode(text, add_special_tokens=False)
        return [(i, begin) for i, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True)]


def load_tokenizer(folder: Path, length: int | None = None) -> ClipTokenizer:
    """The tokenizer of a diffusers folder. `length` is the text encoder's; the tokenizer's own
    `model_max_length` counts where it is less."""
    config = _json(folder / "tokenizer_config.json", optional=True)
    vocabulary, merges = _vocabulary(folder, config)
    special = _json(folder / "special_tokens_map.json", optional=True)
    names = {
        role: _content(special.get(role, config.get(role, default)))
        for role, default in (
            ("bos_token", "<|startoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
            ("pad_token", "<|endoftext|>"),
        )
    }
    for role, token in names.items():
        if token not in vocabulary:
            message = f"the {role} `{token}` is not in {folder / 'vocab.json'}"
            raise failure(
                "T002", message, help="the files of a tokenizer folder must belong together"
            )
    longest = min(int(config.get("model_max_length", DEFAULT_LENGTH)), length or DEFAULT_LENGTH)
    return ClipTokenizer(
        _bpe(vocabulary, merges, names["unk_token"], sorted(set(names.values()))),
        vocabulary[names["bos_token"]],
        vocabulary[names["eos_token"]],
        vocabulary[names["pad_token"]],
        longest,
    )


def _bpe(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], unknown: str, special: list[str]
) -> Tokenizer:
    model = models.BPE(vocabulary, merges, unk_token=unknown, end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def _vocabulary(folder: Path, config: dict[str, int]) -> Vocabulary:
    """The vocabulary of a folder; sdlc's own folders name one that is shipped once."""
    if str(config.get("vocabulary", "")) == "clip":
        return clip_vocabulary()
    return _json(folder / "vocab.json"), _merges(folder / "merges.txt")


def _merges(file: Path) -> list[tuple[str, str]]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from None
    pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise _unreadable(file, ValueError("a line does not hold two parts"))
    return [(pair[0], pair[1]) for pair in pairs]


def _json(file: Path, optional: bool = False) -> dict[str, int]:
    if optional and not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None
    if not isinstance(value, dict):
        raise _unreadable(file, ValueError("it does not hold a JSON object"))
    return value


def _unreadable(file: Path, error: Exception) -> Exception:
    reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error)
    help = "a tokenizer folder holds vocab.json and merges.txt of a CLIP tokenizer"
    return failure("T001", f"cannot read {file}: {reason}", help=help)


def _content(token: object) -> str:
    """A special token is written as a string, or as an object with its `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)
