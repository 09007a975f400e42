/* CK_ATTRIBUTE arrays to wire templates and back. */
#ifndef HSMSIM_ATTRIBUTES_H
#define HSMSIM_ATTRIBUTES_H

#include "messages.h"
#include "pkcs11.h"

/* The room that a template takes on the wire at most; CKR_ARGUMENTS_BAD, CKR_TEMPLATE_INCONSISTENT (too many),
 * CKR_ATTRIBUTE_VALUE_INVALID (too long, wrong size for its kind). */
CK_RV attributes_room(const CK_ATTRIBUTE *template, CK_ULONG count, size_t *room);
/* As a field of a request: u32 count and the attributes. attributes_room was asked before. */
CK_RV attributes_put(struct wire_writer *writer, const CK_ATTRIBUTE *template, CK_ULONG count);
/* C_GetAttributeValue's rules: what the HSM answered goes into the caller's template, all of it, whatever is wrong with
 * one (PKCS #11 2.40 5.7.5). `rv`: the HSM's. */
CK_RV attributes_fill(const struct wire_template *answer, CK_ATTRIBUTE *template, CK_ULONG count, CK_RV rv);

#endif
