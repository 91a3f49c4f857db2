"""The published networks whose measured latencies calibrate and judge the cost model, with random weights.

Every network is written from its paper's tables and checked by published counts of parameters and of
multiply-accumulates. `build` returns the network that a row of `measured.csv` names. It works under
`torch.device("meta")`, where it takes milliseconds and no memory: shapes are all that a cost model reads.

Detectors stop at their raw grids, but for those whose authors' own export decodes the boxes. TensorFlow's 1,001
classes (one for background) are 1,000 here.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from . import (
    bert,
    compact,
    darknet,
    densenet,
    dpn,
    efficientdet,
    efficientnet,
    fast_scnn,
    hrnet,
    inception,
    levit,
    mobilenet,
    mobilenet_yolov3,
    mobilevit,
    nanodet_plus,
    plain,
    regnet,
    repvgg,
    resnet,
    resnet_vd,
    retinanet,
    segmentation,
    shufflenet,
    ssd,
    ssd_zoo,
    ssdlite,
    superresolution,
    swin,
    tiny,
    vit,
    whisper,
    xception,
    yolo,
    yolov2,
    yolov4_scaled,
    yolox,
    yunet,
)
from .blocks import Make

__all__ = ["NETWORKS", "build", "canonical", "coverage", "family"]

_FAMILIES: Mapping[str, Mapping[str, Make]] = {
    "alexnet": plain.ALEXNET,
    "autoencoder": tiny.AUTOENCODER,
    "bert": bert.BERT,
    "blazeface": ssd.BLAZEFACE,
    "darknet": darknet.DARKNET | yolov2.YOLOV2 | yolov4_scaled.SCALED_YOLOV4,
    "densenet": densenet.DENSENET,
    "dpn": dpn.DPN,
    "ds_cnn": tiny.DS_CNN,
    "efficientnet": efficientnet.EFFICIENTNET | efficientdet.EFFICIENTDET,
    "fast_scnn": fast_scnn.FAST_SCNN,
    "fbnet": efficientnet.FBNET,
    "ghostnet": compact.GHOSTNET,
    "hrnet": hrnet.HRNET,
    "inception": inception.INCEPTION,
    "lcnet": compact.LCNET,
    "levit": levit.LEVIT,
    "mixer": vit.MIXER,
    "mnasnet": efficientnet.MNASNET,
    "mobiledet": ssdlite.MOBILEDET,
    "mobilenet_edgetpu": ssdlite.MOBILENET_EDGETPU,
    "mobilenet_v1": mobilenet.V1
    | ssd.SSD_MOBILENET_V1
    | ssdlite.SSDLITE_MOBILENET_V1
    | retinanet.FPN_MOBILENET_V1
    | tiny.MOBILENET_V1
    | mobilenet_yolov3.MOBILENET_YOLOV3,
    "mobilenet_v2": mobilenet.V2
    | ssd.SSD_MOBILENET_V2
    | ssd_zoo.SSD_MOBILENET_V2
    | retinanet.FPN_MOBILENET_V2
    | segmentation.MOBILENET_V2,
    "mobilenet_v3": mobilenet.V3 | ssdlite.SSDLITE_MOBILENET_V3,
    "mobileone": repvgg.MOBILEONE,
    "mobilevit": mobilevit.MOBILEVIT,
    "proxylessnas": efficientnet.PROXYLESSNAS,
    "regnet": regnet.REGNET,
    "repvgg": repvgg.REPVGG,
    "resnet": resnet.RESNET | resnet_vd.RESNET_VD | ssd.SSD_RESNET | retinanet.FPN_RESNET | tiny.RESNET,
    "shufflenet_v1": shufflenet.V1,
    "shufflenet_v2": shufflenet.V2 | ssd.SSD_SHUFFLENET_V2 | nanodet_plus.NANODET_PLUS,
    "squeezenet": plain.SQUEEZENET | ssd.SSD_SQUEEZENET,
    "super_resolution": superresolution.SUPER_RESOLUTION,
    "swin": swin.SWIN,
    "vgg": plain.VGG,
    "vit": vit.VIT,
    "whisper": whisper.WHISPER,
    "xception": xception.XCEPTION,
    "yolo": yolo.YOLO | yolox.YOLOX,
    "yolo_fastest": ssd.YOLO_FASTEST,
    "yunet": yunet.YUNET,
}

NETWORKS: Mapping[str, Make] = {key: make for group in _FAMILIES.values() for key, make in group.items()}
_FAMILY_OF = {key: name for name, group in _FAMILIES.items() for key in group}
_GRAY = frozenset(superresolution.SUPER_RESOLUTION | tiny.DS_CNN)  # they take one channel
_SIZED = frozenset(
    vit.VIT | vit.MIXER | levit.LEVIT | yolo.DETECTORS
)  # their weights or constants depend on the image size


def _hundredths(text: str) -> str:
    return str(int(text) / 100)


# What a row calls a network (the whole name must match), and the key of the network; \1 and \2 are its groups.
_NAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    # MLPerf: TFLite's hosted models on the Pi, ResNet-50 v1.5 everywhere
    (r"mlperf:mobilenet-(v[12])-([\d.]+)-\d+-(?:non-)?quantized", r"mobilenet_\1_\2"),
    (r"mlperf:mobilenet-v3-(small|large)-minimalistic_224_1\.0_\w+", r"mobilenet_v3_\1_minimalistic"),
    (r"mlperf:mobilenet-v3-(small|large)_224_([\d.]+)_\w+", r"mobilenet_v3_\1_\2"),
    (r"mlperf:efficientnet-(lite\d)-(?:non-)?quantized", r"efficientnet_\1"),
    (r"mlperf:mobilenet", "mobilenet_v1_1.0"),
    (r"mlperf:resnet(?:50)?", "resnet50"),
    (r"mlperf:ssd-mobilenet(?:-v1-edgetpu|-(?:non-)?quantized)?", "ssd_mobilenet_v1_1.0"),
    (r"mlperf:ssd-mobilenet-v2-edgetpu", "ssd_mobilenet_v2"),
    (r"mlperf:ssd-resnet34", "ssd_resnet34"),
    (r"mlperf-tiny:(autoencoder|ds_cnn|mobilenet_v1|resnet8)", r"tiny_\1"),
    # torchvision, timm, NVIDIA
    (r"(?:torchvision:|timm:)?(resnet(?:18|34|50|101|152)|resnext\w+|wide_resnet50_2|seresnet50)", r"\1"),
    (
        r"(?:torchvision:|timm:)?(alexnet|googlenet|vgg\d+(?:_bn)?|densenet\d+|inception_v[34]|inception_resnet_v2)",
        r"\1",
    ),
    (r"torchvision:squeezenet1_([01])", r"squeezenet_1.\1"),
    (r"torchvision:mobilenet_v2|mobilenet_v2(?:_1\.0)?", "mobilenet_v2_1.0"),
    (r"mobilenet_v1_1\.0|opencv_zoo:image_classification_mobilenetv1_2022apr\.onnx", "mobilenet_v1_1.0"),
    (r"(?:torchvision:)?mobilenet_v3_(small|large)", r"mobilenet_v3_\1_1.0"),
    (r"torchvision:shufflenet_v2_x(\d)_(\d)", r"shufflenet_v2_\1.\2"),
    (r"torchvision:mnasnet1_0", "mnasnet_1.0"),
    (r"torchvision:regnet_([xy])_(400|800)mf", r"regnet\1_\2m"),
    (r"torchvision:vit_([bl])_(16|32)", lambda m: f"vit_{'base' if m[1] == 'b' else 'large'}_patch{m[2]}"),
    (r"(?:torchvision:|timm:(?:tf_)?)?(efficientnet_(?:b|lite)\d)", r"\1"),
    (r"timm:tf_efficientnet_e([sml])", r"efficientnet_edgetpu_\1"),
    (r"timm:(?:tf_)?(efficientnetv2_\w+)", r"\1"),
    (r"timm:mobilenet(v[12])_(\d{3})", lambda m: f"mobilenet_{m[1]}_{_hundredths(m[2])}"),
    (r"timm:(?:tf_)?mobilenetv3_(small|large)_(\d{3})", lambda m: f"mobilenet_v3_{m[1]}_{_hundredths(m[2])}"),
    (r"timm:(fbnetc|ghostnet|lcnet|mnasnet|spnasnet)_(\d{3})", lambda m: f"{m[1]}_{_hundredths(m[2])}"),
    (r"timm:(?:vit|deit)_(tiny|small|base|large)_patch(16|32)_\d+", r"vit_\1_patch\2"),
    (r"timm:mixer_b16_224", "mixer_base_patch16"),
    (r"timm:swin_(tiny|base)_patch4_window7_224", r"swin_\1"),
    (
        r"timm:(cspdarknet53|darknet53|dpn68|hrnet_w18|mnasnet_small|mobileone_s[01]|repvgg_[ab]0|tinynet_a|xception41)",
        r"\1",
    ),
    # TF-Slim
    (r"tfslim:resnet_v([12])_(\d+)", r"resnet_v\1_\2_slim"),
    (r"tfslim:inception_v1", "googlenet"),
    (r"tfslim:(inception_v[234]|inception_resnet_v2)", r"\1"),
    (r"tfslim:mobilenet_v1_(\d)p(\d+)_\d+", r"mobilenet_v1_\1.\2"),
    (r"tfslim:vgg_(\d+)", r"vgg\1"),
    # Coral, whose models are TF-Slim's
    (r"coral:(?:mobilenet_|MobileNet )(v[12])(?:_1\.0_224)?", r"mobilenet_\1_1.0"),
    (r"coral:mobilenet_(v[12])_([\d.]+)_\d+", r"mobilenet_\1_\2"),
    (r"coral:(?:inception_|Inception )v1(?:_224)?", "googlenet"),
    (r"coral:(?:inception_|Inception )v([234])", r"inception_v\1"),
    (r"coral:ResNet-(50|152) V([12])", r"resnet_v\2_\1_slim"),
    (r"coral:VGG(16|19)", r"vgg\1"),
    (r"coral:[Ee]fficient[Nn]et-[Ee]dge[Tt][Pp][Uu]-([SML])", lambda m: f"efficientnet_edgetpu_{m[1].lower()}"),
    (r"coral:DeepLab V3", "deeplab_mobilenet_v2"),
    (r"coral:Unet Mv2", "unet_mobilenet_v2"),
    # ncnn
    (r"ncnn:mobilenet", "mobilenet_v1_1.0"),
    (r"ncnn:mobilenet_v2", "mobilenet_v2_caffe"),
    (r"ncnn:mobilenet_v3", "mobilenet_v3_large_1.0"),
    (r"ncnn:(alexnet|googlenet|resnet50)", r"\1_caffe"),
    (
        r"ncnn:(resnet18|vgg16|efficientnet_b0|efficientnetv2_b0|regnety_400m|blazeface|squeezenet_ssd|mobilenet_yolo"
        r"|nanodet_m)",
        r"\1",
    ),
    (r"ncnn:squeezenet", "squeezenet_1.1"),
    (r"ncnn:shufflenet", "shufflenet_v1_g3"),
    (r"ncnn:shufflenet_v2", "shufflenet_v2_1.0"),
    (r"ncnn:mnasnet", "mnasnet_1.0"),
    (r"ncnn:proxylessnasnet", "proxylessnas_mobile"),
    (r"ncnn:vision_transformer", "vit_base_patch32"),
    (r"ncnn:mobilenet_ssd", "ssd_mobilenet_v1_caffe"),
    (r"ncnn:mobilenetv2_yolov3", "mobilenet_v2_yolov3"),
    (r"ncnn:yolo-fastest-1\.1", "yolo_fastest_1.1"),
    (r"ncnn:yolo-fastestv2", "yolo_fastest_v2"),
    (r"ncnn:FastestDet", "fastestdet"),
    (r"ncnn:yolov4-tiny", "yolov4_tiny"),
    # detectors and heads
    (
        r"(?:tfslim:|coral:)?ssd_mobilenet_v1_coco|ion:SSD MobileNet V1|coral:MobileNet v1 SSD",
        "ssd_mobilenet_v1_1.0",
    ),
    (r"ssd_mobilenet_v1_0\.75_depth_coco", "ssd_mobilenet_v1_0.75"),
    (r"(?:ion|tf1zoo):SSD Mobile[Nn]et [vV]2", "ssd_mobilenet_v2"),
    (r"(?:ion|tf1zoo):SSDLite Mobile[Nn]et [vV]2", "ssdlite_mobilenet_v2"),
    (r"SSD MobileNet v2", "ssd_mobilenet_v2_pointwise"),
    (r"SSD MobileNet V2 FPNLite", "ssd_mobilenet_v2_fpnlite"),
    (r"tf1zoo:SSD Mobilenet v1 FPN", "ssd_mobilenet_v1_fpn"),
    (r"tf1zoo:SSD Resnet 50 v1 FPN|SSD ResNet50 V1 FPN", "ssd_resnet50_fpn"),
    (r"tf1zoo:SSD MnasFPN", "ssd_mnasfpn"),
    (r"tf1zoo:SSDLite Mobilenet v1", "ssdlite_mobilenet_v1"),
    (r"tf1zoo:SSDLite Mobilenet v3 small|ion:SSD MobileNet V3 Small", "ssdlite_mobilenet_v3_small"),
    (r"(ssdlite_mobilenet_v3_(?:small|large))_320x320", r"\1"),
    (r"tf1zoo:SSDLite MobileNetEdgeTPU|ssdlite_mobilenet_edgetpu_320x320(?:_quant)?", "ssdlite_mobilenet_edgetpu"),
    (r"(?:ion|tf1zoo):SSDLite MobileDet[ -](CPU|DSP|EdgeTPU|GPU)", lambda m: f"ssdlite_mobiledet_{m[1].lower()}"),
    (r"EfficientDet-(d\d|lite\d)", r"efficientdet_\1"),
    (r"mobilenet-ssd-300", "ssd_mobilenet_v1_caffe"),
    (r"mobilenet-yolov3(-lite)?-\d+", lambda m: f"mobilenet_yolov3{'_lite' if m[1] else ''}"),
    (r"ion:YOLO v2", "yolov2"),
    (r"yolov4(-csp|x-mish)-\d+", lambda m: f"yolov4{m[1].replace('-', '_')}"),
    (r"fast-scnn", "fast_scnn"),
    (r"bert-(base|large)", r"bert_\1"),
    (r"whisper-(tiny|base)(?:\.en)? encoder", r"whisper_\1_encoder"),
    (r"timm:(levit_(?:128|256)|mobilevit_x?x?s)", r"\1"),
    (r"opencv_zoo:image_classification_ppresnet50_2022jan\.onnx", "resnet50_vd"),
    (r"opencv_zoo:face_detection_yunet_2023mar\.onnx", "yunet"),
    (r"opencv_zoo:object_detection_nanodet_2022nov\.onnx", "nanodet_plus_m_1.5"),
    (r"super_resolution", "super_resolution"),
    (r"(yolov[34])(?:-\d+)?", r"\1"),
    (r"(yolov[34])-(tiny|spp)-\d+", r"\1_\2"),
    (r"ion:YOLO v3", "yolov3"),
    (r"ion:tiny-YOLO v3|tiny[-_]yolov3(?:-\d+)?", "yolov3_tiny"),
    (r"(yolov5[nsm]|(?:yolov8|yolo11)[nsmlx](?:-cls)?)", r"\1"),
    (r"YOLOX-(Nano|Tiny)", lambda m: f"yolox_{m[1].lower()}"),
    (r"opencv_zoo:object_detection_yolox_2022nov\.onnx", "yolox_s"),
    (r"fcn-resnet18-[\w-]+", "fcn_resnet18"),
    (r"trt_pose:(resnet18|densenet121)_baseline_att_\w+", r"\1_pose"),
)
_SOURCE = re.compile(r"(?:coral|ion|larq|mlperf|mlperf-tiny|ncnn|opencv_zoo|tf1zoo|tfslim|timm|torchvision|trt_pose):")
_COMPILED = tuple((re.compile(pattern), key) for pattern, key in _NAMES)


def canonical(model: str) -> str | None:
    """The key in `NETWORKS` of the network that a row calls `model`; None where it is not defined here.

    Rows that name the same network share the key, whatever their resolution, precision and source.
    """
    for pattern, key in _COMPILED:
        if match := pattern.fullmatch(model):
            name = key(match) if callable(key) else match.expand(key)
            return name if name in NETWORKS else None
    return None


def family(model: str) -> str:
    """The architecture family of `model`, for leaving whole families out; detectors count with their backbone.

    Takes a row's name or a key of `NETWORKS`. A network that is not defined here is a family by its first word.
    """
    if known := _FAMILY_OF.get(canonical(model) or model):
        return known
    word = re.search(r"[a-z]{2,}", _SOURCE.sub("", model).lower())
    return word[0] if word else model


def _shape(key: str, input_shape: str) -> tuple[int, ...] | None:
    """The shape that the network `key` takes, from a row's; None where the row does not say one.

    Images are (batch, channels, height, width), from NHWC or NCHW; embedded tokens are (batch, tokens, width) from a
    row's `8x384`; spectrograms (batch, 80, frames), or flat as (batch, bins).
    """
    if not re.fullmatch(r"\d+(?:x\d+)*", input_shape):
        return None
    sizes = tuple(int(part) for part in input_shape.split("x"))
    if key in bert.BERT:
        return (*sizes, bert.WIDTHS[key]) if len(sizes) == 2 else None
    if key in tiny.AUTOENCODER:
        return sizes if sizes[1:] == (640,) else None
    if key in whisper.WHISPER:
        return sizes if sizes[1:] == (80, 3000) else None
    return _nchw(sizes, 1 if key in _GRAY else 3) if len(sizes) == 4 else None


def _nchw(sizes: tuple[int, ...], channels: int) -> tuple[int, int, int, int] | None:
    batch, a, b, c = sizes
    shape = (batch, a, b, c) if a == channels else (batch, c, a, b)
    return shape if shape[1] == channels else None


def build(model: str, input_shape: str) -> tuple[nn.Module, tuple[int, ...]] | None:
    """The network that a row of measured.csv names, in eval mode, and its input shape.

    Args:
        model: The row's `model`, or a key of `NETWORKS`.
        input_shape: The row's `input_shape`, for example `1x224x224x3`, `1x3x224x224`, or `8x384` for BERT's tokens.

    Returns:
        None where the row's network is not defined here, or the row does not say its input's size.
    """
    key = model if model in NETWORKS else canonical(model)
    shape = _shape(key, input_shape) if key else None
    if key is None or shape is None:
        return None
    size = {"height": shape[2], "wide": shape[3]} if key in _SIZED else {}
    return NETWORKS[key](**size).eval(), shape


_STACK = ("device", "device_variant", "runtime", "precision", "threads", "batch")


def coverage(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, ...], tuple[int, int]]:
    """How many rows of measured.csv each stack has, and for how many of them `build` has the network.

    Returns:
        (device, device_variant, runtime, precision, threads, batch) to (covered, total).
    """
    counts: dict[tuple[str, ...], tuple[int, int]] = {}
    for row in rows:
        stack = tuple(row[column] for column in _STACK)
        covered, total = counts.get(stack, (0, 0))
        key = canonical(row["model"])
        known = key is not None and _shape(key, row["input_shape"]) is not None
        counts[stack] = (covered + known, total + 1)
    return counts
