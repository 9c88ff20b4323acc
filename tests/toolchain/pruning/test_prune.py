"""Pruning: what is cut is exactly what is silenced; ranks, masks, tied blocks, and the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from training_runs import of_scale  # noqa: E402

from teco.core.errors import TecoError  # noqa: E402
from teco.model.weights_digest import weights_digest  # noqa: E402
from teco.pruning.structured import (  # noqa: E402
    ClipSensitivity,
    PruneError,
    PruneOptions,
    clip_sensitivity,
    masks_path,
    prune,
    verify,
)
from teco_models.arch.generator import Generator  # noqa: E402
from teco_models.checkpoint import (  # noqa: E402
    Weights,
    build,
    build_any,
    generator_of,
    infer,
    load_weights,
    save_weights,
    write_tensors,
)
from teco_models.compress.prune import (  # noqa: E402
    PruneReport,
    RemovedBlock,
    first_blocks,
    groups_of,
    importance,
    prune_blocks,
    prune_channels,
    rank_blocks,
    silence,
)
from teco_models.compress.sharing import SHARED, parse_pattern, runs, share_blocks, tie_blocks  # noqa: E402
from teco_models.compress.sparsity import (  # noqa: E402
    SparsityReport,
    apply_masks,
    load_masks,
    magnitude_masks,
    masked,
    rewind,
    save_masks,
)
from teco_models.errors import ModelError  # noqa: E402
from teco_models.variant import Variant  # noqa: E402


def weights_of(variant: Variant, seed: int = 0) -> Weights:
    """Random weights, biases included, so that a forgotten bias shows."""
    torch.manual_seed(seed)
    generator = generator_of(variant)
    with torch.no_grad():
        for name, value in generator.named_parameters():
            if name.endswith("bias"):
                value.uniform_(-0.3, 0.3)
    return infer(generator.state_dict(), source="random")


SMALL = Variant(blocks=3, channels=8, flow_channels=4, tail="shuffle")


def run(generator: Generator, frames: int = 4, size: tuple[int, int] = (9, 17)) -> Tensor:
    """Recurrent outputs on frames that move."""
    torch.manual_seed(7)
    h, w = size
    scene = torch.rand(1, 3, h, w + frames)
    lr = scene[..., :w]
    state = generator.initial_state(lr)
    pictures: list[Tensor] = []
    with torch.inference_mode():
        for t in range(frames):
            picture, state = generator.advance(scene[..., t : t + w].contiguous(), state)
            pictures.append(picture)
    return torch.stack(pictures)


def mute(generator: Generator, layer: str, gone: Sequence[int]) -> None:
    """Zero channels of a layer's output as it runs; knows nothing of pruning's table."""

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, list(gone)] = 0
        return output

    generator.get_submodule(layer).register_forward_hook(hook)


# --- structured ------------------------------------------------------------------------------


@st.composite
def cuts(draw: st.DrawFn, tail: str, flow: bool) -> tuple[Variant, list[int], int, int | None, int]:
    """A variant, the blocks to keep, the widths to keep and a seed."""
    unit = 16 if tail == "egvsr" else 1
    units = draw(st.integers(2, 3 if tail == "egvsr" else 9))
    blocks = draw(st.integers(1, 4))
    variant = Variant(
        blocks=blocks,
        channels=unit * units,
        flow_channels=draw(st.integers(2, 5)) if flow else 0,
        tail=tail,
        degradation=draw(st.sampled_from(("bd", "bi"))) if tail != "egvsr" else "bd",
        flow_norm=draw(st.sampled_from(("pair", "raw"))) if flow else "pair",
    )
    if flow and variant.degradation == "bd":
        variant = replace(variant, back_projection=draw(st.booleans()))
        variant = replace(variant, lucas_kanade=draw(st.booleans()))
    keep = draw(st.sets(st.integers(0, blocks - 1), min_size=1))
    channels = unit * draw(st.integers(1, units))
    flow_channels = draw(st.integers(1, variant.flow_channels)) if flow else None
    return variant, sorted(keep), channels, flow_channels, draw(st.integers(0, 1000))


@pytest.mark.parametrize("flow", [True, False], ids=["flow", "latent"])
@pytest.mark.parametrize("tail", ["transposed", "shuffle", "egvsr"])
@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_cut_network_is_the_large_one_with_the_rest_silenced(
    tail: str, flow: bool, data: st.DataObject
) -> None:
    variant, keep, channels, flow_channels, seed = data.draw(cuts(tail, flow))
    whole = weights_of(variant, seed)
    fewer = prune_blocks(whole, keep)
    narrow = prune_channels(fewer.weights, channels=channels, flow_channels=flow_channels)
    assert narrow.weights.variant.blocks == len(keep)
    assert narrow.weights.variant.channels == channels
    # The large network, silenced as it runs.
    muted = build(whole)
    run_of = 16 if tail == "egvsr" else 1
    for i in set(range(variant.blocks)) - set(keep):
        mute(muted, f"srnet.resblocks.{i}.conv", range(variant.channels))
    for group in groups_of(fewer.weights.variant):
        units = narrow.cut.units.get(group.name, range(group.units))
        gone = sorted(set(range(group.units)) - set(units))
        if group.name == "srnet.stream":
            channels_gone = [u * run_of + i for u in gone for i in range(run_of)]
            mute(muted, "srnet.conv_in.0", channels_gone)
            for i in keep:
                mute(muted, f"srnet.resblocks.{i}.conv", channels_gone)
            continue
        layer = group.name
        if layer.startswith("srnet.resblocks."):
            layer = f"srnet.resblocks.{keep[int(layer.split('.')[2])]}.conv.0"
        mute(muted, layer, gone)
    small = run(build(narrow.weights))
    expected = run(muted)
    tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
    assert (small - expected).abs().max() <= tolerance
    # And so does the restatement that `teco prune` verifies with.
    silenced = silence(whole, fewer.cut)
    assert (run(build(silenced)) - run(build(fewer.weights))).abs().max() <= tolerance
    assert verify(fewer.weights, narrow.cut, narrow.weights) < 1e-4
    # Shapes say what the variant says, as for any file.
    assert infer(narrow.weights.tensors, source="x").variant == narrow.weights.variant


@pytest.mark.parametrize("variant", [
    Variant(blocks=2, channels=8, flow_channels=4),
    Variant(blocks=2, channels=32, flow_channels=4, tail="egvsr"),
    Variant(blocks=1, channels=8, flow_channels=0, tail="shuffle"),
], ids=lambda v: v.name)  # fmt: skip
@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_dead_channels_are_found_and_cost_nothing(variant: Variant, criterion: str) -> None:
    """Some channels of each group are silenced at random: exactly those must go."""
    whole = weights_of(variant)
    target = Variant.parse(variant.name.replace(f"c{variant.channels}", f"c{variant.channels // 2}")
                           .replace("f4", "f2"))  # fmt: skip
    left = {group.name: group.units for group in groups_of(target)}
    rng = np.random.default_rng(3)
    tensors = {k: v.clone() for k, v in whole.tensors.items()}
    expected: dict[str, tuple[int, ...]] = {}
    for group in groups_of(variant):
        alive = sorted(rng.permutation(group.units)[: left[group.name]].tolist())
        expected[group.name] = tuple(alive)
        run_of = group.slots[0].run
        dead = [u * run_of + i for u in set(range(group.units)) - set(alive) for i in range(run_of)]
        for slot in group.slots:
            if slot.writes:
                tensors[slot.key].index_fill_(slot.axis, torch.tensor(dead), 0.0)
    silenced = infer(tensors, source="x")
    pruned = prune_channels(
        silenced,
        channels=target.channels,
        flow_channels=target.flow_channels or None,
        criterion=criterion,
    )
    assert pruned.cut.units == expected
    assert all(g.kept == pytest.approx(1) for g in pruned.report.channels)
    assert (run(build(pruned.weights)) - run(build(silenced))).abs().max() < 1e-5


COMPUTED = (
    Variant.aligned(blocks=3, channels=8, latent=4),
    Variant.aligned(degradation="bd", blocks=3, channels=8, latent=0),
    Variant.aligned(blocks=3, channels=8, latent=3, masks=4, half_channels=12, scale=2),
)


@pytest.mark.parametrize("variant", COMPUTED, ids=lambda v: v.name)
def test_computed_alignment_is_cut_as_it_is_silenced(variant: Variant) -> None:
    whole = weights_of(variant)
    fewer = prune_blocks(whole, [0, 2])
    narrow = prune_channels(fewer.weights, channels=5)
    assert narrow.weights.variant == replace(variant, blocks=2, channels=5)
    assert infer(narrow.weights.tensors, source="x").variant == narrow.weights.variant
    muted = build_any(whole)
    mute(muted, "body.1.second", range(variant.half_channels or variant.channels))
    gone = {
        g.name: sorted(set(range(g.units)) - set(narrow.cut.units.get(g.name, range(g.units))))
        for g in groups_of(fewer.weights.variant)
    }
    stream = gone["head" if variant.half_channels else "body.stream"]
    assert len(stream) == 3
    mute(muted, "head", stream)
    if variant.half_channels:
        mute(muted, "up", [4 * c + i for c in stream for i in range(4)])
    else:
        for i in (0, 2):
            mute(muted, f"body.{i}.second", stream)
            mute(muted, f"body.{i}.first", gone[f"body.{(0, 2).index(i)}.first"])
    small, expected = run(build_any(narrow.weights)), run(muted)
    assert (small - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert verify(whole, fewer.cut, fewer.weights) < 1e-4
    assert verify(fewer.weights, narrow.cut, narrow.weights) < 1e-4


def test_a_network_for_ordinary_clips_is_cut_by_the_command(tmp_path, teco) -> None:
    out = tmp_path / "a.safetensors"
    done = teco("prune", "real-cpu", "--blocks", 2, "--channels", 24, "-o", out)
    assert done.code == 0, done.stderr
    assert load_weights(out).variant.name == "teco-x4-b2-c24-l14-real"
    for asked in (("--share-blocks", 1), ("--sparsity", 0.5)):
        teco("prune", "real-cpu", *asked, "-o", tmp_path / "b.safetensors").refuses(
            2, "computes its alignment", "--blocks"
        )
    budget = ("--target-ms", 20, "--runtime", "pytorch")
    teco("prune", "real-cpu", *budget).refuses(2, "cost model", "--channels")
    teco("prune", "real-cpu", "--flow-channels", 8).refuses(2, "flow_channels")


def test_every_convolution_is_in_the_table() -> None:
    """Each input and output of each layer is cut, but for frames, pictures and flow."""
    for variant in (SMALL, Variant(blocks=2), Variant(channels=32, tail="egvsr", flow_channels=0)):
        whole = weights_of(Variant.parse(variant.name))
        cut = {(s.key, s.axis) for g in groups_of(variant) for s in g.slots}
        every = {(k, a) for k, v in whole.tensors.items() if v.ndim == 4 for a in (0, 1)}
        every |= {(k, 0) for k in whole.tensors if k.endswith(".bias")}
        last = "conv_shuffle" if variant.tail == "shuffle" else "conv_out"
        fixed = {(f"srnet.{last}.weight", 0), (f"srnet.{last}.bias", 0)}
        if variant.has_flow:
            fixed |= {("srnet.conv_in.0.weight", 1), ("fnet.encoder1.0.weight", 1)}
            fixed |= {("fnet.flow.2.weight", 0), ("fnet.flow.2.bias", 0)}
        assert every - cut == fixed


def test_importance_is_the_product_of_norms_by_hand() -> None:
    whole = weights_of(SMALL)
    group = next(g for g in groups_of(SMALL) if g.name == "srnet.resblocks.1.conv.0")
    block = {k: whole.tensors[f"srnet.resblocks.1.conv.{k}"] for k in ("0.weight", "0.bias")}
    reads = whole.tensors["srnet.resblocks.1.conv.2.weight"]
    for u, (l1, l2) in enumerate(
        zip(importance(whole, group, "l1"), importance(whole, group, "l2"), strict=True)
    ):
        makes = [*block["0.weight"][u].flatten().tolist(), float(block["0.bias"][u])]
        takes = reads[:, u].flatten().tolist()
        assert float(l1) == pytest.approx(sum(map(abs, makes)) * sum(map(abs, takes)), rel=1e-4)
        squares = sum(x * x for x in makes) * sum(x * x for x in takes)
        assert float(l2) == pytest.approx(squares**0.5, rel=1e-4)


def test_importance_does_not_change_with_a_scale_that_changes_nothing() -> None:
    whole = weights_of(SMALL)
    group = next(g for g in groups_of(SMALL) if g.name == "srnet.stream")
    tensors = {k: v.clone() for k, v in whole.tensors.items()}
    scale = torch.rand(8) + 0.5
    for slot in group.slots:
        shape = [1] * tensors[slot.key].ndim
        shape[slot.axis] = 8
        tensors[slot.key] *= (scale if slot.writes else 1 / scale).view(shape)
    scaled = infer(tensors, source="x")
    # Scaling is through ReLU only where positive; all of it is, and so the function is the same.
    assert (run(build(scaled)) - run(build(whole))).abs().max() < 1e-5
    assert torch.allclose(importance(scaled, group), importance(whole, group), rtol=1e-4)


def test_blocks_keep_their_order_and_their_values() -> None:
    whole = weights_of(SMALL)
    pruned = prune_blocks(whole, [2, 0])
    for new, old in ((0, 0), (1, 2)):
        for part in ("0.weight", "0.bias", "2.weight", "2.bias"):
            a = pruned.weights.tensors[f"srnet.resblocks.{new}.conv.{part}"]
            b = whole.tensors[f"srnet.resblocks.{old}.conv.{part}"]
            assert torch.equal(a, b)
            assert a.data_ptr() != b.data_ptr()
    assert [b.index for b in pruned.report.blocks] == [1]
    assert first_blocks(SMALL, 2) == (0, 1)


def remaining(weights: Weights) -> set[int]:
    """The blocks' marks, see marked()."""
    count = weights.variant.blocks
    return {int(weights.tensors[f"srnet.resblocks.{i}.conv.2.bias"][0]) for i in range(count)}


