"""Networks of the bench by name: which one a row means, its family, the shapes that it takes, and that it exports."""

import pytest
import torch
from torch import Tensor

from tests.toolkit.bench.networks_on_meta import on_meta
from toolkit.bench.networks import NETWORKS, build, canonical, coverage, family

pytestmark = pytest.mark.slow


# ---- names


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("mlperf:mobilenet-v1-0.25-128-non-quantized", "mobilenet_v1_0.25"),
        ("mlperf:mobilenet-v2-1.3-224-quantized", "mobilenet_v2_1.3"),
        ("mlperf:mobilenet-v3-small_224_0.75_float", "mobilenet_v3_small_0.75"),
        ("mlperf:mobilenet-v3-small-minimalistic_224_1.0_float", "mobilenet_v3_small_minimalistic"),
        ("mlperf:efficientnet-lite3-quantized", "efficientnet_lite3"),
        ("mlperf:resnet", "resnet50"),
        ("torchvision:shufflenet_v2_x2_0", "shufflenet_v2_2.0"),
        ("timm:mobilenetv2_140", "mobilenet_v2_1.4"),
        ("timm:deit_small_patch16_224", "vit_small_patch16"),
        ("timm:tf_efficientnet_lite0", "efficientnet_lite0"),
        ("tfslim:mobilenet_v1_0p5_160", "mobilenet_v1_0.5"),
        ("tfslim:resnet_v2_152", "resnet_v2_152_slim"),
        ("coral:Inception v1", "googlenet"),
        ("coral:EfficientNet-EdgeTpu-S", "efficientnet_edgetpu_s"),
        ("coral:ResNet-50 V1", "resnet_v1_50_slim"),
        ("ncnn:resnet50", "resnet50_caffe"),
        ("ncnn:vision_transformer", "vit_base_patch32"),
        ("yolov4-tiny-416", "yolov4_tiny"),
        ("yolov4", "yolov4"),
        ("fcn-resnet18-cityscapes-512x256", "fcn_resnet18"),
        ("coral:DenseNet", None),
        ("coral:Inception-ResNet V2", None),
        ("mobilenet-yolov3-608", "mobilenet_yolov3"),
        ("mobilenet-yolov3-lite-320", "mobilenet_yolov3_lite"),
        ("yolov4-csp-512", "yolov4_csp"),
        ("yolov4x-mish-640", "yolov4x_mish"),
        ("EfficientDet-lite4", "efficientdet_lite4"),
        ("ion:SSDLite MobileDet GPU", "ssdlite_mobiledet_gpu"),
        ("tf1zoo:SSDLite MobileDet-EdgeTPU", "ssdlite_mobiledet_edgetpu"),
        ("SSD MobileNet v2", "ssd_mobilenet_v2_pointwise"),
        ("tf1zoo:SSD Mobilenet v2", "ssd_mobilenet_v2"),
        ("SSD MobileNet V2 FPNLite", "ssd_mobilenet_v2_fpnlite"),
        ("ssdlite_mobilenet_edgetpu_320x320_quant", "ssdlite_mobilenet_edgetpu"),
        ("yolo11n", "yolo11n"),
        ("yolov8x-cls", "yolov8x-cls"),
        ("YOLOX-Tiny", "yolox_tiny"),
        ("yolo12n", None),
        ("mlperf-tiny:resnet8", "tiny_resnet8"),
        ("mlperf-tiny:streaming_wakeword", None),
        ("bert-large", "bert_large"),
        ("whisper-base.en encoder", "whisper_base_encoder"),
        ("timm:mobilevit_xxs", "mobilevit_xxs"),
        ("opencv_zoo:face_detection_yunet_2023mar.onnx", "yunet"),
        ("opencv_zoo:license_plate_detection_lpd_yunet_2023mar.onnx", None),
        ("Autoseg-EdgeTPU-S with default argmax", None),
        ("opencv_zoo:object_detection_nanodet_2022nov.onnx", "nanodet_plus_m_1.5"),
        ("timm:mobilenetv2_120", None),
        ("resnet", None),
    ],
)
def test_a_row_names_its_network(model: str, key: str | None) -> None:
    assert canonical(model) == key
    assert key is None or key in NETWORKS


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("mlperf:mobilenet-v1-1.0-224-quantized", "mobilenet_v1"),
        ("ncnn:mobilenet_yolo", "mobilenet_v1"),
        ("ssdlite_mobilenet_v2", "mobilenet_v2"),
        ("trt_pose:resnet18_baseline_att_224x224_A", "resnet"),
        ("timm:resnext50_32x4d", "resnet"),
        ("timm:tf_efficientnet_es", "efficientnet"),
        ("yolov4-608", "darknet"),
        ("mlperf-tiny:mobilenet_v1", "mobilenet_v1"),
        ("mlperf-tiny:autoencoder", "autoencoder"),
        ("EfficientDet-lite0", "efficientnet"),
        ("SSD MobileNet V2 FPNLite", "mobilenet_v2"),
        ("tf1zoo:SpaghettiNet for EdgeTpu S", "spaghettinet"),
        ("qwen:1.8b (4-bit)", "qwen"),
    ],
)
def test_families(model: str, name: str) -> None:
    assert family(model) == name


