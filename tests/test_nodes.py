from planner.nodes import (
    ONCE,
    TOKENS,
    Embedding,
    Linear,
    Module,
    Norm,
    Repeat,
    Stack,
    Stream,
    Tied,
    walk,
)

LEAF = Linear(in_features=2, out_features=3)


def test_paths_join_names_with_dots() -> None:
    tree = Module(children={"a": Module(children={"b": LEAF, "": Norm(dim=2)})})
    assert [row.path for row in walk(tree)] == ["a.b", "a"]


def test_a_repeated_block_is_one_row_with_its_copies() -> None:
    tree = Module(children={"layers": Repeat(child=Module(children={"up": LEAF}), count=3, indices=range(3))})
    (row,) = walk(tree)
    assert (row.path, row.copies) == ("layers.*.up", 3)
    assert list(row.real_paths()) == ["layers.0.up", "layers.1.up", "layers.2.up"]


def test_nested_repeats_multiply() -> None:
    inner = Repeat(child=LEAF, count=2, indices=range(2))
    tree = Module(children={"outer": Repeat(child=Module(children={"inner": inner}), count=2, indices=(1, 3))})
    (row,) = walk(tree)
    assert row.copies == 4
    assert list(row.real_paths()) == ["outer.1.inner.0", "outer.1.inner.1", "outer.3.inner.0", "outer.3.inner.1"]


def test_a_block_that_is_repeated_no_times_stands_nowhere() -> None:
    (row,) = walk(Module(children={"h": Repeat(child=LEAF, count=0, indices=range(0))}))
    assert list(row.real_paths()) == []


def test_a_stack_keeps_the_places_of_its_kinds() -> None:
    parts = (Repeat(child=LEAF, count=1, indices=(1,)), Repeat(child=Norm(dim=2), count=2, indices=(0, 2)))
    rows = list(walk(Module(children={"h": Stack(parts=parts)})))
    assert [list(row.real_paths()) for row in rows] == [["h.1"], ["h.0", "h.2"]]


def test_the_nearest_bucket_and_stream_hold() -> None:
    inner = Module(children={"x": LEAF, "n": Norm(dim=2), "own": Linear(in_features=1, out_features=1, bucket="c")})
    tree = Module(children={"m": Module(children={"i": inner}, bucket="b", stream=ONCE)}, bucket="a")
    assert [(row.bucket, row.stream) for row in walk(tree)] == [("b", ONCE), ("norms", ONCE), ("c", ONCE)]


def test_a_row_without_bucket_and_stream_is_miscellaneous_tokens() -> None:
    (row,) = walk(Module(children={"x": LEAF}))
    assert (row.bucket, row.stream) == ("other.misc", TOKENS)


def test_a_tower_prefixes_its_buckets() -> None:
    tree = Module(children={"v": Module(children={"x": LEAF}, bucket="mlp", tower="vision")})
    assert [row.bucket for row in walk(tree)] == ["vision.mlp"]


def test_a_tied_module_names_whose_weight_it_uses() -> None:
    table = Embedding(num_embeddings=3, embedding_dim=2)
    rows = list(walk(Module(children={"t": table, "head": Tied(module=LEAF, to="t")})))
    assert [row.tied_to for row in rows] == [None, "t"]


def test_a_leaf_may_have_a_stream_of_its_own() -> None:
    patches = Stream(kind="sample", per_sample=196)
    (row,) = walk(Module(children={"x": Linear(in_features=1, out_features=1, stream=patches)}))
    assert row.stream == patches
