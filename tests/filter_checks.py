"""Random metadata and random filters, built so that they meet: few fields, few values."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

FIELDS = ["", "a", "b", "ü", "$c", "a.b"]
TEXTS = ["", "a", "ab", "b", "ba", "é", "\uffff", "\U00010000", "\x00", "zz"]
texts = st.sampled_from(TEXTS)
EDGES = [0, -0.0, 1, 1.0, -1, 0.5, 1e308, 5e-324, -(2**53) - 1, -(2**63)]
EDGES += [2**53, 2**53 + 1, 2**53 + 2, float(2**53), 2**63 - 1, 2**63, float(2**63)]
EDGES += [2**64 - 2, 2**64 - 1, float(2**64)]
numbers = st.sampled_from(EDGES)
wild_numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
wild_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts, wild_numbers, wild_texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=2)),
    max_leaves=6,
)
rows = st.one_of(st.none(), st.dictionaries(st.sampled_from(FIELDS), values, max_size=4))

huge = st.sampled_from([10**30, -(10**30), 10**400, -(10**400), 2**64, 2**64 + 1])
operands = st.one_of(values, huge)
orderable = st.one_of(scalars, huge)
_OPERANDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["$eq", "$ne", "$contains"], operands),
    **dict.fromkeys(["$gt", "$gte", "$lt", "$lte"], orderable),
    **dict.fromkeys(["$in", "$nin"], st.lists(operands, max_size=4)),
    "$exists": st.booleans(),
}


@st.composite
def field_operators(draw: st.DrawFn, depth: int = 2) -> dict[str, Any]:
    names = draw(
        st.lists(
            st.sampled_from([*_OPERANDS, *(["$not"] if depth else [])]),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    return {
        name: draw(field_operators(depth - 1) if name == "$not" else _OPERANDS[name])
        for name in names
    }


fields = st.sampled_from([field for field in FIELDS if not field.startswith("$")])
conditions = st.dictionaries(
    fields,
    st.one_of(values.filter(lambda value: not isinstance(value, dict)), field_operators()),
    max_size=2,
)
wheres = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
        st.fixed_dictionaries({"$not": inner, "a": operands.filter(lambda x: type(x) is not dict)}),
    ),
    max_leaves=5,
)
