"""Degrees of parallelism and the layers of pipeline stages."""

from typing import Any

import pytest

from planner.errors import PlannerError
from planner.parallelism import Parallelism, even_split, pipeline_stages


def test_devices_are_the_product_of_all_but_expert_degrees() -> None:
    # 8 * 4 * 2 * 16; experts share the data-parallel ranks
    assert Parallelism(tp=8, pp=4, cp=2, dp=16, ep=8).devices == 1024


def test_experts_are_sharded_over_what_expert_parallelism_leaves() -> None:
    # 16 dp x 2 tp = 32 ranks of a stage; ep 8 x etp 1 = 8 of them hold different experts, so 4 share each
    assert Parallelism(tp=2, dp=16, ep=8, etp=1).expert_shard_ranks == 4
    # context-parallel ranks divide what is sharded as well
    assert Parallelism(dp=4, cp=2).shard_ranks == 8


def test_hsdp_shards_within_its_group_only() -> None:
    assert Parallelism(dp=64, shard=8).shard_ranks == 8


@pytest.mark.parametrize("name", ["tp", "pp", "dp", "cp", "ep", "etp", "vp", "shard"])
def test_a_degree_of_nought_is_refused(name: str) -> None:
    degrees: dict[str, Any] = {name: 0}
    with pytest.raises(PlannerError, match=f"{name}: must be at least 1"):
        Parallelism(**degrees)


def test_virtual_stages_need_a_pipeline() -> None:
    with pytest.raises(PlannerError, match="need several pipeline stages"):
        Parallelism(vp=2)


def test_a_stage_holds_every_pp_th_chunk() -> None:
    stages = pipeline_stages(16, 4, vp=2)
    assert stages[1].layers == (2, 3, 10, 11)
    assert [stage.first for stage in stages] == [True, False, False, False]
    assert [stage.last for stage in stages] == [False, False, False, True]
    assert sorted(layer for stage in stages for layer in stage.layers or ()) == list(range(16))


def test_an_uneven_split_is_taken_as_stated() -> None:
    assert [stage.layers for stage in pipeline_stages(5, 2, split=(2, 3))] == [(0, 1), (2, 3, 4)]
    with pytest.raises(PlannerError, match="expected 2 and 6"):
        pipeline_stages(6, 2, split=(2, 3))


def test_more_chunks_than_layers_cannot_be() -> None:
    with pytest.raises(PlannerError, match=r"16 pipeline chunks \(pp 4 x vp 4\) for 12 layers"):
        pipeline_stages(12, 4, vp=4)


def test_layers_that_do_not_divide_go_to_the_first_parts() -> None:
    assert even_split(94, 4) == (24, 24, 23, 23)
