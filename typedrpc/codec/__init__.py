"""From schemas to functions: values are checked and packed by generated source. The only place that knows msgpack.

How arguments, results and the values in them travel, for who implements the other end in another language. All of it is
msgpack; a payload is one msgpack value, and nothing may follow it.

**Arguments.** The parameters of a command are numbered from 0 in the order of declaration, whatever their kind, without
``self``. The payload is

- an array of the arguments for the parameters 0, 1, ... n-1, where just these are given, or
- a map from the parameter's number to the argument, where one in between is not given. (A receiver takes a map as well
  where an array would do.)

An argument that is not given is not sent; the callee's default counts. The argument for ``*args`` is an array, the one
for ``**kwargs`` a map from names, none of which may be the name of another parameter that can be given by name. Both
are left out when they are empty. What was given by position or by name is not told apart.

**Result.** The payload is the value; of a command that gives a stream, nil. Each item of a stream is a payload of its
own, as a result of its type is.

**Values**, by their type in the schema:

==============================  ==================================================================================
None, bool                      nil, true or false
int                             integer of any width; where 64 bits do not hold it, extension 1
float                           float 64; a receiver takes integers and float 32 too
str                             str, UTF-8, no surrogates
bytes, bytearray, memoryview    bin; from 65 536 bytes on a segment, except in the keys of a map
datetime                        extension 2
Any                             as the value is: nil, bool, integer, float, str, bin, array, map, extension 1
Literal                         the value
enum                            the name of the member, as str
flag                            the sum of the bits, as integer
list, tuple, set, frozenset,    array; those of sets in any order, none twice; that of a tuple of fixed length has
deque, Sequence, ... MutableSet that length. Of records (behind Annotated, an alias or a conversion, too) that are not
                                keyed and have fields: an array of the fields of the first, of the second and so on,
                                without an array around each; not in a tuple of fixed length
dict, OrderedDict, defaultdict, map, where keys are None, bool, int, float, str, bytes, Literal, enum, flag, what
Counter, Mapping,               travels as one of these, or a union of these without a tag; otherwise an array of
MutableMapping                  arrays ``[key, value]``
record                          array of all the fields that its constructor takes, in the order of declaration
record that is keyed            map from the names of its fields; those that are not required may be missing
Annotated, alias                as the type within
converted                       as the type that it is converted to: `typedrpc.schema.conversions` has those of the
                                standard library
callback, stream                extension 4
union                           the value alone where no two members have a form in common; otherwise an array
                                ``[index, value]``. The index counts the members as they stand in the schema
==============================  ==================================================================================

The forms that decide on a union's tag are nil, bool, integer (extension 1 included), float, str, bin (segments
included), array, map, extension 2, extension 4; a literal has those of its values, what stands around another type
those of that type, Any all that it can be.

What a receiver refuses although it is of the type, as it would cost far more than its bytes: ints of more than 4096
bits in a range or a Fraction; more than 128 elements of a set, or keys of a mapping, that have the same hash in Python;
more than 1000 ints beyond 64 bits that have the same one, anywhere in a payload.

**Extensions.** All numbers are big-endian.

====  ===============================================================================================================
1     int: two's complement, any number of bytes, at least 1
2     datetime: year u16, month u8, day u8, hour u8, minute u8, second u8, fold u8, microsecond u32 (12 bytes), of the
      wall clock; followed, where it has an offset from UTC, by that offset in microseconds i64 (20 bytes); and
      that, where its time zone is one of ``zoneinfo``, by the name of the zone, UTF-8 to the end
3     segment: the index u32 of a segment of the frame, whose bytes are the value. Each segment is used exactly once
4     callback or stream: the number u16 of what goes with the call, a function that stays with the caller or a stream
      of the caller's items: 0, 1, 2, ... in the order of packing, both together. Each is used at most once
====  ===============================================================================================================
"""

# Importing the modules of coders registers them.
from typedrpc.codec import anything, buffers, callbacks, containers, records, scalars, streams, unions, wrapped  # noqa: F401
from typedrpc.codec.body import MAX_CALLBACKS, MAX_SEGMENTS, SEGMENT_THRESHOLD, CodecError, Payload, Received, Segmented
from typedrpc.codec.command import CallbackCodec, CommandCodec, CompanionCodec, Make
from typedrpc.codec.plain import pack_plain, unpack_plain
from typedrpc.codec.raised import ErrorCodec
from typedrpc.codec.streams import StreamCodec
from typedrpc.schema import Conversion, Record, RecordField, Refused, Shape, register, register_finder

__all__ = [
    "MAX_CALLBACKS",
    "MAX_SEGMENTS",
    "SEGMENT_THRESHOLD",
    "CallbackCodec",
    "CodecError",
    "CommandCodec",
    "CompanionCodec",
    "Conversion",
    "ErrorCodec",
    "Make",
    "Payload",
    "Received",
    "Record",
    "RecordField",
    "Refused",
    "Segmented",
    "Shape",
    "StreamCodec",
    "pack_plain",
    "register",
    "register_finder",
    "unpack_plain",
]
