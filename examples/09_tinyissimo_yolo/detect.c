#include "detect.h"

enum { GRID = 4, BOXES = 2, KINDS = 3, CELL = 5 * BOXES + KINDS, SPAN = 352, SIDE = GRID * SPAN };

static int32_t clamp(int32_t v, int32_t lo, int32_t hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

static int32_t scaled(int32_t v, int32_t factor)
{
    return (int32_t)(((int64_t)v * factor) >> 16);
}

static int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static int32_t area(const detect_box *a)
{
    return (a->x1 - a->x0) * (a->y1 - a->y0);
}

/* Whether the boxes share more than 45 parts in 100 of what both cover. */
static int overlaps(const detect_box *a, const detect_box *b)
{
    const int32_t w = smaller(a->x1, b->x1) - larger(a->x0, b->x0);
    const int32_t h = smaller(a->y1, b->y1) - larger(a->y0, b->y0);
    const int32_t shared = w > 0 && h > 0 ? w * h : 0;
    return 100 * shared > 45 * (area(a) + area(b) - shared);
}

/* The box whose five codes are at `code`, in the cell at `row` and `column`. */
static detect_box corners(const int8_t *code, const detect_scale *scale, int32_t row, int32_t column)
{
    const int32_t x = column * SPAN + scaled(code[0] - scale->zero, scale->place);
    const int32_t y = row * SPAN + scaled(code[1] - scale->zero, scale->place);
    const int32_t u = larger(code[2] - scale->zero, 0), v = larger(code[3] - scale->zero, 0);
    const int32_t w = scaled(u * u, scale->size), h = scaled(v * v, scale->size);
    detect_box box;
    box.x0 = clamp(x - w / 2, 0, SIDE);
    box.y0 = clamp(y - h / 2, 0, SIDE);
    box.x1 = clamp(x + w / 2, 0, SIDE);
    box.y1 = clamp(y + h / 2, 0, SIDE);
    box.kind = 0;
    box.score = 0;
    return box;
}

int32_t detect(const int8_t cells[208], const detect_scale *scale, detect_box *boxes)
{
    int32_t found = 0, kept = 0;
    for (int32_t i = 0; i < GRID * GRID; ++i) {
        const int8_t *const cell = cells + i * CELL, *const kinds = cell + 5 * BOXES;
        int32_t kind = 0;
        for (int32_t k = 1; k < KINDS; ++k) {
            kind = kinds[k] > kinds[kind] ? k : kind;
        }
        for (int32_t b = 0; b < BOXES; ++b) {
            detect_box box = corners(cell + 5 * b, scale, i / GRID, i % GRID);
            box.kind = kind;
            box.score = larger(cell[5 * b + 4] - scale->zero, 0) * larger(kinds[kind] - scale->zero, 0);
            if (box.score < scale->least || area(&box) == 0) {
                continue;
            }
            int32_t at = found++;
            for (; at > 0 && boxes[at - 1].score < box.score; --at) {
                boxes[at] = boxes[at - 1];
            }
            boxes[at] = box;
        }
    }
    for (int32_t i = 0; i < found; ++i) {
        int alone = 1;
        for (int32_t j = 0; j < kept; ++j) {
            alone = alone && !(boxes[j].kind == boxes[i].kind && overlaps(&boxes[j], &boxes[i]));
        }
        if (alone) {
            boxes[kept++] = boxes[i];
        }
    }
    return kept;
}
