/* Looks for byte strings in a file or in another process's memory.
 *
 *   search NEEDLES pid:PID        every readable mapping, through /proc/PID/mem
 *   search NEEDLES FILE           a core dump, say
 *
 * NEEDLES is a file of records: length (1 byte, at least 2), then that many bytes. Prints
 *
 *   hit INDEX MAPPING             once for each needle and mapping that holds it
 *   read BYTES MAPPINGS
 *   unread BYTES NAMES            mappings that are marked readable and are not
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 1 << 22, LONGEST = 255, MOST = 4096 };

static struct { const unsigned char *bytes; int length, next, seen; } needles[MOST];
static int count, heads[1 << 16]; /* needles by their first two bytes; index + 1 */
static unsigned char buffer[CHUNK + LONGEST];

static void die(const char *what) {
    fprintf(stderr, "search: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void load(const char *path) {
    static unsigned char text[MOST * (LONGEST + 1)];
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    size_t size = fread(text, 1, sizeof text, file);
    fclose(file);
    for (size_t at = 0; at < size && count < MOST; count++) {
        int length = text[at];
        if (length < 2 || at + 1 + length > size) { errno = EINVAL; die(path); }
        needles[count].bytes = text + at + 1;
        needles[count].length = length;
        int head = text[at + 1] << 8 | text[at + 2];
        needles[count].next = heads[head];
        heads[head] = count + 1;
        at += 1 + length;
    }
}

/* Looks at every offset before `until`; a needle may reach beyond it, up to `size`. */
static void look(size_t until, size_t size, const char *name) {
    for (size_t at = 0; at < until && at + 1 < size; at++) {
        int found = heads[buffer[at] << 8 | buffer[at + 1]];
        for (; found; found = needles[found - 1].next) {
            int i = found - 1;
            if (needles[i].seen || at + needles[i].length > size) continue;
            if (memcmp(buffer + at, needles[i].bytes, needles[i].length)) continue;
            needles[i].seen = 1;
            printf("hit %d %s\n", i, name);
        }
    }
}

/* Returns the number of bytes that could be read. */
static uint64_t range(int fd, uint64_t start, uint64_t end, const char *name) {
    size_t kept = 0;
    uint64_t at = start;
    for (int i = 0; i < count; i++) needles[i].seen = 0;
    while (at < end) {
        size_t want = end - at < CHUNK ? end - at : CHUNK;
        ssize_t got = pread(fd, buffer + kept, want, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        at += got;
        size_t size = kept + got;
        /* What is too near the end is looked at again with what follows it. */
        size_t until = at < end && size > LONGEST ? size - LONGEST : at < end ? 0 : size;
        look(until, size, name);
        kept = size - until;
        memmove(buffer, buffer + until, kept);
    }
    if (at < end && kept) look(kept, kept, name);
    return at - start;
}

int main(int argc, char **argv) {
    uint64_t bytes = 0, unread = 0;
    unsigned mappings = 0;
    char missing[4096] = "";
    if (argc != 3) { fprintf(stderr, "usage: search NEEDLES pid:PID|FILE\n"); return 2; }
    load(argv[1]);
    if (strncmp(argv[2], "pid:", 4)) {
        int fd = open(argv[2], O_RDONLY);
        if (fd < 0) die(argv[2]);
        bytes = range(fd, 0, lseek(fd, 0, SEEK_END), "file");
        mappings = 1;
    } else {
        char path[64], line[8192];
        snprintf(path, sizeof path, "/proc/%s/mem", argv[2] + 4);
        int fd = open(path, O_RDONLY);
        if (fd < 0) die(path);
        snprintf(path, sizeof path, "/proc/%s/maps", argv[2] + 4);
        FILE *maps = fopen(path, "r");
        if (!maps) die(path);
        /* All of it first: the process goes on, and the list with it. */
        static struct { uint64_t start, end; char name[128]; } list[65536];
        size_t listed = 0;
        while (listed < 65536 && fgets(line, sizeof line, maps)) {
            char mode[8];
            int named = 0;
            if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %n", &list[listed].start, &list[listed].end,
                       mode, &named) < 3 || mode[0] != 'r') continue;
            line[strcspn(line, "\n")] = 0;
            snprintf(list[listed].name, sizeof list[listed].name, "%.127s",
                     named && line[named] ? line + named : "[anonymous]");
            listed++;
        }
        for (size_t i = 0; i < listed; i++) {
            uint64_t got = range(fd, list[i].start, list[i].end, list[i].name);
            bytes += got;
            mappings += got > 0;
            if (got < list[i].end - list[i].start) {
                unread += list[i].end - list[i].start - got;
                if (strlen(missing) + strlen(list[i].name) + 2 < sizeof missing)
                    strcat(strcat(missing, " "), list[i].name);
            }
        }
    }
    printf("read %lu %u\nunread %lu%s\n", bytes, mappings, unread, missing);
    return 0;
}
