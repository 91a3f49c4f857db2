"""A component as plain data: what is kept of it in archives and folders, and what it is made from again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ArchiveFormatError, DescriptorError

__all__ = ["ComponentRecord", "check_id"]

_ID = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True)
class ComponentRecord:
    """Frozen copies: nothing that happens to the component later changes them.

    Args:
        kind: Which class reads it.
        schema_version: Of what that class writes.
        header: JSON, every number finite.
        tensors: By name; C-contiguous copies that cannot be written to.

    Raises:
        DescriptorError: the header is not JSON, or holds a number that is not finite.
    """

    kind: str
    schema_version: int
    header: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        try:
            header = json.loads(json.dumps(dict(self.header), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise DescriptorError(
                f"the header of a {self.kind} is not JSON: {error}", hint="keep arrays among the tensors"
            ) from error
        object.__setattr__(self, "header", MappingProxyType(header))
        tensors = {name: _frozen(self.tensors[name]) for name in sorted(self.tensors)}
        object.__setattr__(self, "tensors", MappingProxyType(tensors))

    @property
    def nbytes(self) -> int:
        """Of the tensors."""
        return sum(array.nbytes for array in self.tensors.values())

    @property
    def meta(self) -> dict[str, Any]:
        """All but the tensors, as an archive keeps it beside a genome."""
        return {"kind": self.kind, "schema_version": self.schema_version, "header": dict(self.header)}

    def to_dict(self) -> dict[str, Any]:
        """`meta` and the tensors in one mapping."""
        return {**self.meta, "tensors": dict(self.tensors)}

    @classmethod
    def of_genome(cls, tensors: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> ComponentRecord:
        """What an archive kept: a genome of named arrays, and `meta`.

        Raises:
            ArchiveFormatError: `meta` is not that of a component.
        """
        try:
            return cls(str(meta["kind"]), int(meta["schema_version"]), dict(meta["header"]), tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise ArchiveFormatError(
                f"this elite is no component: {error!r} in {sorted(meta)}",
                hint="offer candidates with record.tensors as the genome and record.meta beside it",
            ) from error

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> ComponentRecord:
        """What `to_dict` made."""
        return cls.of_genome(found["tensors"], found)

    def expect(self, kind: str, schema_version: int) -> None:
        """Nothing, where a reader of `kind` up to `schema_version` can read it.

        Raises:
            ArchiveFormatError: it is of another kind, or was written by a newer version.
        """
        if self.kind != kind or not 1 <= self.schema_version <= schema_version:
            raise ArchiveFormatError(
                f"a record of kind {self.kind!r}, version {self.schema_version}; {kind!r} up to"
                f" {schema_version} can be read",
                hint="open it with the version that wrote it",
            )


def check_id(component_id: str) -> str:
    """The id itself.

    Raises:
        DescriptorError: it is not 1 to 64 of a-z, 0-9 and -.
    """
    if not isinstance(component_id, str) or not _ID.fullmatch(component_id):
        raise DescriptorError(f"{component_id!r} is no id of a component", hint="1 to 64 of a-z, 0-9 and -")
    return component_id


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    copy = np.array(array, order="C", copy=True)
    copy.flags.writeable = False
    return copy
