"""What a shell proposes after --model, --data and --preset, without importing torch, which takes seconds."""

import os
from collections.abc import Iterable
from typing import Final

from fisher_cli.settings import PRESETS

# Those of `fisher models` and `fisher datasets`; tests/cli/test_guidance.py sees that they are.
MODELS: Final = """
digits-mlp digits-cnn resnet20-cifar resnet32-cifar resnet44-cifar resnet56-cifar resnet110-cifar resnet1202-cifar
resnet18-cifar resnet34-cifar resnet50-cifar resnet101-cifar resnet152-cifar wrn-16-4 wrn-16-8 wrn-28-2 wrn-28-10
wrn-40-2 wrn-40-4 alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161
densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet
inception_v3 maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf
regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101
resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5
shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b
swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16
vit_l_32 wide_resnet101_2 wide_resnet50_2
"""
DATASETS: Final = """
caltech101 caltech256 celeba-5-o-clock-shadow celeba-arched-eyebrows celeba-attractive celeba-bags-under-eyes
celeba-bald celeba-bangs celeba-big-lips celeba-big-nose celeba-black-hair celeba-blond-hair celeba-blurry
celeba-brown-hair celeba-bushy-eyebrows celeba-chubby celeba-double-chin celeba-eyeglasses celeba-goatee
celeba-gray-hair celeba-heavy-makeup celeba-high-cheekbones celeba-identity celeba-male celeba-mouth-slightly-open
celeba-mustache celeba-narrow-eyes celeba-no-beard celeba-oval-face celeba-pale-skin celeba-pointy-nose
celeba-receding-hairline celeba-rosy-cheeks celeba-sideburns celeba-smiling celeba-straight-hair celeba-wavy-hair
celeba-wearing-earrings celeba-wearing-hat celeba-wearing-lipstick celeba-wearing-necklace celeba-wearing-necktie
celeba-young cifar10 cifar100 clevr country211 digits dtd emnist-balanced emnist-byclass emnist-bymerge emnist-digits
emnist-letters emnist-mnist eurosat fake-data fashion-mnist fer2013 fgvc-aircraft fgvc-aircraft-family
fgvc-aircraft-manufacturer flowers102 food101 gtsrb imagenet imagenette imagenette-160px imagenette-320px
inaturalist-2017 inaturalist-2018 inaturalist-2019 inaturalist-2021 kmnist lfw-people mnist omniglot oxford-iiit-pet
oxford-iiit-pet-binary pcam places365 places365-small qmnist rendered-sst2 semeion stanford-cars stl10 sun397 svhn
usps
"""
_FILES: Final = (".npz", ".pt", ".pth", ".safetensors", ".parquet")
_FOLDER: Final = "folder:"


def models(incomplete: str) -> list[str]:
    """The networks whose names begin so; and files that may hold a function of the user's."""
    return _beginning(MODELS.split(), incomplete) + _paths(incomplete, (".py",))


def data(incomplete: str) -> list[str]:
    """The datasets whose names begin so, folders after `folder:`, and files that may hold data."""
    if incomplete.startswith(_FOLDER):
        return [_FOLDER + path for path in _paths(incomplete.removeprefix(_FOLDER), ())]
    return _beginning((*DATASETS.split(), _FOLDER, "hf:"), incomplete) + _paths(incomplete, (*_FILES, ".py"))


def presets(incomplete: str) -> list[tuple[str, str]]:
    """The presets whose names begin so, each with what it does."""
    return [(name, preset.about) for name, preset in PRESETS.items() if name.startswith(incomplete)]


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    """Folders, and files with one of these suffixes, whose paths begin so."""
    folder, _, start = incomplete.rpartition("/")
    before = f"{folder}/" if "/" in incomplete else ""
    try:
        with os.scandir(before or ".") as entries:
            found = [(each.name, each.is_dir()) for each in entries if each.name.startswith(start)]
    except OSError:
        return []
    return sorted(
        f"{before}{name}{'/' if is_folder else ''}"
        for name, is_folder in found
        if (is_folder or name.endswith(suffixes)) and not (name.startswith(".") and not start)
    )