def marked(blocks: int) -> Weights:
    """A network whose block i has the bias i, so that a fake sensitivity knows who is there."""
    whole = weights_of(Variant(blocks=blocks, channels=8, flow_channels=4, tail="shuffle"))
    for i in range(blocks):
        whole.tensors[f"srnet.resblocks.{i}.conv.2.bias"].fill_(i)
    return whole


def test_ranking_is_greedy_and_measures_anew() -> None:
    # Blocks 1 and 3 stand in for each other: either may go, both must not.
    calls: list[set[int]] = []
    seen: list[tuple[int, int]] = []

    def sensitivity(candidate: Weights) -> float:
        left = remaining(candidate)
        calls.append(left)
        cost = {0: 5.0, 1: 0.1, 2: 1.0, 3: 0.1, 4: 2.0}
        both = 10.0 if not left & {1, 3} else 0.0
        return sum(c for i, c in cost.items() if i not in left) + both

    def report(done: int, total: int) -> None:
        seen.append((done, total))

    keep, removed = rank_blocks(marked(5), 2, sensitivity, report)
    # 3 before 1, because of equals the last goes; then 2 and 4, each cheaper than the other twin.
    assert [b.index for b in removed] == [3, 2, 4]
    assert [b.sensitivity for b in removed] == pytest.approx([0.1, 1.1, 3.1])
    assert keep == (0, 1)
    assert len(calls) == 5 + 4 + 3
    assert seen == [(n, 12) for n in range(1, 13)]
    assert [len(c) for c in calls] == [4] * 5 + [3] * 4 + [2] * 3
    pruned = prune_blocks(marked(5), keep, removed=removed)
    assert remaining(pruned.weights) == {0, 1}
    assert pruned.report.blocks == removed


