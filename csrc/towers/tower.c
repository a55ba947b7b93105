/* The table of audio towers. */
#include "towers/tower.h"

#include "towers/cnn14.h"
#include "towers/htsat.h"

const rc_audio_kind *rc_audio_kind_of(int64_t kind)
{
    static const rc_audio_kind *const kinds[] = {&rc_htsat_kind, &rc_cnn14_kind};
    int64_t count = (int64_t)(sizeof kinds / sizeof *kinds);
    return kind < 0 || kind >= count ? NULL : kinds[kind];
}

rc_status rc_audio_check_training(const rc_audio_kind *kind, const rc_audio_shape *shape)
{
    if (kind->backward == NULL)
        return rc_fail(RC_EINVAL, "trainer: the audio tower %s cannot be trained yet", kind->name);
    if (shape->views > 1)
        return rc_fail(RC_EINVAL, "trainer: an audio tower with fusion cannot be trained yet");
    return RC_OK;
}
