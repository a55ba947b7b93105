/* params: the table of parameters: names, shapes, where values and gradients lie. */
#ifndef RC_PARAMS_H
#define RC_PARAMS_H

#include "product/packed.h"

enum { RC_NAME_MAX = 112, RC_STAGES_MAX = 8 };

typedef enum {
    RC_WEIGHT, /* a matrix or table: weight decay applies */
    RC_BIAS,   /* a vector, a scalar, a table of biases: no decay */
    RC_BUFFER, /* a statistic: no gradient */
} rc_kind;

/* Whether a parameter is the weight of a product, and then in which types it may be packed. */
typedef enum { RC_PACK_NO, RC_PACK_F32, RC_PACK_ANY } rc_packing;

typedef struct {
    char name[RC_NAME_MAX];
    rc_kind kind;
    int rank;
    int64_t size[4], count;
    float *x;          /* bound memory, not owned; NULL once packed */
    float *dx;         /* gradient; NULL outside training, and where it is frozen */
    rc_packed *packed; /* a linear weight in oneDNN's layout, NULL while training */
    rc_packed *behind; /* outputs from `cut` on, which are packed apart; NULL where cut is 0 */
    rc_packed *low[2], *back[2]; /* low.h */
    int64_t cut;
    rc_packing packing;
    bool variance;   /* a statistic that cannot be negative */
    int64_t adapter; /* of a linear weight: the parameter A of its adapter, B is next; 0: none */
    float scale;     /* of that */
} rc_param;

/* Parameters in the order of declaration; towers keep indices into it. */
typedef struct {
    rc_param *item;
    int64_t count, capacity;
    rc_status status; /* first failure while declaring, reported once at the end */
    uint64_t layout;  /* of where they lie: no two in a process are equal */
} rc_params;

/* To be called where x, dx or packed of some have changed: plans that know the old ones are then
 * not used again. */
void rc_params_moved(rc_params *p);

/* Index of a new parameter. */
int64_t rc_params_add(rc_params *p, rc_kind kind, int rank, const int64_t *size, const char *format,
                      ...) __attribute__((format(printf, 5, 6)));
void rc_params_free(rc_params *p);
void rc_param_packs(rc_params *p, int64_t i, rc_packing packing);

/* Pack the first `cut` outputs and the rest apart, so that products can have either alone. */
void rc_param_cut(rc_params *p, int64_t i, int64_t cut);

/* Nothing where it may not be, or is already; RC_EINVAL where it is in another type. x stays. */
rc_status rc_param_pack(rc_param *p, rc_dnn *dnn, rc_type type);
void rc_param_unpack(rc_param *p); /* free what is packed */

/* RC_EINVAL, naming it, where its values (count) are not all finite, or variances negative. */
rc_status rc_param_check(const rc_param *p, const float *x);

/* Copy the values of a parameter, packed or not. */
rc_status rc_param_read(float *out, rc_dnn *dnn, const rc_param *p);

bool rc_param_is_linear(const rc_param *p); /* the weight of a linear layer, (out, in) */

/* Declare its adapter (layers/adapter.h), A (rank, in) and B (out, rank), of scale alpha / rank.
 * RC_EINVAL for another parameter, or a rank or alpha out of range. */
rc_status rc_params_adapt(rc_params *p, int64_t i, int64_t rank, double alpha);

/* Whether any of parameters from..to-1 or of their adapters learns: has a gradient. */
bool rc_params_learn(const rc_params *p, int64_t from, int64_t to);

/* Weight and bias indices; -1 for an absent bias. */
typedef struct {
    int64_t w, b;
} rc_pair;

/* Declare prefix + name + ".weight" and ".bias": a layer norm of c, an RMS norm, which has no bias,
 * or a linear layer c -> n. */
rc_pair rc_declare_norm(rc_params *p, int64_t c, const char *prefix, const char *name);
rc_pair rc_declare_rms_norm(rc_params *p, int64_t c, const char *prefix, const char *name);
rc_pair rc_declare_linear(rc_params *p, int64_t n, int64_t c, bool bias, const char *prefix,
                          const char *name);

/* RC_EINVAL names the setting that is out of its range. */
rc_status rc_check_range(const char *name, int64_t value, int64_t least, int64_t most);
rc_status rc_check_eps(const char *name, double eps); /* what norms add to a variance */

/* A batch norm: scale and bias, running mean and variance. */
typedef struct {
    rc_pair scale;
    int64_t mean, var;
} rc_batch_norm;

/* Whether it takes the statistics of the batch in training: not where its own are frozen. */
bool rc_batch_norm_learns(const rc_params *p, const rc_batch_norm *norm);

rc_batch_norm rc_declare_batch_norm(rc_params *p, int64_t c, const char *prefix, const char *name);

#endif
