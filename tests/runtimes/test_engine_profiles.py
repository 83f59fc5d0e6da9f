"""The shapes that engines take, from manifests and from shape options."""

from __future__ import annotations

import msgspec
import pytest

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.trt.profiles import GivenShapes, bundle_profiles, parse_shapes, plain_profile
from tests.conftest import Exported


@pytest.fixture
def bundle(exported: Exported) -> Bundle:
    return exported("llama", target="portable", logits="last")


def test_profiles_follow_the_manifest(bundle: Bundle) -> None:
    profiles = bundle_profiles(msgspec.structs.replace(bundle.manifest, capacity=4096))
    assert list(profiles) == ["prefill", "decode"]
    assert profiles["prefill"]["input_ids"] == ((1, 1), (1, 512), (4, 2048))
    assert profiles["decode"]["input_ids"] == ((1, 1), (1, 1), (4, 1))
    for profile in profiles.values():
        assert set(profile) == {spec.name for spec in bundle.manifest.inputs}
        assert profile["seq_lens"] == ((1,), (1,), (4,))
        low, best, high = profile["past_key_values.0.key"]
        assert (low[2], best[2], high[2]) == (1, 4096, 4096)
        assert low[1:2] + low[3:] == high[1:2] + high[3:]
    short = bundle_profiles(bundle.manifest)["prefill"]["input_ids"]
    assert short == ((1, 1), (1, 64), (4, 64)), "a capacity of 64"


def test_given_shapes_set_their_axes_everywhere(bundle: Bundle) -> None:
    given = GivenShapes(opt={"input_ids": (2, 16)}, max={"input_ids": (8, 32), "past_key_values.1.key": (8, 1, 48, 8)})
    profiles = bundle_profiles(bundle.manifest, given)
    assert profiles["prefill"]["input_ids"] == ((1, 1), (2, 16), (8, 32))
    assert profiles["decode"]["input_ids"] == ((1, 1), (2, 1), (8, 1))
    assert profiles["decode"]["past_key_values.0.value"] == ((1, 1, 1, 8), (2, 1, 48, 8), (8, 1, 48, 8))
    fixed = bundle_profiles(bundle.manifest, GivenShapes(*[{"input_ids": (3, 8)}] * 3))["prefill"]
    assert fixed["input_ids"] == ((3, 8),) * 3
    assert fixed["past_lens"] == ((3,),) * 3
    small = bundle_profiles(bundle.manifest, GivenShapes(max={"input_ids": (1, 4)}))["prefill"]["input_ids"]
    assert small == ((1, 1), (1, 4), (1, 4))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (GivenShapes(max={"x": (1,)}), "--maxShapes x: the graph's inputs are input_ids, "),
        (GivenShapes(max={"input_ids": (1,)}), "--maxShapes input_ids:1: the input's shape is batchxseq"),
        (GivenShapes(opt={"past_key_values.0.key": (1, 3, 8, 8)}), "the input's shape is batchx1xmax_lenx8"),
        (GivenShapes(max={"input_ids": (2, 8), "seq_lens": (3,)}), "another shape of --maxShapes has a batch of 2"),
        (GivenShapes(min={"input_ids": (4, 8)}, max={"input_ids": (2, 8)}), "batch: 4 of --minShapes"),
        (GivenShapes(max={"input_ids": (1, 65)}), "seq of 65, and the bundle's capacity is 64 tokens"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(given: GivenShapes, message: str, bundle: Bundle) -> None:
    with pytest.raises(UserError) as refused:
        bundle_profiles(bundle.manifest, given)
    assert message in str(refused.value)


def test_shapes_are_spelled_as_in_trtexec() -> None:
    assert parse_shapes("--maxShapes", None) == {}
    assert parse_shapes("--maxShapes", "input_ids:4x128,a:b:2") == {"input_ids": (4, 128), "a:b": (2,)}
    for text in ("input_ids", "input_ids:", ":1", "a:0x1", "a:1x", "a:-1", "a:1,a:2", ",", "a:1xx2"):
        with pytest.raises(UserError, match=r"--maxShapes .*: expected each input once"):
            parse_shapes("--maxShapes", text)


def test_a_foreign_graph_needs_a_shape_for_what_a_call_chooses() -> None:
    inputs = {"x": (-1, 3), "y": (2,)}
    given = GivenShapes(min={"x": (1, 3)}, max={"x": (8, 3)})
    assert plain_profile(inputs, given) == {"x": ((1, 3), (8, 3), (8, 3)), "y": ((2,),) * 3}
    with pytest.raises(UserError, match=r"input x has the shape -1x3.*--optShapes x:"):
        plain_profile(inputs, GivenShapes())
    with pytest.raises(UserError, match="--optShapes y: the graph's inputs are x:-1x3, y:2"):
        plain_profile(inputs, GivenShapes(opt={"x": (1, 3), "y": (3,)}))
