"""A contract's types as data, which knows nothing of bytes: nodes, signatures, and how annotations become them."""

from typedrpc.schema.hints import SignatureFaults, node_of
from typedrpc.schema.nodes import (
    COLLECTIONS,
    MAPPINGS,
    NONE,
    SCALARS,
    CollectionNode,
    DataclassNode,
    EnumNode,
    Field,
    LiteralNode,
    LiteralValue,
    MappingNode,
    Node,
    ScalarNode,
    TupleNode,
    UnionNode,
    children,
    hashable,
)
from typedrpc.schema.signature import Parameter, ParameterKind, Signature, signature_of

__all__ = [
    "COLLECTIONS",
    "MAPPINGS",
    "NONE",
    "SCALARS",
    "CollectionNode",
    "DataclassNode",
    "EnumNode",
    "Field",
    "LiteralNode",
    "LiteralValue",
    "MappingNode",
    "Node",
    "Parameter",
    "ParameterKind",
    "ScalarNode",
    "Signature",
    "SignatureFaults",
    "TupleNode",
    "UnionNode",
    "children",
    "hashable",
    "node_of",
    "signature_of",
]
