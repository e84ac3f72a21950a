from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ImageVerified(_message.Message):
    __slots__ = ("name", "digest", "mode", "why", "admitted", "verdicts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    mode: str
    why: str
    admitted: bool
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., mode: _Optional[str] = ..., why: _Optional[str] = ..., admitted: _Optional[bool] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("verifier", "accepted", "reason", "signer")
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    verifier: str
    accepted: bool
    reason: str
    signer: str
    def __init__(self, verifier: _Optional[str] = ..., accepted: _Optional[bool] = ..., reason: _Optional[str] = ..., signer: _Optional[str] = ...) -> None: ...