def test_ranking_refuses_nan() -> None:
    with pytest.raises(ModelError, match="NaN"):
        rank_blocks(marked(2), 1, lambda _: float("nan"))


def test_the_report_adds_up() -> None:
    whole = weights_of(Variant(blocks=4, channels=24, flow_channels=16))
    first = prune_blocks(whole, [0, 1, 3], removed=[RemovedBlock(2, 0.25)])
    second = prune_channels(first.weights, channels=12, flow_channels=8, criterion="l1")
    report = first.report.then(second.report)
    assert report.before == whole.variant
    assert report.after == second.weights.variant == Variant(blocks=3, channels=12, flow_channels=8)
    data = json.loads(json.dumps(report.as_dict()))
    for end, weights in (("before", whole), ("after", second.weights)):
        learned = sum(p.numel() for p in build(weights).parameters())
        assert data[end]["params"]["total"] == learned
        assert data[end]["macs"] == weights.variant.cost(180, 320).macs
    assert data["blocks"] == [{"index": 2, "damage": 0.25}]
    groups = {g["group"]: g for g in data["channels"]}
    assert groups["fnet.decoder1.2"] | {"kept": 0} == {
        "group": "fnet.decoder1.2", "before": 128, "after": 64, "kept": 0,
    }  # fmt: skip
    assert all(0.5 < g["kept"] < 1 for g in groups.values())  # the better half
    text = report.to_text()
    assert "block 3 was removed. Blocks 1, 2 and 4 stayed, and are now blocks 1, 2 and 3." in text
    assert "0.250 dB without block 3" in text
    assert f"{data['after']['params']['total']:,} parameters" in text
    assert [n for n in report.notes if "12 is no multiple of 8" in n and "8 or 16" in n]
    with pytest.raises(ModelError, match="does not continue"):
        second.report.then(first.report)


