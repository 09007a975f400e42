/* A hostile client's ring beside an honest one's: the input is what the hostile one does to its shared memory, between and
 * while its requests are taken and answered. Whatever that is, the honest client's next signature is the right one.
 *
 * An input is a list of commands, one byte each with what follows it: see enum command. */
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dispatch.h"
#include "fuzz.h"
#include "pkcs11.h"
#include "rings.h"

enum command {
    WRITE,     /* u16 offset, u8 length, bytes: anywhere in the segment */
    WAITING,   /* u32: bits set */
    STATE,     /* u8 slot, u8 state */
    PROCESSOR, /* u8 */
    SIGN,      /* u8 slot, u8 length, data: a request as it should be, and its bit */
    TAKE,      /* what waits is taken ... */
    ANSWER,    /* ... and answered */
    FIRMWARE,  /* what Python would answer, is */
    COMMANDS,
};
enum { KEY = 100, USER = 7, MAC = 32, SLOTS = RING_SLOTS };

static struct masking *masking;
static struct rights *rights;
static struct queue *queue;
static struct rings *rings;
static struct dispatch shared;
static struct executor executor;
static struct ring_watch watch;
static uint8_t expected[MAC];

struct side {
    struct client *client;
    struct ring *ring;
    struct ring_segment *segment;
};
static struct side hostile, honest;

/* ---- the HSM ------------------------------------------------------------------------------------------------------- */

static void load_key(void)
{
    const uint8_t size[4] = {32};
    const uint64_t user = USER;
    uint8_t masked[256];
    size_t len = sizeof masked;
    struct key_object *object;
    FUZZ_CHECK(material_generate(masking, CKK_GENERIC_SECRET, size, sizeof size, masked, &len) == CKR_OK);
    const he_key key = {.handle = KEY, .partition = 1, .usage = 12, .flags = HE_KEY_PRIVATE, .users = &user, .user_count = 1,
                        .material = {CKO_SECRET_KEY, CKK_GENERIC_SECRET, masked, len}};
    FUZZ_CHECK(key_object_open(masking, &key.material, &object) == CKR_OK && rights_key_load(rights, &key, object) == CKR_OK);
}

static struct client *new_client(void)
{
    const uint64_t session = 1;
    struct client *client = rights_client_add(rights);
    FUZZ_CHECK(client != NULL && rights_client_bind(rights, client->id, 1) == CKR_OK && rights_client_user(rights, client->id, USER, 2) == CKR_OK);
    FUZZ_CHECK(rights_sessions_open(rights, client->id, &session, 1) == CKR_OK);
    return client;
}

