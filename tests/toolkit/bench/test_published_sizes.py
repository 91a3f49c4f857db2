"""The networks against what their authors and the model zoos published: parameters, multiply-accumulates, activations.

Everything runs on the meta device, so no weight is ever drawn.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.toolkit.bench.networks_on_meta import on_meta

pytestmark = pytest.mark.slow

# torchvision's documentation (inception_v3 and googlenet without their training heads), unless another source is named
PARAMETERS = {
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "squeezenet_1.0": 1_248_424,
    "squeezenet_1.1": 1_235_496,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "wide_resnet50_2": 68_883_240,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "googlenet": 6_624_904,
    "inception_v3": 23_834_568,
    "shufflenet_v2_0.5": 1_366_792,
    "shufflenet_v2_1.0": 2_278_604,
    "shufflenet_v2_1.5": 3_503_624,
    "shufflenet_v2_2.0": 7_393_996,
    "mobilenet_v2_1.0": 3_504_872,
    "mobilenet_v3_small_1.0": 2_542_856,
    "mobilenet_v3_large_1.0": 5_483_032,
    "mnasnet_1.0": 4_383_312,
    "regnety_400m": 4_344_144,
    "regnety_800m": 6_432_512,
    "regnetx_400m": 5_495_976,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b7": 66_347_960,
    "vit_base_patch16": 86_567_656,
    "vit_base_patch32": 88_224_232,
    "vit_large_patch16": 304_326_632,
    "efficientnet_lite0": 4_652_008,  # the weights that pip's efficientnet-lite0 package holds
    # rwightman's efficientdet-pytorch, whose weights are google/automl's
    "efficientdet_d0": 3_880_067,
    "efficientdet_d1": 6_625_898,
    "efficientdet_d2": 8_097_039,
    "efficientdet_d3": 12_032_296,
    "yunet": 75_856,  # its paper's abstract
    "mobilevit_s": 5_578_632,  # timm
    "mobilevit_xxs": 1_272_024,
    # the summaries in Ultralytics's configurations; of YOLOv5 less the norms, of the YOLO11 classifiers for 80 classes
    "yolov5n": 1_867_405 + 9_504 // 2,
    "yolov5s": 7_225_885 + 19_008 // 2,
    "yolov5m": 21_172_173 + 36_768 // 2,
    "yolov8n": 3_157_200,
    "yolov8s": 11_166_560,
    "yolov8m": 25_902_640,
    "yolov8l": 43_691_520,
    "yolov8x": 68_229_648,
    "yolo11n": 2_624_080,
    "yolo11s": 9_458_752,
    "yolo11m": 20_114_688,
    "yolo11l": 25_372_160,
    "yolo11x": 56_966_176,
    "yolo11n-cls": 1_633_584 + 920 * 1281,
    "yolo11s-cls": 5_545_488 + 920 * 1281,
    "yolo11m-cls": 10_455_696 + 920 * 1281,
}

# timm's results tables (millions): parameters, and elements that convolutions and linear layers write
TIMM = {
    ("cspdarknet53", 256): (27.64, 16.81),
    ("darknet53", 256): (41.61, 12.39),
    ("dpn68", 224): (12.61, 10.47),
    ("efficientnet_b3", 288): (12.23, 21.49),
    ("efficientnet_edgetpu_s", 224): (5.44, 8.73),
    ("efficientnet_edgetpu_m", 240): (6.90, 14.34),
    ("efficientnet_edgetpu_l", 300): (10.59, 30.70),
    ("efficientnetv2_b0", 224): (7.14, 4.77),
    ("efficientnetv2_rw_s", 288): (23.94, 21.41),
    ("fbnetc_1.0", 224): (5.57, 6.51),
    ("ghostnet_1.0", 224): (5.18, 3.55),
    ("hrnet_w18", 224): (21.30, 16.31),
    ("inception_resnet_v2", 299): (55.84, 25.06),
    ("lcnet_0.5", 224): (1.88, 1.26),
    ("lcnet_1.0", 224): (2.95, 2.52),
    ("mixer_base_patch16", 224): (59.88, 14.53),
    ("mnasnet_small", 224): (2.03, 2.16),
    ("mobilenet_v2_0.5", 224): (1.97, 3.64),
    ("mobilenet_v2_1.4", 224): (6.11, 9.57),
    ("mobileone_s0", 224): (5.29, 15.48),
    ("mobileone_s1", 224): (4.83, 9.67),
    ("repvgg_a0", 224): (9.11, 3.59),
    ("repvgg_b0", 224): (15.82, 6.15),
    ("resnet50", 288): (25.56, 18.37),
    ("seresnet50", 224): (28.09, 11.13),
    ("spnasnet_1.0", 224): (4.42, 6.03),
    ("tinynet_a", 192): (6.19, 5.41),
    ("xception41", 299): (26.97, 39.86),
}

# millions of parameters as others publish them: the same, with the norms' moving averages where the flag says so
MILLIONS = {
    # efficientdet-pytorch's table
    "efficientdet_lite0": (3.24, False),
    "efficientdet_lite2": (5.25, False),
    "efficientdet_lite4": (15.13, False),
    # heads of TensorFlow's configurations; MnasFPN's paper for FPNLite
    "ssdlite_mobiledet_cpu": (4.21, True),
    "ssdlite_mobiledet_dsp": (7.16, True),
    "ssdlite_mobiledet_edgetpu": (4.20, True),
    "ssdlite_mobiledet_gpu": (13.11, True),
    "ssd_mobilenet_v2_fpnlite": (2.20, True),
    "ssd_mnasfpn": (2.50, True),
    # the papers: YOLOX's and Scaled-YOLOv4's tables; Darknet's weight file of YOLOv2
    "yolox_nano": (0.91, False),
    "yolox_tiny": (5.06, False),
    "yolox_s": (8.97, False),
    "yolov4_csp": (52.9, False),
    "yolov2": (50.96, False),
}

# millions of multiply-accumulates, and how far the count may be off: rounding of the source, or what it also counts
MACS = {
    # what the Edge TPU compiler counts for Google's own files
    ("mobilenet_v1_0.25", 128): (13.6, 0.005),
    ("mobilenet_v1_0.5", 160): (76.5, 0.005),
    ("mobilenet_v1_0.75", 192): (239.3, 0.005),
    ("mobilenet_v2_1.0", 224): (300.8, 0.001),
    ("deeplab_mobilenet_v2", 513): (2740.7, 0.001),
    # TF-Slim's tables
    ("mobilenet_v1_1.0", 224): (569, 0.002),
    ("mobilenet_v1_1.0", 128): (186, 0.005),
    ("mobilenet_v2_0.35", 224): (59, 0.01),
    ("mobilenet_v2_0.5", 224): (97, 0.005),
    ("mobilenet_v2_1.3", 224): (509, 0.002),
    ("mobilenet_v2_1.4", 224): (582, 0.002),
    ("mobilenet_v3_large_1.0", 224): (217, 0.005),
    ("mobilenet_v3_large_0.75", 224): (155, 0.005),
    ("mobilenet_v3_large_minimalistic", 224): (209, 0.005),
    ("mobilenet_v3_small_0.75", 224): (44, 0.02),
    # the papers
    ("shufflenet_v1_g3", 224): (137, 0.01),
    ("shufflenet_v2_1.0", 224): (146, 0.01),
    ("resnet50", 224): (4089, 0.001),
    ("resnet50_caffe", 224): (3858, 0.001),
    ("regnety_400m", 224): (400, 0.01),
    ("googlenet", 224): (1500, 0.01),
    # torchvision's documentation
    ("resnet18", 224): (1814, 0.001),
    ("alexnet", 224): (714, 0.001),
    ("vgg11", 224): (7609, 0.001),
    ("squeezenet_1.0", 224): (819, 0.001),
    ("densenet121", 224): (2834, 0.001),
    ("inception_v3", 299): (5713, 0.001),
    # half of Darknet's billions of operations
    ("yolov3", 416): (65.86e3 / 2, 0.002),
    ("yolov3_tiny", 416): (5.56e3 / 2, 0.002),
    ("yolov3_spp", 608): (141.45e3 / 2, 0.002),
    ("yolov4", 608): (128.46e3 / 2, 0.002),
    ("yolov4_tiny", 416): (6.91e3 / 2, 0.002),
    ("yolo_fastest_1.1", 320): (252 / 2, 0.01),
    ("yolo_fastest_v2", 352): (212 / 2, 0.01),
    # MLPerf's 433 and OpenVINO's 2.494, 3.775 and 1.525 billions of operations; these count more than convolutions
    ("ssd_resnet34", 1200): (433e3 / 2, 0.002),
    ("ssd_mobilenet_v1_1.0", 300): (2494 / 2, 0.01),
    ("ssd_mobilenet_v2", 300): (3775 / 2, 0.01),
    ("ssdlite_mobilenet_v2", 300): (1525 / 2, 0.02),
    ("yolov2", 608): (62.94e3 / 2, 0.001),
    ("yolov4_csp", 512): (77e3 / 2, 0.005),
    ("yolov4x_mish", 640): (221e3 / 2, 0.01),
    # OpenVINO's 123.309 and 178.6807 billions of operations
    ("ssd_mobilenet_v1_fpn", 640): (123309 / 2, 0.002),
    ("ssd_resnet50_fpn", 640): (178681 / 2, 0.005),
    # PaddleClas's and NanoDet's tables
    ("resnet50_vd", 224): (8670 / 2, 0.005),
    ("nanodet_plus_m_1.5", 416): (2970 / 2, 0.002),
    # LeViT's table 3, timm's table
    ("levit_128", 224): (406, 0.005),
    ("levit_256", 224): (1120, 0.01),
    ("mobilevit_s", 256): (2030, 0.02),
    # EfficientDet's table; heads of TensorFlow's configurations; TF-Slim's table and the Edge TPU compiler
    ("efficientdet_d0", 512): (2500, 0.01),
    ("efficientdet_d1", 640): (6100, 0.02),
    ("efficientdet_d2", 768): (11000, 0.02),
    ("efficientdet_d3", 896): (25000, 0.02),
    ("ssdlite_mobiledet_cpu", 320): (450, 0.015),
    ("ssdlite_mobiledet_dsp", 320): (2820, 0.003),
    ("ssdlite_mobiledet_edgetpu", 320): (1530, 0.004),
    ("ssdlite_mobiledet_gpu", 320): (5070, 0.001),
    ("ssd_mnasfpn", 320): (920, 0.006),
    ("mobilenet_edgetpu_1.0", 224): (990, 0.001),
    ("mobilenet_edgetpu_0.75", 224): (624.5, 0.001),
    # half of the billions of operations in Ultralytics's and YOLOX's tables, which count norms too
    ("yolov5n", 640): (4.5e3 / 2, 0.02),
    ("yolov5s", 640): (16.5e3 / 2, 0.01),
    ("yolov8n", 640): (8.7e3 / 2, 0.01),
    ("yolov8m", 640): (78.9e3 / 2, 0.01),
    ("yolov8x", 640): (257.8e3 / 2, 0.01),
    ("yolo11n", 640): (6.5e3 / 2, 0.01),
    ("yolo11m", 640): (68.0e3 / 2, 0.01),
    ("yolo11x", 640): (194.9e3 / 2, 0.01),
    ("yolov8x-cls", 640): (154.8e3 / 2, 0.01),
    ("yolo11x-cls", 640): (110.4e3 / 2, 0.01),
    ("yolox_nano", 416): (1.08e3 / 2, 0.04),
    ("yolox_tiny", 416): (6.45e3 / 2, 0.01),
    ("yolox_s", 640): (26.8e3 / 2, 0.01),
}


def parameters(network: nn.Module) -> int:
    """How many weights the network has."""
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("key", PARAMETERS)
def test_parameters_are_the_published_ones(key: str) -> None:
    assert parameters(on_meta(key, "1x3x224x224")[0]) == PARAMETERS[key]


@pytest.mark.parametrize("key", MILLIONS)
def test_millions_of_parameters_are_the_published_ones(key: str) -> None:
    network, _ = on_meta(key, "1x3x320x320")
    millions, averaged = MILLIONS[key]
    averages = sum(b.numel() for name, b in network.named_buffers() if "running" in name) if averaged else 0
    digits = len(str(millions).split(".")[1])
    assert round((parameters(network) + averages) / 1e6, digits) == millions


@pytest.mark.parametrize(("key", "side"), TIMM)
def test_parameters_and_activations_agree_with_timm(key: str, side: int) -> None:
    network, image = on_meta(key, f"1x3x{side}x{side}")
    written = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal written
        written += output.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(image)
    assert (round(parameters(network) / 1e6, 2), round(written / 1e6, 2)) == TIMM[key, side]


@pytest.mark.parametrize(("key", "side"), MACS)
def test_multiply_accumulates_are_the_published_ones(key: str, side: int) -> None:
    network, image = on_meta(key, f"1x3x{side}x{side}")
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        network(image)
    published, tolerance = MACS[key, side]
    assert flops.get_total_flops() / 2e6 == pytest.approx(published, rel=tolerance)


def test_transformers_on_sequences_have_the_published_parameters() -> None:
    """Of BERT all but the tables of words, positions and segments and the pooler; of Whisper all but the decoder."""
    for key, whole, elsewhere in (
        ("bert-base", 109_482_240, (30_522 + 512 + 2) * 768 + 768 * 769),
        ("bert-large", 335_141_888, (30_522 + 512 + 2) * 1024 + 1024 * 1025),
    ):
        network, tokens = on_meta(key, "8x384")
        assert parameters(network) == whole - elsewhere + 2 * (tokens.shape[2] + 1)
        assert network(tokens).shape == (8, 384, 2)
    network, sound = on_meta("whisper-tiny.en encoder", "1x80x3000")
    assert parameters(network) == 7_632_384
    assert network(sound).shape == (1, 1500, 384)


# parameters and multiply-accumulates of MLPerf Tiny's files: NXP's eIQ Model Zoo, Silicon Labs' MLTK. Keras also counts
# the biases before norms, which these need not have, and but for the keyword spotter NXP counts what it does not train.
TINY = {
    ("resnet8", "1x32x32x3"): (78_666, 12.502e6),
    ("ds_cnn", "1x49x10x1"): (23_756, 2.657e6),
    ("mobilenet_v1", "1x96x96x3"): (221_794, 7.490e6),
    ("autoencoder", "1x640"): (267_928, 264_192),
}


@pytest.mark.parametrize(("name", "input_shape"), TINY)
def test_mlperf_tinys_networks_have_the_published_sizes(name: str, input_shape: str) -> None:
    network, x = on_meta(f"mlperf-tiny:{name}", input_shape)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        network(x)
    published, macs = TINY[name, input_shape]
    norms = sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    averages = 0 if name == "ds_cnn" else 2 * norms
    assert parameters(network) + norms + averages == published
    assert flops.get_total_flops() / 2 == pytest.approx(macs, rel=1e-4)


def test_attention_biases_of_levit_are_kept_pair_by_pair() -> None:
    """timm counts one weight for every offset between two places; a runtime holds one for every pair."""
    network, _ = on_meta("levit_128", "1x3x224x224")
    biases = [p for name, p in network.named_parameters() if name.endswith("biases")]
    offsets = sum(p.shape[0] * p.shape[2] for p in biases)
    assert parameters(network) - sum(p.numel() for p in biases) + offsets == 9_213_936


def test_the_unet_is_the_one_of_the_tutorial() -> None:
    """Keras counts 6,504,227, moving averages included, and no norm behind the deepest tap (4 x 320)."""
    network, _ = on_meta("coral:Unet Mv2", "1x128x128x3")
    averages = sum(b.numel() for name, b in network.named_buffers() if "running" in name)
    assert parameters(network) + averages == 6_504_227 + 4 * 320


def test_the_large_ssd_has_mlperfs_anchors() -> None:
    network, image = on_meta("mlperf:ssd-resnet34", "1x1200x1200x3")
    assert sum(boxes.shape[1] // 4 * boxes.shape[2] * boxes.shape[3] for boxes in network(image)[::2]) == 15_130