def test_kept_importance_is_the_share_of_what_was_chosen() -> None:
    whole = weights_of(SMALL)
    pruned = prune_channels(whole, channels=3)
    group = next(g for g in groups_of(SMALL) if g.name == "srnet.stream")
    value = importance(whole, group)
    best = value.sort(descending=True).values[:3].sum() / value.sum()
    cut = next(g for g in pruned.report.channels if g.name == "srnet.stream")
    assert cut.kept == pytest.approx(float(best), rel=1e-5)


@pytest.mark.parametrize(("call", "words"), [
    (lambda w: prune_blocks(w, []), "blocks 0 would leave nothing; expected 1 to 3"),
    (lambda w: prune_blocks(w, [0, 3]), "has no block 3"),
    (lambda w: prune_blocks(w, [0, -1]), "has no block -1"),
    (lambda w: prune_blocks(w, [1, 1]), "twice"),
    (lambda w: prune_blocks(w, [0, 1, 2, 2]), "more than there is"),
    (lambda w: prune_blocks(w, [0], removed=[RemovedBlock(1)]), r"removes \[2, 1\]"),
    (lambda w: first_blocks(w.variant, 0), "leave nothing"),
    (lambda w: first_blocks(w.variant, 4), r"more than there is \(3\)"),
    (lambda w: rank_blocks(w, 4, lambda _: 0.0), r"more than there is \(3\)"),
    (lambda w: prune_channels(w, channels=0), "leave nothing"),
    (lambda w: prune_channels(w, channels=9), r"more than there is \(8\)"),
    (lambda w: prune_channels(w, flow_channels=5), r"more than there is \(4\)"),
    (lambda w: prune_channels(w, flow_channels=0), "leave nothing"),
    (lambda w: prune_channels(w, channels=4, criterion="l3"), "l1, l2"),
])  # fmt: skip
def test_impossible_cuts_are_refused(call, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        call(weights_of(SMALL))


def test_egvsr_goes_by_sixteens_and_no_flow_net_has_no_flow_channels() -> None:
    egvsr = weights_of(Variant(blocks=1, channels=32, flow_channels=4, tail="egvsr"))
    with pytest.raises(ModelError, match="multiple of 16, got 24") as error:
        prune_channels(egvsr, channels=24)
    assert error.value.hint == "use 16"
    latent = weights_of(Variant(blocks=1, channels=8, flow_channels=0, tail="shuffle"))
    with pytest.raises(ModelError, match="no flow_channels to prune"):
        prune_channels(latent, flow_channels=4)


# --- sparsity --------------------------------------------------------------------------------


def test_magnitude_masks_drop_exactly_the_smallest() -> None:
    whole = weights_of(SMALL)
    masks = magnitude_masks(whole, 0.7, score="magnitude")
    assert set(masks) == {k for k, v in whole.tensors.items() if v.ndim == 4}
    kept = torch.cat([whole.tensors[k].abs()[m] for k, m in masks.items()])
    gone = torch.cat([whole.tensors[k].abs()[~m] for k, m in masks.items()])
    assert len(gone) == round(0.7 * (len(gone) + len(kept)))
    assert gone.max() <= kept.min()
    sparse = masked(whole, masks)
    for key, value in sparse.tensors.items():
        expected = torch.where(masks[key], whole.tensors[key], 0) if key in masks else None
        assert torch.equal(value, whole.tensors[key] if expected is None else expected)


def test_lamp_ranks_by_its_definition() -> None:
    whole = weights_of(Variant(blocks=1, channels=8, flow_channels=2, tail="shuffle"))
    masks = magnitude_masks(whole, 0.6)
    scores: dict[str, Tensor] = {}
    for key in masks:
        squares = whole.tensors[key].double().square().flatten()
        # Quadratic, and therefore plainly the definition: w^2 / sum of all that are no smaller.
        no_smaller = squares[None, :] >= squares[:, None]
        scores[key] = squares / (no_smaller * squares).sum(dim=1)
    every = torch.cat(list(scores.values()))
    line = every.sort().values[round(0.6 * len(every))]
    for key, mask in masks.items():
        clear = (scores[key] - line).abs() > 1e-9  # rounding decides those on the line
        assert torch.equal(mask.flatten()[clear], (scores[key] >= line)[clear])


def test_lamp_leaves_every_layer_something_where_magnitude_does_not() -> None:
    whole = weights_of(SMALL)
    whole.tensors["fnet.flow.2.weight"].mul_(1e-3)  # as a branch that starts small
    lamp = SparsityReport.of(magnitude_masks(whole, 0.9))
    plain = SparsityReport.of(magnitude_masks(whole, 0.9, score="magnitude"))
    assert min(kept for _, kept in lamp.layers.values()) > 0
    assert plain.layers["fnet.flow.2.weight"][1] == 0
    assert "nothing is left of " in plain.notes[1]
    assert "fnet.flow.2.weight" in plain.notes[1]
    assert len(lamp.notes) == 1
    assert "no time" in lamp.notes[0]
    assert lamp.kept == plain.kept == lamp.weights - round(0.9 * lamp.weights)
    assert f"{lamp.kept:,} of {lamp.weights:,} (10.0%)" in lamp.to_text()


def test_pruning_in_rounds_keeps_what_was_pruned() -> None:
    whole = weights_of(SMALL)
    first = magnitude_masks(whole, 0.3)
    second = magnitude_masks(masked(whole, first), 0.5)
    assert all(not (second[k] & ~first[k]).any() for k in first)


def test_a_ticket_is_the_start_under_the_mask() -> None:
    start, trained = weights_of(SMALL, 1), weights_of(SMALL, 2)
    masks = magnitude_masks(trained, 0.8)
    ticket = rewind(start, masks)
    for key, mask in masks.items():
        assert torch.equal(ticket.tensors[key][mask], start.tensors[key][mask])
        assert not ticket.tensors[key][~mask].any()
    for key in set(start.tensors) - set(masks):
        assert torch.equal(ticket.tensors[key], start.tensors[key])
    other = weights_of(Variant(blocks=2, channels=8, flow_channels=4, tail="shuffle"))
    with pytest.raises(ModelError, match=r"do not fit teco-x4-b2-c8-f4-shuffle: 2 of"):
        rewind(other, masks)


@pytest.mark.parametrize("tied", [False, True])
def test_masks_hold_through_training(tied: bool) -> None:
    """Momentum moves masked weights; apply_masks puts them back after each step."""
    whole = weights_of(SMALL)
    if tied:
        whole = share_blocks(whole, 2)
    masks = magnitude_masks(whole, 0.8)
    generator = build(masked(whole, masks))
    if tied:
        pattern = parse_pattern(masked(whole, masks))
        assert pattern == (0, 0, 1)
        tie_blocks(generator, pattern)
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1, momentum=0.9)
    moved = 0
    for _ in range(2):
        generator.sequence(torch.rand(1, 2, 3, 8, 8))[0].square().mean().backward()
        optimizer.step()
        state = generator.state_dict()
        moved += sum(int(state[k][~m].count_nonzero()) for k, m in masks.items())
        apply_masks(generator, masks)
        assert not any(state[k][~m].any() for k, m in masks.items())
    assert moved
    assert any(state[k].any() for k in masks)


