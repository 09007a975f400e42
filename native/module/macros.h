/* Guards: leave a function with the first CK_RV that is not CKR_OK. */
#ifndef HSMSIM_MACROS_H
#define HSMSIM_MACROS_H

#define CKR_TRY(expression)           \
    do {                              \
        CK_RV try_rv_ = (expression); \
        if (try_rv_ != CKR_OK) {      \
            return try_rv_;           \
        }                             \
    } while (0)

#define CKR_REQUIRE(condition, rv) \
    do {                           \
        if (!(condition)) {        \
            return (rv);           \
        }                          \
    } while (0)

#endif
