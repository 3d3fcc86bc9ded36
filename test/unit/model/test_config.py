import pytest

from bevdistill_ros.model.config import StudentConfig


def test_the_defaults_are_the_scale_of_the_paper() -> None:
    config = StudentConfig()
    assert (config.image_height, config.image_width) == (928, 1600)
    assert config.level_strides == (8, 16, 32, 64)
    assert config.stage_strides == (8, 16, 32)
    assert (config.encoder_layers, config.decoder_layers, config.num_queries) == (6, 6, 900)


def test_a_small_student_can_do_without_coarse_levels() -> None:
    config = StudentConfig(first_stride=8, num_levels=2, image_height=48, image_width=80)
    assert config.stage_strides == (8, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vgg"}, "student.backbone must be one of resnet18"),
        ({"first_stride": 5}, "student.first_stride must be one of 4, 8, 16, 32"),
        ({"num_queries": 0}, "student.num_queries must be at least 1"),
        ({"dropout": 1.0}, "student.dropout"),
        ({"embed_dim": 100}, "divisible by num_heads"),
        ({"cameras": ("A", "A")}, "different names"),
        ({"backbone": "efficientnet_lite0", "backbone_width": 16}, "backbone_width scales ResNets only"),
        ({"image_height": 900}, "image_height must be divisible by the stride 32"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudentConfig(**changes)  # type: ignore[arg-type]