def test_masks_round_trip_and_bad_files_are_refused(tmp_path: Path) -> None:
    masks = magnitude_masks(weights_of(SMALL), 0.5)
    save_masks(tmp_path / "m.safetensors", masks, metadata={"of": "x"})
    again = load_masks(tmp_path / "m.safetensors")
    assert set(again) == set(masks)
    assert all(torch.equal(again[k], m) for k, m in masks.items())
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    save_weights(tmp_path / "w.safetensors", Generator(SMALL))
    (tmp_path / "bad.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0{")
    for name, words in (("w", "no masks"), ("bad", "damaged"), ("none", "no masks file at")):
        with pytest.raises(ModelError, match=words):
            load_masks(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.5, 1.5, float("nan"), 1e-9, 1 - 1e-9])
def test_impossible_sparsities_are_refused(sparsity: float) -> None:
    with pytest.raises(ModelError, match="sparsity"):
        magnitude_masks(weights_of(SMALL), sparsity)


# --- sharing ---------------------------------------------------------------------------------


def test_runs_are_even() -> None:
    assert runs(10, 3) == (0, 0, 0, 0, 1, 1, 1, 2, 2, 2)
    assert runs(3, 3) == (0, 1, 2)
    for groups in (0, 4):
        with pytest.raises(ModelError, match="expected 1 to 3"):
            runs(3, groups)


def block(weights: Weights, i: int) -> dict[str, Tensor]:
    name = f"srnet.resblocks.{i}."
    return {k.removeprefix(name): v for k, v in weights.tensors.items() if k.startswith(name)}


@pytest.mark.parametrize("merge", ["first", "mean"])
def test_tied_blocks_are_equal_and_say_so(merge: str, tmp_path: Path) -> None:
    whole = weights_of(SMALL)
    shared = share_blocks(whole, 2, merge=merge)
    assert shared.metadata == {SHARED: "0,0,1"}
    assert parse_pattern(shared) == (0, 0, 1)
    assert all(torch.equal(v, block(shared, 1)[k]) for k, v in block(shared, 0).items())
    assert all(torch.equal(v, block(whole, 2)[k]) for k, v in block(shared, 2).items())
    same = all(torch.equal(v, block(shared, 0)[k]) for k, v in block(whole, 0).items())
    assert same == (merge == "first")
    # A file keeps it, and structural pruning of that file keeps the blocks equal.
    save_weights(tmp_path / "s.safetensors", build(shared), metadata=shared.metadata)
    read = load_weights(tmp_path / "s.safetensors")
    narrow = prune_channels(prune_blocks(read, [0, 1]).weights, channels=5).weights
    assert parse_pattern(narrow) == (0, 0)
    assert parse_pattern(prune_blocks(read, [1, 2]).weights) == (0, 1)
    assert parse_pattern(whole) is None


def test_the_mean_matches_channels_first() -> None:
    """Blocks equal but for the order of their inner channels: their matched mean is that block."""
    whole = weights_of(SMALL)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(5))
    first = block(whole, 0)
    for i in (1, 2):
        for key, axis in (("conv.0.weight", 0), ("conv.0.bias", 0), ("conv.2.weight", 1)):
            tensor = whole.tensors[f"srnet.resblocks.{i}.{key}"]
            tensor.copy_(first[key].index_select(axis, order))
        whole.tensors[f"srnet.resblocks.{i}.conv.2.bias"].copy_(first["conv.2.bias"])
    shared = share_blocks(whole, 1, merge="mean")
    assert (run(build(shared)) - run(build(whole))).abs().max() < 1e-5
    assert torch.allclose(block(shared, 2)["conv.0.weight"], first["conv.0.weight"], atol=1e-6)


def test_training_keeps_tied_blocks_tied(tmp_path: Path) -> None:
    shared = share_blocks(weights_of(SMALL), 2)
    generator = build(shared)
    before = sum(p.numel() for p in generator.parameters())
    one_block = sum(v.numel() for v in block(shared, 0).values())
    tie_blocks(generator, (0, 0, 1))
    assert sum(p.numel() for p in generator.parameters()) == before - one_block
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    generator.sequence(torch.rand(1, 2, 3, 8, 8))[0].square().mean().backward()
    optimizer.step()
    # Every block is written, though the module holds the tied ones once.
    save_weights(tmp_path / "t.safetensors", generator, metadata=shared.metadata)
    trained = load_weights(tmp_path / "t.safetensors")
    assert parse_pattern(trained) == (0, 0, 1)
    assert not torch.equal(block(trained, 0)["conv.0.weight"], block(shared, 0)["conv.0.weight"])
    with pytest.raises(ModelError, match="pattern of 2"):
        tie_blocks(generator, (0, 1))


