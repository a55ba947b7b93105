/* The tables of towers. */
#include "towers/tower.h"

#include "towers/cnn14.h"
#include "towers/htsat.h"
#include "towers/text.h"
#include "towers/vit.h"

static const rc_tower_kind *const AUDIO[] = {&rc_htsat_kind, &rc_cnn14_kind, &rc_vit_kind};
static const rc_tower_kind *const TEXT[] = {&rc_text_kind};

static const rc_tower_kind *kind_of(const rc_tower_kind *const *kinds, size_t bytes, int64_t kind)
{
    return kind < 0 || kind >= (int64_t)(bytes / sizeof *kinds) ? NULL : kinds[kind];
}

const rc_tower_kind *rc_audio_kind_of(int64_t kind)
{
    return kind_of(AUDIO, sizeof AUDIO, kind);
}

const rc_tower_kind *rc_text_kind_of(int64_t kind)
{
    return kind_of(TEXT, sizeof TEXT, kind);
}

rc_status rc_tower_check_training(const rc_tower *t)
{
    if (t->kind->backward == NULL)
        return rc_fail(RC_EINVAL, "trainer: the tower %s cannot be trained yet", t->kind->name);
    return RC_OK;
}

rc_status rc_measure_log_mels(rc_input_size *size, const rc_tower_shape *shape, const void *tower,
                              const rc_input *in)
{
    (void)tower;
    *size = (rc_input_size){.b = in->b, .rows = in->frames};
    if (in->frames < shape->least || in->frames > shape->most)
        return rc_fail(RC_EINVAL, "mel: %lld frames, this audio tower takes %lld to %lld",
                       (long long)in->frames, (long long)shape->least, (long long)shape->most);
    if ((shape->views > 1) == (in->longer != NULL)) return RC_OK;
    return rc_fail(RC_EINVAL, shape->views > 1
                                  ? "longer: this audio tower has fusion and needs a flag a clip"
                                  : "longer: this audio tower has no fusion");
}