def test_every_network_has_a_family_and_draws_no_weight_on_meta() -> None:
    for key in NETWORKS:
        assert canonical(key) in (key, None)
        shapes = {
            "autoencoder": "1x640",
            "bert": "1x128",
            "ds_cnn": "1x1x49x10",
            "super_resolution": "1x1x224x224",
            "whisper": "1x80x3000",
        }
        shape = shapes.get(family(key), "1x3x224x224")
        assert all(p.is_meta for p in on_meta(key, shape)[0].parameters())
        assert family(key)


def test_coverage_counts_rows_per_stack() -> None:
    stack = {
        "device": "Pi",
        "device_variant": "",
        "runtime": "TFLite",
        "precision": "int8",
        "threads": "4",
        "batch": "1",
    }
    rows = [
        stack | {"model": "mlperf:resnet50", "input_shape": "1x224x224x3"},
        stack | {"model": "mlperf:resnet50", "input_shape": ""},
        stack | {"model": "mlperf:rnnt", "input_shape": ""},
        stack | {"model": "mlperf:resnet50", "input_shape": "1x224x224x3", "batch": "8"},
    ]
    key = ("Pi", "", "TFLite", "int8", "4")
    assert coverage(rows) == {(*key, "1"): (1, 3), (*key, "8"): (1, 1)}


# ---- shapes


def test_shapes_come_out_as_nchw() -> None:
    for written, shape in (
        ("1x128x96x3", (1, 3, 128, 96)),
        ("1x3x128x96", (1, 3, 128, 96)),
        ("1024x3x224x224", (1024, 3, 224, 224)),
    ):
        network, image = on_meta("mobilenet_v1_0.25", written)
        assert image.shape == shape
        assert not network.training


@pytest.mark.parametrize("shape", ["", "see source", "COCO image", "1x1x512x512", "128x384"])
def test_rows_without_an_image_size_build_nothing(shape: str) -> None:
    assert build("mlperf:resnet50", shape) is None


def test_networks_of_luminance_take_one_channel() -> None:
    network, image = on_meta("super_resolution", "1x1x321x481")
    assert network(image).shape == (1, 1, 963, 1443)
    assert build("super_resolution", "1x3x321x481") is None


def test_a_spectrogram_of_another_size_is_none_of_the_autoencoders() -> None:
    assert build("mlperf-tiny:autoencoder", "1x641") is None
    assert build("mlperf-tiny:autoencoder", "1x3x224x224") is None


def test_unknown_networks_build_nothing() -> None:
    assert build("mlperf:rnnt", "1x3x224x224") is None


@pytest.mark.parametrize(
    ("key", "side"),
    [
        ("mobilenet_v1_0.25", 128),
        ("mobilenet_v3_small_1.0", 224),
        ("shufflenet_v2_0.5", 224),
        ("resnet18_pose", 224),
        ("alexnet_caffe", 227),
        ("vit_tiny_patch16", 224),
        ("swin_tiny", 224),
        ("blazeface", 128),
        ("fastestdet", 352),
        ("yolov4_tiny", 416),
        ("unet_mobilenet_v2", 128),
        ("yolo11n", 320),
        ("yolov5n", 320),
        ("yolox_nano", 416),
        ("efficientdet_lite0", 320),
        ("ssd_mnasfpn", 320),
        ("ssdlite_mobilenet_edgetpu", 320),
        ("mobilenet_yolov3_lite", 320),
        ("fast_scnn", 384),
        ("levit_128", 224),
        ("mobilevit_xxs", 256),
        ("nanodet_plus_m_1.5", 416),
    ],
)
def test_networks_export(key: str, side: int) -> None:
    network, image = on_meta(key, f"1x3x{side}x{side}")
    program = torch.export.export(network, (image,))
    assert all(
        isinstance(dim, int)
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), Tensor)
        for dim in node.meta["val"].shape
    )