@pytest.mark.parametrize(("text", "words"), [
    ("0,0", "one number for each of the 3"),
    ("0,x,1", "one number for each"),
    ("0,0,1", "0 and 1 are tied"),
])  # fmt: skip
def test_a_pattern_that_does_not_hold_is_refused(text: str, words: str) -> None:
    whole = weights_of(SMALL)
    false = infer(whole.tensors, source="x", metadata={SHARED: text})
    with pytest.raises(ModelError, match=words):
        parse_pattern(false)


# --- on clips, and the command ---------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Three blocks, of which the middle one is the least and the last the most."""
    from teco.training.init import initialise

    generator = Generator(Variant(blocks=3, channels=16, flow_channels=8, tail="shuffle"))
    initialise(generator)
    with torch.no_grad():
        for i, scale in enumerate((1.0, 0.01, 3.0)):
            generator.get_parameter(f"srnet.resblocks.{i}.conv.2.weight").mul_(scale)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_weights(path, generator)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory, make_pictures, texture) -> Path:
    return make_pictures(tmp_path_factory.mktemp("clip") / "frames", texture(6, 64, 48))


def test_sensitivity_is_what_eval_measures(model: Path, clip: Path) -> None:
    from teco.evaluation.quality import EvaluateOptions, evaluate
    from teco.runtimes.pytorch import PyTorchSession

    whole = load_weights(model)
    sensitivity = clip_sensitivity(str(clip), 1, 6, whole)
    assert sensitivity(whole) == 0
    options = EvaluateOptions(metrics=("psnr",), scene_cuts=False, baselines=False)
    fewer = prune_blocks(whole, [0]).weights
    rows = [
        evaluate(PyTorchSession(build(w)), "x", [str(clip)], options)[0].frame_average["psnr"]
        for w in (whole, fewer)
    ]
    assert sensitivity.reference == pytest.approx(rows[0], abs=0.01)
    assert sensitivity(fewer) == pytest.approx(rows[0] - rows[1], abs=0.01)
    assert abs(sensitivity(fewer)) > 0.02
    for frames, shrink, words in ((4, 1, "at least 5"), (6, 0.5, "expected 1 or more")):
        with pytest.raises(TecoError, match=words):
            clip_sensitivity(str(clip), shrink, frames, whole)


def test_a_short_clip_is_refused(model: Path, tmp_path: Path, make_pictures, texture) -> None:
    short = make_pictures(tmp_path / "short", texture(4, 64, 48))
    with pytest.raises(TecoError, match="4 frames"):
        clip_sensitivity(str(short), 1, 12, load_weights(model))


