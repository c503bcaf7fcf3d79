"""The types of numbers that torch stores, by name and size: what is read of a file without torch needs no more."""

from typing import Final


class NumberType:
    """A type of numbers.

    Args:
        name: torch's, such as `float32`.
        itemsize: bytes of a number.
        is_complex: whether a number is two.
    """

    __slots__ = ("is_complex", "itemsize", "name")

    def __init__(self, name: str, itemsize: int, is_complex: bool = False) -> None:
        self.name = name
        self.itemsize = itemsize
        self.is_complex = is_complex

    @property
    def width(self) -> int:
        """Bytes that change places between machines of the two byte orders."""
        return self.itemsize // 2 if self.is_complex else self.itemsize


_SIZES: Final = {
    1: "bool uint8 int8 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 "
    "bits8 bits4x2 bits2x4 bits1x8 qint8 quint8 quint4x2 quint2x4 "
    "int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7",
    2: "float16 bfloat16 int16 uint16 bits16",
    4: "float32 int32 uint32 complex32 bcomplex32 qint32",
    8: "float64 int64 uint64 complex64",
    16: "complex128",
}
_ALIASES: Final = {
    **{"double": "float64", "float": "float32", "half": "float16", "long": "int64", "int": "int32", "short": "int16"},
    **{"cdouble": "complex128", "cfloat": "complex64", "chalf": "complex32", "bit": "uint1"},
}
_BY_OWN_NAME: Final = {
    name: NumberType(name, size, "complex" in name) for size, names in _SIZES.items() for name in names.split()
}
NUMBER_TYPES: Final = _BY_OWN_NAME | {alias: _BY_OWN_NAME[name] for alias, name in _ALIASES.items()}
"""By the names that torch has for them."""

_STORAGES: Final = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64"},
    **{"Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "Untyped": "uint8"},
    **{"ComplexDouble": "complex128", "ComplexFloat": "complex64"},
}
# torch's storage classes by name; files keep these names although torch itself has only one class now.
STORAGE_TYPES: Final = {f"{name}Storage": NUMBER_TYPES[own] for name, own in _STORAGES.items()}

_IN_SAFETENSORS: Final = {
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
    **{"U16": "uint16", "I16": "int16", "F16": "float16", "BF16": "bfloat16", "U32": "uint32", "I32": "int32"},
    **{"F32": "float32", "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64"},
}
SAFETENSORS_TYPES: Final = {name: NUMBER_TYPES[own] for name, own in _IN_SAFETENSORS.items()}
