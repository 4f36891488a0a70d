"""The recipes by name; importing them needs none of their sources."""

from __future__ import annotations

from datasets import fashion, glove, sift, wordnet
from datasets.errors import UnknownDataset
from datasets.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        glove.RECIPE,
        fashion.RECIPE,
        sift.RECIPE,
        sift.RECIPE_SAMPLE,
        wordnet.RECIPE,
    )
}


def names() -> tuple[str, ...]:
    """Return the names of all sets, prepared or not."""
    return tuple(RECIPES)


def find(name: str) -> Recipe:
    """Return the recipe of a set; raises `UnknownDataset`, naming those that exist."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownDataset(name, names()) from None