def test_the_command_ranks_cuts_and_records(teco, model: Path, clip: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "p.safetensors", tmp_path / "p-report.json"
    done = teco(
        "prune", model, "-o", out, "--blocks", 2, "--channels", 12, "--flow-channels", 8,
        "--clip", clip, "--frames", 6, "--json", report,
    )  # fmt: skip
    done.says(
        "teco-x4-b3-c16-f8-shuffle became teco-x4-b2-c12-f8-shuffle.",
        "multiple of 8",
        f"next: teco train --init {out} --teacher {model}",
    )
    assert done.stdout.decode().strip() == str(out)
    whole, pruned = load_weights(model), load_weights(out)
    assert pruned.variant.name == "teco-x4-b2-c12-f8-shuffle"
    assert pruned.metadata is not None
    assert pruned.metadata["pruned_from"] == weights_digest(whole)
    assert pruned.metadata["pruned_from_variant"] == whole.variant.name
    what = json.loads(pruned.metadata["pruned"])
    assert what["order"] == "sensitivity"
    assert what["channels"] == [16, 12]
    data = json.loads(report.read_text())
    assert (data["kind"], data["schema"]) == ("teco prune", 1)
    assert data["weights_sha256"] == weights_digest(pruned)
    assert data["parent_sha256"] == weights_digest(whole)
    # The least sensitivity of the three, measured here again.
    sensitivity = clip_sensitivity(str(clip), 1, 6, whole)
    losses = [
        sensitivity(prune_blocks(whole, [j for j in range(3) if j != i]).weights) for i in range(3)
    ]
    least = int(np.argmin(losses))
    assert what["blocks"] == [least]
    assert [b["index"] for b in data["blocks"]] == [least]
    assert data["blocks"][0]["damage"] == pytest.approx(losses[least], abs=1e-6)
    assert data["measured"]["psnr_before"] == pytest.approx(sensitivity.reference, abs=1e-6)
    assert data["measured"]["psnr_after"] == pytest.approx(sensitivity.psnr(pruned), abs=1e-6)
    assert data["after"]["params"]["total"] == pruned.variant.cost(180, 320).params["total"]


def test_without_a_clip_the_last_blocks_go(teco, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    done = teco("prune", model, "-o", out, "--blocks", 2)
    done.says("block 3 was removed. Blocks 1 and 2 stayed.", "nothing was measured")
    expected = prune_blocks(load_weights(model), [0, 1]).weights
    assert weights_digest(load_weights(out)) == weights_digest(expected)
    # Now it exists.
    teco("prune", model, "-o", out, "--blocks", 1).refuses(2, "exists", "--force")
    assert load_weights(out).variant.blocks == 2
    assert teco("prune", model, "-o", out, "--blocks", 1, "--force").code == 0
    assert load_weights(out).variant.blocks == 1


def test_a_shipped_model_is_pruned_by_name(teco, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    done = teco("prune", "teco-x4-b3-c64-bp-lk", "-o", out, "--flow-channels", 16)
    done.says(
        "teco-x4-b3-c64-bp-lk became teco-x4-b3-c64-f16-bp-lk.",
        f"next: teco train --init {out} --teacher teco-x4-b3-c64-bp-lk ...",
    )
    assert load_weights(out).variant.flow_channels == 16


def test_without_a_name_weights_are_called_after_their_variant(
    teco, untouched, model: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "teco-x4-b2-c16-f8-shuffle.safetensors"
    done = teco("prune", model, "--blocks", 2)
    done.says(f"next: teco train --init {name} --teacher {model} ...")
    assert done.stdout.decode().strip() == name
    assert load_weights(name).variant.name + ".safetensors" == name
    with untouched(tmp_path):
        teco("prune", model, "--blocks", 2).refuses(2, f"{name} exists", "--force")
    before = Path(name).read_bytes()
    assert teco("prune", model, "--blocks", 2, "--share-blocks", 1, "--force").code == 0
    assert Path(name).read_bytes() != before
    # The variant stays, and so would the name: never over the file that it is made from.
    same = Path("teco-x4-b3-c16-f8-shuffle.safetensors")
    shutil.copy(model, same)
    with untouched(tmp_path):
        teco("prune", same, "--sparsity", "0.5", "--force").refuses(2, "made from", "-o")
        teco("prune", same, "--blocks", 4).refuses(2, "more than there is (3)")


def test_the_command_makes_tickets_and_ties_blocks(teco, model: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    save_weights(start, Generator(load_weights(model).variant))
    ticket = tmp_path / "ticket.safetensors"
    done = teco("prune", model, "-o", ticket, "--sparsity", "0.75", "--rewind", start)
    done.says("(25.0%)", "save no time", str(masks_path(ticket)))
    masks = load_masks(masks_path(ticket))
    expected = rewind(load_weights(start), magnitude_masks(load_weights(model), 0.75))
    made = load_weights(ticket)
    assert weights_digest(made) == weights_digest(expected)
    assert all(not made.tensors[k][~m].any() for k, m in masks.items())
    assert made.metadata is not None
    assert json.loads(made.metadata["pruned"])["rewound_to"] == weights_digest(load_weights(start))
    tied = tmp_path / "tied.safetensors"
    teco("prune", model, "-o", tied, "--share-blocks", 2).says(
        "neither time nor file size", "counted from 1 at the input: 1 and 2; 3."
    )
    assert parse_pattern(load_weights(tied)) == (0, 0, 1)
    assert tied.stat().st_size == pytest.approx(model.stat().st_size, rel=0.02)


@pytest.mark.parametrize(("arguments", "words"), [
    (["--blocks", 0], ["blocks 0 would leave nothing", "1 to 3"]),
    (["--blocks", 4], ["more than there is (3)"]),
    (["--blocks", 3], ["nothing would change"]),
    (["--channels", 17], ["more than there is (16)"]),
    (["--channels", -8], ["leave nothing"]),
    (["--flow-channels", 9], ["more than there is (8)"]),
    ([], ["nothing to prune was named", "--blocks"]),
    (["--blocks", 2, "--order", "sensitivity"], ["needs a clip", "--clip"]),
    (["--blocks", 2, "--frames", 9], ["there is none", "--clip"]),
    (["--blocks", 2, "--clip", "nowhere.mp4"], ["nowhere.mp4"]),
    (["--blocks", 2, "--clip", "-"], ["pipe"]),
    (["--sparsity", 2], ["above 0 and below 1"]),
    (["--sparsity", "much"], ["much"]),
    (["--share-blocks", 4], ["expected 1 to 3"]),
    (["--blocks", 2, "--rewind", "MODEL"], ["needs masks", "--sparsity"]),
    (["--blocks", 2, "--sparsity", 0.5, "--rewind", "MODEL"], ["--sparsity alone"]),
    (["--sparsity", 0.5, "--rewind", "TINY"], ["teco-x4-b1-c16-f8-shuffle", "started from"]),
    (["--blocks", 2, "-o", "x.pth"], ["x.pth", "-o x.safetensors"]),
    (["--blocks", 2, "-o", "nowhere/x.safetensors"], ["nowhere does not exist"]),
    (["--blocks", 2, "-o", "MODEL", "--force"], ["made from"]),
    (["--blocks", 2, "--json", "MODEL"], ["--json", "should end in .json"]),
    (["--blocks", 2, "--json", "out.safetensors"], ["--json", "should end in .json"]),
    (["--blocks", 2, "-o", "x.json", "--json", "x.json"], ["x.json is no name for weights"]),
    (["--sparsity", 0.5, "--rewind", "no-such"], ["no model is called 'no-such'"]),
])  # fmt: skip
def test_the_command_refuses_and_leaves_nothing(
    teco, untouched, model: Path, tiny_weights: Path, tmp_path: Path, monkeypatch, arguments, words
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"MODEL": shutil.copy(model, tmp_path / "m.safetensors"), "TINY": tiny_weights}
    given = [files.get(a, a) for a in arguments]
    with untouched(tmp_path):
        done = teco("prune", "m.safetensors", "-o", "out.safetensors", *given)
    done.refuses(2, *words)


@pytest.mark.parametrize("command", [
    ["prune", "MODEL", "-o", "o.safetensors", "--blocks", 1],
    ["prune", "MODEL", "-o", "o.safetensors", "--target-gmac", 1],
    ["eval", "--model", "MODEL", "--clip", "CLIP"],
    ["bench", "MODEL"],
    ["table", "--data", "CLIP", "--model", "MODEL"],
], ids=lambda c: " ".join(map(str, c[:1] + c[4:5])))  # fmt: skip
def test_no_report_replaces_weights_or_a_clip(
    teco, untouched, model: Path, clip: Path, tmp_path: Path, monkeypatch, command
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(model, "teacher.safetensors")
    Path("victim.mp4").write_bytes(b"a film")
    named = {"MODEL": "teacher.safetensors", "CLIP": clip}
    given = [named.get(a, a) for a in command]
    for victim in ("teacher.safetensors", "victim.mp4"):
        with untouched(tmp_path):
            teco(*given, "--json", victim).refuses(2, f"{victim} should end in .json")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--blocks", 1, "--channels", 17], "more than there is (16)"),
    (["--blocks", 4], "more than there is (3)"),
    (["--blocks", 3], "nothing would change"),
    (["--blocks", 2, "--flow-channels", 9], "more than there is (8)"),
    (["--blocks", 2, "--share-blocks", 3], "expected 1 to 2"),
    (["--blocks", 2, "--sparsity", 2], "above 0 and below 1"),
    ([], "nothing to prune was named"),
])  # fmt: skip
def test_what_cannot_be_done_is_said_before_the_clip_is_measured(
    teco, model: Path, clip: Path, tmp_path: Path, monkeypatch, arguments, words
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("teco.pruning.structured.ClipSensitivity", never)
    out = tmp_path / "o.safetensors"
    teco("prune", model, "-o", out, "--clip", clip, "--frames", 6, *arguments).refuses(2, words)


def test_a_ticket_is_tied_as_its_start_is(teco, untouched, model: Path, tmp_path: Path) -> None:
    start, tied, tied_start, ticket = (
        tmp_path / f"{n}.safetensors" for n in ("start", "tied", "tied_start", "ticket")
    )
    save_weights(start, Generator(load_weights(model).variant))
    for source, made in ((model, tied), (start, tied_start)):
        assert teco("prune", source, "-o", made, "--share-blocks", 2).code == 0
    mask = ("-o", ticket, "--sparsity", "0.5", "--rewind")
    with untouched(tmp_path):
        teco("prune", tied, *mask, start).refuses(
            2, "not tied alike: 0,0,1 and 0,1,2", "the tied weights that training started from"
        )
        teco("prune", model, *mask, tied_start).refuses(2, "not tied alike: 0,1,2 and 0,0,1")
    assert teco("prune", tied, *mask, tied_start).code == 0
    assert parse_pattern(load_weights(ticket)) == (0, 0, 1)


def test_a_ticket_can_start_from_a_shipped_model(teco, tmp_path: Path) -> None:
    from teco.model.opening import open_model

    name, out = "teco-x4-b3-c64-bp-lk", tmp_path / "ticket.safetensors"
    assert teco("prune", name, "-o", out, "--sparsity", "0.5", "--rewind", name).code == 0
    source = open_model(name).weights
    assert source is not None
    metadata = load_weights(out).metadata
    assert metadata is not None
    what = json.loads(metadata["pruned"])
    assert what["rewound_to"] == weights_digest(load_weights(source))


def test_other_things_than_weights_are_refused(teco, tmp_path: Path) -> None:
    from teco_models import zoo

    out = tmp_path / "o.safetensors"
    teco("prune", zoo.entries()[0].onnx, "-o", out, "--blocks", 1).refuses(
        2, "ONNX", ".safetensors"
    )
    weights = zoo.entries()[0].weights
    mask = ("--sparsity", 0.5, "--rewind", zoo.entries()[0].onnx)
    teco("prune", weights, "-o", out, *mask).refuses(2, "ONNX", ".safetensors")
    teco("prune", "no-such", "-o", out, "--blocks", 1).refuses(2, "no model is called 'no-such'")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    teco("prune", tmp_path / "bad.safetensors", "-o", out, "--blocks", 1).refuses(1, "damaged")
    double = tmp_path / "double.safetensors"
    write_tensors(double, of_scale(SMALL, 2))
    for ask in (("--blocks", 1), ("--target-gmac", 1)):
        teco("prune", double, "-o", out, *ask).refuses(1, f"{double} is of scale x2, expected x4")
    assert not out.exists()


def test_a_wrong_cut_gets_no_name(
    teco, untouched, model: Path, tmp_path: Path, monkeypatch
) -> None:
    """The verification sees a cut that forgot something, and says by how much."""
    import teco_models.compress.prune as module

    right = module.apply_cut

    def wrong(weights: Weights, cut: module.Cut) -> Weights:
        made = right(weights, cut)
        made.tensors["srnet.resblocks.0.conv.0.bias"] += 0.1
        return made

    monkeypatch.setattr(module, "apply_cut", wrong)
    whole = load_weights(model)
    with pytest.raises(PruneError, match=r"differs from .* by .*e-0\d"):
        prune(whole, PruneOptions(blocks=2))
    with untouched(tmp_path):
        teco("prune", model, "-o", tmp_path / "p.safetensors", "--channels", 8).refuses(
            1, "differs", "nothing was written"
        )


def test_verification_does_not_pass_over_nan(model: Path) -> None:
    whole = load_weights(model)
    pruned = prune_blocks(whole, [0])
    pruned.weights.tensors["srnet.conv_shuffle.bias"].fill_(float("nan"))
    with pytest.raises(PruneError, match="nan"):
        verify(whole, pruned.cut, pruned.weights)


def test_a_full_disk_leaves_nothing(
    teco, untouched, model: Path, tmp_path: Path, monkeypatch
) -> None:
    def full(_self: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with untouched(tmp_path):
        teco("prune", model, "-o", tmp_path / "p.safetensors", "--sparsity", "0.5").refuses(
            1, "could not be written: No space left on device"
        )


def test_no_change_has_an_equal_report() -> None:
    report = PruneReport(before=SMALL, after=SMALL)
    assert report.then(report) == report


def test_sensitivity_needs_no_other_network() -> None:
    """It is relative to the reference, in dB, and negative where the candidate is better."""
    truth = [np.full((64, 64, 3), 10 * n + 40, np.uint8) for n in range(5)]
    good = weights_of(SMALL)
    for key in ("srnet.conv_shuffle.weight", "srnet.conv_shuffle.bias"):
        good.tensors[key].zero_()  # the upsampled frame alone, which is the truth here
    bad = weights_of(SMALL)
    sensitivity = ClipSensitivity(truth, bad)
    assert sensitivity(good) < -10
