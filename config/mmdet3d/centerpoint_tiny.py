# CenterPoint of mmdet3d, small enough to train in minutes on two CPU cores: pillars of 0.4 m, few channels.
# scripts/train_mmdet3d.py trains it.
_base_ = "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"

voxel_size = [0.4, 0.4, 8]
grid_size = [256, 256, 1]
model = {
    "data_preprocessor": {"voxel_layer": {"voxel_size": voxel_size}},
    "pts_voxel_encoder": {"feat_channels": [32], "voxel_size": voxel_size},
    "pts_middle_encoder": {"in_channels": 32, "output_shape": (256, 256)},
    "pts_backbone": {"in_channels": 32, "layer_nums": [1, 2, 2], "out_channels": [32, 64, 64]},
    "pts_neck": {"in_channels": [32, 64, 64], "out_channels": [32, 32, 32]},
    "pts_bbox_head": {
        "in_channels": 96,
        "share_conv_channel": 32,
        "separate_head": {"head_conv": 16},
        "bbox_coder": {"voxel_size": voxel_size[:2], "max_num": 100},
    },
    "train_cfg": {"pts": {"grid_size": grid_size, "voxel_size": voxel_size}},
    "test_cfg": {"pts": {"voxel_size": voxel_size[:2]}},
}
sweeps = 2
test_pipeline = [
    {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
    {"type": "LoadPointsFromMultiSweeps", "sweeps_num": sweeps, "use_dim": [0, 1, 2, 3, 4], "remove_close": True},
]
test_dataloader = {"dataset": {"pipeline": test_pipeline}}
