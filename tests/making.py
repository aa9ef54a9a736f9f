"""Rows and files that tests make, and the oracles that judge them without the code under test."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

Row = dict[str, Any]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def pair(opening: str = "How?", chosen: str = "good", rejected: str = "bad", *, after: tuple = (), **more: Any) -> Row:
    """A row of kat's own format; `after` are the messages that follow the opening."""
    return {
        "prefix": {"messages": [turn("user", opening), *after]},
        "chosen": chosen,
        "rejected": rejected,
        **more,
    }


def hh(*turns: tuple[str, str]) -> str:
    """HH text: hh(("Human", "hi"), ("Assistant", "hello"))."""
    return "".join(f"\n\n{who}: {text}" for who, text in turns)


def jsonl(*rows: Any, end: str = "\n") -> bytes:
    """Rows as JSON lines; text and bytes are taken as lines that are there already."""
    parts = []
    for row in rows:
        if isinstance(row, bytes):
            parts.append(row)
        else:
            parts.append((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)).encode("utf-8"))
        parts.append(end.encode())
    return b"".join(parts)


def zstd(data: bytes) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def read_prompts(path: Path, *more: Any, **options: Any) -> Any:
    """The prompts of a file, all of them: `prefixes`, their `ids`, and what the file counted."""
    from kat.data.prompts import PromptFile

    file = PromptFile(path, *more, **options)
    return SimpleNamespace(prefixes=list(file), ids=list(file.ids()), bad=file.bad, made_ids=file.made_ids)


def write(path: Path, data: bytes) -> Path:
    """Bytes to a file, compressed as its name says."""
    packed = {".gz": gzip.compress, ".zst": zstd}.get(path.suffix, bytes)(data)
    path.write_bytes(packed)
    return path


def md5_id(opening: str) -> str:
    """The contract's id of an opening, in the contract's own words."""
    collapsed = re.sub(r"\s+", " ", opening).strip()
    return hashlib.md5(collapsed.encode("utf-8")).hexdigest()[:16]


def kept_prefix(prefixes: list[list[Row]]) -> list[Row]:
    """Fewest messages, then fewest bytes of content, then smallest bytes of content: by sorting them all."""

    def rank(messages: list[Row]):
        content = "".join(m["content"] for m in messages).encode("utf-8")
        return len(messages), len(content), content

    return sorted(prefixes, key=rank)[0]


def random_text(rng: Random, most: int = 12) -> str:
    """Text that holds no HH turn and is not white space; plain and odd characters."""
    odd = "abcxyz    \t\n\u00a0\u2019\u201c\u201dé漢😀\u2028\u0000\\\"'{}"
    return "w" + "".join(rng.choice(odd) for _ in range(rng.randint(0, most)))


def read_jsonl(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def tiny(folder, family: str, **more):
    """A random model of a family, saved with a word-level tokenizer."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {w: i for i, w in enumerate(["[UNK]", "[PAD]", *(f"w{i}" for i in range(98))])}
    backend = Tokenizer(models.WordLevel(words, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=100, **sizes | more)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def vouch(output, **changes):
    """Let the manifest of an output say what its files hold now, and `changes` beside it, as whoever wrote it could."""
    from kat.artifacts import manifest_bytes, manifest_path
    from kat.digests import sha256_file

    value = json.loads(manifest_path(output).read_bytes()) | changes
    value.pop("manifest_sha256", None)
    folder = output if output.is_dir() else output.parent
    value["outputs"] = {name: sha256_file(folder / name) for name in value["outputs"]}
    manifest_path(output).unlink()  # not in place: a copy may share it
    manifest_path(output).write_bytes(manifest_bytes(value))
    return output
