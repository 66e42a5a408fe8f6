"""Protobuf messages from a table: neither TensorFlow, whose messages they may be, nor generated code is loaded.

On the wire a message is its fields' numbers and types alone, so these read and write the bytes of whoever has
the same numbers and types. Messages of a table live in a pool of their own: they do not collide with others of
the same name in one process.
"""

from collections.abc import Mapping

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

# Message -> field -> its number, its type, and for fields of which one excludes the others (a `oneof`) the name
# of that choice. A type is one of protobuf's, as "int64", or another message of the table. In brackets it is
# repeated; in braces it is a map from strings to it.
Table = Mapping[str, Mapping[str, tuple]]

_Field = descriptor_pb2.FieldDescriptorProto


def message_classes(package: str, table: Table) -> dict[str, type[Message]]:
    """The messages of a table, by name.

    Args:
        package: what their full names begin with, e.g. "tfbrats.wire".

    Raises:
        ValueError: a type that is neither protobuf's nor in the table.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in table.items():
        message = file.message_type.add(name=name)
        for field_name, entry in fields.items():
            _add_field(message, field_name, entry, package, table)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in table
    }


def _add_field(
    message: descriptor_pb2.DescriptorProto, name: str, entry: tuple, package: str, table: Table
) -> None:
    number, kind, *choice = entry
    is_many = kind[0] in "[{"
    field = message.field.add(name=name, number=number)
    field.label = _Field.LABEL_REPEATED if is_many else _Field.LABEL_OPTIONAL
    if kind[0] == "{":
        pair = _add_pair(message, name, kind.strip("{}"), package, table)
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{message.name}.{pair}"
    else:
        _set_type(field, kind.strip("[]"), package, table)
    if choice:
        choices = [declared.name for declared in message.oneof_decl]
        if choice[0] not in choices:
            message.oneof_decl.add(name=choice[0])
            choices += choice
        field.oneof_index = choices.index(choice[0])


def _add_pair(message: descriptor_pb2.DescriptorProto, name: str, kind: str, package: str, table: Table) -> str:
    """Adds the message of a map's entries, {key = 1, value = 2}; its name, which protobuf prescribes."""
    pair = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
    pair.options.map_entry = True
    for number, (part, part_kind) in enumerate((("key", "string"), ("value", kind)), 1):
        field = pair.field.add(name=part, number=number, label=_Field.LABEL_OPTIONAL)
        _set_type(field, part_kind, package, table)
    return pair.name


def _set_type(field: _Field, kind: str, package: str, table: Table) -> None:
    if kind in table:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
