"""From a caller's template to an object's attributes, by the rules of native/tables/attributes.toml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import ATTRIBUTES, CKA, CKK, CKO, CKR, Change, Kind, Operation, Presence, Profile, rule_for
from hsmsim.hsm.firmware import values
from hsmsim.hsm.wire import decode_template, encode_template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hsmsim.hsm.cryptoki import AttributeRule
    from hsmsim.hsm.firmware.values import Attributes, Value


def class_and_type(
    given: Attributes, *, default_class: CKO | None = None, default_type: CKK | None = None
) -> tuple[CKO, CKK | None]:
    """CKA_CLASS and CKA_KEY_TYPE of a template; what the mechanism implies may be left out, not contradicted."""
    raw_class = given.get(CKA.CLASS, default_class)
    if raw_class is None:
        raise CkrError(CKR.TEMPLATE_INCOMPLETE, "the template has no CKA_CLASS")
    if default_class is not None and raw_class != default_class:
        raise CkrError(CKR.TEMPLATE_INCONSISTENT, "CKA_CLASS is not what the mechanism makes")
    try:
        object_class = CKO(int(raw_class))
    except ValueError:
        raise CkrError(CKR.ATTRIBUTE_VALUE_INVALID, f"CKA_CLASS 0x{int(raw_class):X} is unknown") from None
    if object_class not in (CKO.SECRET_KEY, CKO.PRIVATE_KEY, CKO.PUBLIC_KEY):
        return object_class, None
    raw_type = given.get(CKA.KEY_TYPE, default_type)
    if raw_type is None:
        raise CkrError(CKR.TEMPLATE_INCOMPLETE, "the template has no CKA_KEY_TYPE")
    if default_type is not None and raw_type != default_type:
        raise CkrError(CKR.TEMPLATE_INCONSISTENT, "CKA_KEY_TYPE is not what the mechanism makes")
    try:
        return object_class, CKK(int(raw_type))
    except ValueError:
        raise CkrError(CKR.ATTRIBUTE_VALUE_INVALID, f"CKA_KEY_TYPE 0x{int(raw_type):X} is unknown") from None


def rules(
    object_class: CKO, key_type: CKK | None, operation: Operation, profile: Profile
) -> Mapping[CKA, AttributeRule]:
    """The row of the table; CKR_TEMPLATE_INCONSISTENT where such an object cannot come to be this way."""
    row = rule_for(object_class, key_type, operation, profile)
    if not row:
        what = f"{object_class.name}{f' of type {key_type.name}' if key_type is not None else ''}"
        raise CkrError(CKR.TEMPLATE_INCONSISTENT, f"no {what} can be made by this operation ({operation.value})")
    return row


def check_given(row: Mapping[CKA, AttributeRule], given: Attributes, *, admin: bool = False) -> None:
    """Refuse what the rules do not let a template say; values that only the operation gives come later (settle)."""
    for name in given:
        rule = row.get(name)
        if rule is None:
            raise CkrError(CKR.ATTRIBUTE_TYPE_INVALID, f"such an object has no {name.name}")
        if rule.presence is Presence.FORBIDDEN:
            raise CkrError(CKR.TEMPLATE_INCONSISTENT, f"{name.name} is not for this operation's template")
        if rule.presence is Presence.COMPUTED:
            raise CkrError(CKR.ATTRIBUTE_READ_ONLY, f"{name.name} is set by the HSM")
        if rule.presence is Presence.FIXED and given[name] != rule.default:
            raise CkrError(CKR.ATTRIBUTE_VALUE_INVALID, f"{name.name} can only be {rule.default!r}")
        if rule.presence is Presence.ADMIN and given[name] != rule.default and not admin:
            raise CkrError(CKR.ATTRIBUTE_READ_ONLY, f"{name.name} is the admin's to set")
    missing = [name.name for name, rule in row.items() if rule.presence is Presence.REQUIRED and name not in given]
    if missing:
        raise CkrError(CKR.TEMPLATE_INCOMPLETE, f"the template lacks {', '.join(missing)}")


_EMPTY: Final[dict[Kind, bool | int | bytes]] = {Kind.BOOL: False, Kind.ULONG: 0, Kind.TEMPLATE: encode_template(())}


def _default(name: CKA, rule: AttributeRule) -> Value:
    if rule.default is not None:
        return rule.default
    return _EMPTY.get(ATTRIBUTES[name].kind, b"")


def settle(row: Mapping[CKA, AttributeRule], given: Attributes, computed: Attributes) -> Attributes:
    """The object's attributes: what the operation computed, what the caller gave, the defaults. No key material."""
    made: Attributes = {}
    for name, rule in row.items():
        if ATTRIBUTES[name].secret and name not in computed:
            continue
        if name in computed:
            if name in given and rule.presence is Presence.MATCH and given[name] != computed[name]:
                raise CkrError(CKR.TEMPLATE_INCONSISTENT, f"{name.name} is not what came out")
            made[name] = computed[name]
        elif name in given:
            made[name] = given[name]
        elif rule.presence is not Presence.FORBIDDEN:
            made[name] = _default(name, rule)
    return made


def merge(wrapping: Attributes, name: CKA, given: Attributes) -> Attributes:
    """The caller's template with the wrapping key's CKA_UNWRAP_TEMPLATE (or DERIVE); a conflict is refused."""
    raw = wrapping.get(name, b"")
    extra = values.parse(decode_template(raw)) if isinstance(raw, bytes) and raw else {}
    for key, value in extra.items():
        if key in given and given[key] != value:
            raise CkrError(CKR.TEMPLATE_INCONSISTENT, f"{key.name} is set otherwise by the key's {name.name}")
    return given | extra


def check_change(row: Mapping[CKA, AttributeRule], old: Attributes, changes: Attributes, *, admin: bool) -> None:
    """C_SetAttributeValue and C_CopyObject: every change is one that the rules allow, or none is made."""
    for name, value in changes.items():
        rule = row.get(name)
        if rule is None:
            raise CkrError(CKR.ATTRIBUTE_TYPE_INVALID, f"such an object has no {name.name}")
        if rule.change is Change.ADMIN_ONLY:
            if not admin:
                raise CkrError(CKR.ATTRIBUTE_READ_ONLY, f"{name.name} is the admin's to set")
            continue
        if admin:
            raise CkrError(CKR.USER_NOT_LOGGED_IN, "an admin changes no key but for CKA_TRUSTED")
        allowed = (
            rule.change is Change.FREE
            or value == old.get(name)
            or (rule.change is Change.ONLY_TO_TRUE and value is True)
            or (rule.change is Change.ONLY_TO_FALSE and value is False)
        )
        if not allowed:
            raise CkrError(CKR.ATTRIBUTE_READ_ONLY, f"{name.name} cannot be changed so")
