"""WordNet 3.0 glosses as sentence embeddings, 384-d: real text with tenants and headwords.

G. Miller, "WordNet: A Lexical Database for English", CACM 38(11), 1995,
https://doi.org/10.1145/219717.219748. A row is a synset, embedded as "its words: its gloss";
its headword is the first of the words, its tenant the lexical file (noun.food, verb.motion, ...),
whose part before the dot is the part of speech.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from datasets import cache, minilm, sources
from datasets.recipe import Parts, Recipe, Report, hold_out

_PACKAGE = "wordnet-base"
_DATA_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")

# Lexical files by number, lexnames(5WN).
LEXICAL_FILES = (
    *("adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal"),
    *("noun.artifact", "noun.attribute", "noun.body", "noun.cognition", "noun.communication"),
    *("noun.event", "noun.feeling", "noun.food", "noun.group", "noun.location", "noun.motive"),
    *("noun.object", "noun.person", "noun.phenomenon", "noun.plant", "noun.possession"),
    *("noun.process", "noun.quantity", "noun.relation", "noun.shape", "noun.state"),
    *("noun.substance", "noun.time", "verb.body", "verb.change", "verb.cognition"),
    *("verb.communication", "verb.competition", "verb.consumption", "verb.contact"),
    *("verb.creation", "verb.emotion", "verb.motion", "verb.perception", "verb.possession"),
    *("verb.social", "verb.stative", "verb.weather", "adj.ppl"),
)
assert len(LEXICAL_FILES) == 45

_MARKER = re.compile(r"\((a|p|ip)\)$")
"""Syntactic marker of an adjective: attributive, predicative, immediately postnominal."""


def parse_synset(line: str) -> tuple[int, str, str]:
    """Decode a line of a WordNet data file, wndb(5WN).

    Returns
    -------
    lexical_file : int
        Index into `LEXICAL_FILES`.
    headword : str
        The first word, with spaces for underscores.
    text : str
        "word, word: gloss".
    """
    fields, _, gloss = line.partition(" | ")
    parts = fields.split()
    words = [
        _MARKER.sub("", parts[4 + 2 * index]).replace("_", " ")
        for index in range(int(parts[3], 16))
    ]
    return int(parts[1]), words[0], f"{', '.join(words)}: {gloss.strip()}"


def synsets(files: list[Path]) -> list[tuple[int, str, str]]:
    """Decode data files in order; a text that occurs again is dropped."""
    found: dict[str, tuple[int, str, str]] = {}
    for path in files:
        for line in path.read_text(encoding="ascii").splitlines():
            if not line.startswith("  "):  # the licence
                synset = parse_synset(line)
                found.setdefault(synset[2], synset)
    return list(found.values())


def make(report: Report) -> Parts:
    """Read the synsets, embed their texts, and hold queries out."""
    found = [sources.debian_file(_PACKAGE, name) for name in _DATA_FILES]
    rows = synsets([path for path, _ in found])
    tenants = np.array([row[0] for row in rows], dtype=np.int32)
    texts = [row[2] for row in rows]
    stored = cache.root() / "sources" / f"wordnet-minilm-{len(rows)}.npy"
    if not stored.is_file():
        cache.save_array(stored, minilm.embed(texts, report))
    return hold_out(
        np.load(stored, mmap_mode="r"),
        {"tenants": tenants, "words": [row[1] for row in rows], "texts": texts},
        tenant_names=LEXICAL_FILES,
        sources=[found[0][1], *minilm.versions()],
    )


RECIPE = Recipe(
    name="wordnet",
    metric="cosine",
    title="WordNet glosses in MiniLM, 384-d",
    licence="WordNet 3.0; model Apache-2.0, tokenizer MIT",
    make=make,
)
