/* setting: a configuration of a tower as a table of named settings, for who fills it from outside.
 */
#ifndef RC_SETTING_H
#define RC_SETTING_H

#include <stddef.h>

/* A setting of a configuration by its name, and where it lies there. A list has up to RC_STAGES_MAX
 * integers, and their number at `count`. */
typedef enum {
    RC_SETTING_INT,
    RC_SETTING_BOOL,
    RC_SETTING_DOUBLE,
    RC_SETTING_LIST
} rc_setting_kind;

typedef struct {
    const char *name; /* NULL ends a table */
    rc_setting_kind kind;
    size_t at, count;
} rc_setting;

#define RC_SETTING(config, kind, field) {#field, RC_SETTING_##kind, offsetof(config, field), 0}
#define RC_SETTING_OF(config, field, n)                                                            \
    {#field, RC_SETTING_LIST, offsetof(config, field), offsetof(config, n)}

#endif
