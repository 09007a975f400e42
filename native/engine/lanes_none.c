/* Where crypto_mb is not built in: every key goes alone. */
#include "lanes.h"

bool lanes_there(void)
{
    return false;
}

struct lane_room *lane_room_new(void)
{
    return NULL;
}

void lane_room_free(struct lane_room *room)
{
    (void)room;
}

struct lane_key lane_key_of(const struct key_object *key)
{
    (void)key;
    return (struct lane_key){.kind = LANE_NONE};
}

void lane_key_free(struct lane_key *key)
{
    (void)key;
}

void lanes_run(struct lane_room *room, enum lane_kind kind, struct lane *lanes, unsigned count)
{
    (void)room;
    (void)kind;
    for (unsigned i = 0; i < count; i++) {
        lanes[i].done = false;
    }
}

void lanes_begin_stack(enum lane_kind kind, unsigned place)
{
    (void)kind;
    (void)place;
}

bool lane_key_random(enum lane_kind kind, struct lane_key *out)
{
    (void)kind;
    *out = (struct lane_key){.kind = LANE_NONE};
    return false;
}

uint32_t lane_width(enum lane_kind kind)
{
    (void)kind;
    return 0;
}

bool lane_below_modulus(const struct lane_key *key, const uint8_t *number)
{
    (void)key;
    (void)number;
    return false;
}