static void open_side(struct side *side)
{
    const struct ring_owner nobody = {0};
    int fds[RING_FDS];
    FUZZ_CHECK(ring_open(rings, &nobody, side->client, SLOTS, &side->ring, fds) == CKR_OK);
    side->segment = mmap(NULL, ring_size(SLOTS), PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    FUZZ_CHECK(side->segment != MAP_FAILED);
    close(fds[0]);
}

static void close_side(struct side *side)
{
    ring_close(side->ring);
    munmap(side->segment, ring_size(SLOTS));
    side->ring = NULL;
}

/* ---- what a worker does, one step at a time --------------------------------------------------------------------------- */

static struct ring_request taken[RING_BATCH];
static uint32_t taken_count;

static void take(void)
{
    if (taken_count == 0) {
        taken_count = rings_take(rings, &watch, taken);
    }
}

static void run(const struct ring_request *one)
{
    const struct request request = {.sink = {.ring = one->ring, .slot = one->slot}, .client = ring_client(one->ring),
                                    .header = one->header, .payload = one->payload, .room = RING_FRAME};
    size_t len;
    enum outcome outcome = one->sound ? dispatch(&shared, &executor, &request, &len) : REFUSED;
    struct ring_wakes wakes = {0};
    if (outcome == ANSWERED) {
        ring_answer(one->ring, one->slot, executor.frame, len, &wakes);
        ring_wake_all(&wakes);
    }
    FUZZ_CHECK(outcome != REFUSED || one->ring != honest.ring);
    if (outcome == REFUSED && one->ring == hostile.ring) {
        close_side(&hostile);
        open_side(&hostile);
    }
}

static void answer(void)
{
    for (uint32_t i = 0; i < taken_count; i++) {
        run(&taken[i]);
        ring_release(taken[i].ring);
    }
    taken_count = 0;
}

static void firmware(void)
{
    bool stopped;
    uint8_t frame[WIRE_HEADER_SIZE];
    for (struct held *held; (held = queue_next(queue, 0, &stopped)) != NULL;) {
        queue_take(queue, held->id);
        size_t len = dispatch_seal(&shared, &held->header, CKR_KEY_HANDLE_INVALID, frame, 0, RING_FRAME);
        struct ring_wakes wakes = {0};
        ring_answer(held->sink.ring, held->sink.slot, frame, len, &wakes);
        ring_wake_all(&wakes);
        ring_release(held->sink.ring);
        rights_client_release(rights, held->client);
        held_free(held);
    }
}

/* ---- clients --------------------------------------------------------------------------------------------------------------- */

static void put_sign(struct side *side, uint32_t slot, struct wire_bytes data)
{
    uint8_t *frame = side->segment->slots[slot].frame;
    struct wire_writer writer = wire_writer(frame + WIRE_HEADER_SIZE, RING_FRAME - WIRE_HEADER_SIZE);
    const struct wire_sign_request request = {.key = KEY, .mechanism = {.type = CKM_SHA256_HMAC}, .data = data};
    FUZZ_CHECK(wire_put_sign_request(&writer, &request) == WIRE_OK);
    const struct wire_header header = {.length = (uint32_t)writer.len, .op = WIRE_OP_SIGN, .seq = 9, .word = 1};
    wire_set_header(frame, &header);
    atomic_store(&side->segment->slots[slot].state, RING_REQUEST);
    atomic_fetch_or(&side->segment->waiting, 1u << slot);
}

static void honest_sign(uint8_t mac[MAC])
{
    struct wire_header header;
    const struct ring_slot *slot = &honest.segment->slots[3];
    put_sign(&honest, 3, wire_bytes("honest", 6));
    for (int i = 0; i < 64 && atomic_load(&slot->state) != RING_ANSWER; i++) {
        take();
        answer();
    }
    FUZZ_CHECK(atomic_load(&slot->state) == RING_ANSWER && wire_get_header(slot->frame, &header) == WIRE_OK);
    FUZZ_CHECK(header.seq == 9 && header.word == CKR_OK && header.length == 4 + MAC);
    memcpy(mac, slot->frame + WIRE_HEADER_SIZE + 4, MAC);
}

static void obey(struct wire_reader *input)
{
    switch ((enum command)(fuzz_number(input, 1) % COMMANDS)) {
    case WRITE: {
        size_t offset = fuzz_number(input, 2), len = fuzz_number(input, 1);
        struct wire_bytes data = fuzz_bytes(input, len);
        if (offset + data.len <= ring_size(SLOTS)) {
            wire_copy((uint8_t *)hostile.segment + offset, data);
        }
        break;
    }
    case WAITING: atomic_fetch_or(&hostile.segment->waiting, (uint32_t)fuzz_number(input, 4)); break;
    case STATE: {
        uint32_t slot = (uint32_t)fuzz_number(input, 1) % SLOTS;
        atomic_store(&hostile.segment->slots[slot].state, (uint32_t)fuzz_number(input, 1));
        break;
    }
    case PROCESSOR: atomic_store(&hostile.segment->processor, (uint32_t)fuzz_number(input, 1)); break;
    case SIGN: {
        uint32_t slot = (uint32_t)fuzz_number(input, 1) % SLOTS;
        size_t len = fuzz_number(input, 1);
        put_sign(&hostile, slot, fuzz_bytes(input, len));
        break;
    }
    case TAKE: take(); break;
    case ANSWER: answer(); break;
    case FIRMWARE: firmware(); break;
    case COMMANDS: break;
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static _Atomic uint64_t serve_until = UINT64_MAX, epoch = 1;
    (void)argc;
    (void)argv;
    masking = masking_new();
    rights = rights_new(0);
    queue = queue_new();
    rings = rings_new(rights, 1, epoll_create1(EPOLL_CLOEXEC), 0);
    FUZZ_CHECK(masking != NULL && rights != NULL && queue != NULL && rings != NULL);
    FUZZ_CHECK(masking_create(masking) == CKR_OK && executor_init(&executor));
    shared = (struct dispatch){.rights = rights, .queue = queue, .serve_until = &serve_until, .epoch = &epoch};
    load_key();
    void *secret = OPENSSL_secure_malloc(16);
    fuzz_scan_mapping_of(secret);
    OPENSSL_secure_free(secret);
    hostile.client = new_client();
    honest.client = new_client();
    open_side(&hostile);
    open_side(&honest);
    honest_sign(expected);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_reader input = wire_reader(data, size);
    for (int i = 0; i < 64 && wire_left(&input) != 0; i++) {
        obey(&input);
    }
    uint8_t mac[MAC];
    answer();
    firmware();
    honest_sign(mac);
    FUZZ_CHECK(memcmp(mac, expected, MAC) == 0);
    return 0;
}
