import torch

from bevdistill_ros.model.fpn import FeaturePyramid


def test_levels_have_one_width_and_doubling_strides() -> None:
    pyramid = FeaturePyramid(channels_in=(4, 8), channels=16, num_levels=4)
    levels = pyramid([torch.randn(2, 4, 16, 24), torch.randn(2, 8, 8, 12)])
    assert [tuple(level.shape) for level in levels] == [(2, 16, 16, 24), (2, 16, 8, 12), (2, 16, 4, 6), (2, 16, 2, 3)]


def test_an_odd_size_is_met_exactly() -> None:
    pyramid = FeaturePyramid(channels_in=(4, 4), channels=8, num_levels=2)
    levels = pyramid([torch.randn(1, 4, 29, 50), torch.randn(1, 4, 15, 25)])
    assert [tuple(level.shape[-2:]) for level in levels] == [(29, 50), (15, 25)]


def test_fine_levels_know_what_coarse_maps_show_but_not_the_reverse() -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramid(channels_in=(4, 4), channels=8, num_levels=2)
    fine, coarse = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)
    before = pyramid([fine, coarse])
    coarse_changed = pyramid([fine, coarse + torch.randn_like(coarse)])
    fine_changed = pyramid([fine + torch.randn_like(fine), coarse])
    assert not torch.allclose(before[0], coarse_changed[0])
    torch.testing.assert_close(before[1], fine_changed[1])


def test_top_down_path_by_hand() -> None:
    pyramid = FeaturePyramid(channels_in=(1, 1), channels=1, num_levels=2)
    with torch.no_grad():
        for layer in (*pyramid.laterals, *pyramid.outputs):
            layer.weight.zero_()
            layer.weight[..., layer.weight.shape[-2] // 2, layer.weight.shape[-1] // 2] = 1.0
    pyramid.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in range(2))
    fine, coarse = torch.arange(16.0).reshape(1, 1, 4, 4), torch.tensor([[100.0, 200.0], [300.0, 400.0]])[None, None]
    levels = pyramid([fine, coarse])
    torch.testing.assert_close(levels[1], coarse)
    torch.testing.assert_close(levels[0], fine + coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_images_of_a_batch_do_not_mix() -> None:
    pyramid = FeaturePyramid(channels_in=(4,), channels=8, num_levels=2).train()
    maps = torch.randn(2, 4, 8, 8)
    both = pyramid([maps])
    for item in range(2):
        for level, alone in zip(both, pyramid([maps[item : item + 1]]), strict=True):
            torch.testing.assert_close(level[item : item + 1], alone, atol=1e-5, rtol=1e-5)


def test_without_norm_a_level_keeps_the_scale_of_its_maps() -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramid(channels_in=(4,), channels=8, num_levels=2, norm=False)
    maps = torch.randn(1, 4, 8, 8)
    for once, twice in zip(pyramid([maps]), pyramid([2 * maps]), strict=True):
        torch.testing.assert_close(2 * once, twice)
    assert not any(name.startswith("norms") for name in pyramid.state_dict())
